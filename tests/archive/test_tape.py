"""An archive played as frames makes the books that were."""

from pathlib import Path

import pytest

from kalshibook.archive.export import Exporter
from kalshibook.archive.reading import open_archive
from kalshibook.archive.tape import ArchiveTape
from kalshibook.archive.targets import Folder
from kalshibook.errors import FeedError
from kalshibook.feeds import RecordingFeed
from kalshibook.feeds.recording import RecordingOptions
from kalshibook.store import BookStore
from kalshibook.testing.reference import fold
from kalshibook.wire import decode_head
from tests.archive.gathered import MakeArchive, trade
from tests.archive.rebuilding import gathered
from tests.archive.scenario import START_US, Scenario, sides

NO_LOSS = Scenario(12, frames=500, loss=0, cuts=0)
END_US = NO_LOSS.end_us + 1_000


@pytest.mark.parametrize("part", [(0, 1), (2, 4), (3, 4)], ids=["all", "half", "end"])
def test_played_books_are_those_that_were(
    new_archive: MakeArchive, tmp_path: Path, part: tuple[int, int]
) -> None:
    """From a database or from files, from any begin: the last books of the playing are the exchange's."""
    sources, production = gathered(NO_LOSS, new_archive)
    Exporter(production, Folder(tmp_path), settle_s=0).run()
    from_us = START_US + (END_US - START_US) * part[0] // part[1] // 1_000 * 1_000

    for address in (production, sources["c"], str(tmp_path)):
        with open_archive(address) as archive:
            tape = ArchiveTape(archive, from_us, END_US)
            books = fold(frame.frame for frame in tape)

        # Of what is quiet in the stretch nothing is played.
        assert set(tape.markets) <= set(NO_LOSS.tickers)
        assert len(tape.markets) >= 2
        for ticker in tape.markets:
            assert NO_LOSS.truth(ticker, END_US) == {
                side: books[ticker].levels(side) for side in ("yes", "no")
            }


def test_numbers_have_no_gap_and_times_do_not_fall(new_archive: MakeArchive) -> None:
    """Frames are those of one connection that lost nothing, in the order of the exchange's clock."""
    _, production = gathered(NO_LOSS, new_archive)
    with open_archive(production) as archive:
        frames = [*ArchiveTape(archive, START_US, END_US, run="r")]

    numbers = [decode_head(frame.frame).seq for frame in frames]
    times = [frame.received_ms for frame in frames]
    assert [*range(1, len(frames) + 1)] == numbers
    assert sorted(times) == times
    assert {"archive.r.1"} == {frame.connection for frame in frames}


def test_a_feed_plays_an_archive_into_a_store(new_archive: MakeArchive) -> None:
    """The store holds the last books, live, and every trade has come by."""
    sources, production = gathered(NO_LOSS, new_archive)
    del sources
    store = BookStore()
    with open_archive(production) as archive:
        tape = ArchiveTape(archive, START_US, END_US)
        options = RecordingOptions(path=production, speed="max")
        with RecordingFeed(store, options, tape=tape) as feed:
            assert feed.wait_finished(30)

    for ticker in NO_LOSS.tickers:
        assert NO_LOSS.truth(ticker, END_US) == sides(store.book(ticker))


def test_trades_come_in_between(new_archive: MakeArchive) -> None:
    """They have a subscription of their own, and stand where they happened."""
    at_us = START_US + 5_000_000
    scenario = Scenario(12, frames=300, loss=0, cuts=0, sources=("a", "b", "c"))
    scenario.rows.append(trade("a", 1, "t-1", at_us)._replace(ticker=scenario.tickers[0]))
    _, production = gathered(scenario, new_archive)
    with open_archive(production) as archive:
        frames = [*ArchiveTape(archive, START_US, END_US, scenario.tickers[:1])]

    (place,) = (number for number, frame in enumerate(frames) if b'"t-1"' in frame.frame)
    assert at_us // 1_000 == frames[place].received_ms
    assert 0 < place < len(frames) - 1


def test_a_time_of_which_nothing_is_known(new_archive: MakeArchive) -> None:
    """It is said at once, not played as nothing."""
    with open_archive(new_archive("production")) as archive, pytest.raises(FeedError, match="nothing"):
        ArchiveTape(archive, START_US, END_US)
