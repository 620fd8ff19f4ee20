import math
import threading
from pathlib import Path
from typing import Any

import pytest

from kalshibook.errors import FeedError, SettingsError, StoreError
from kalshibook.feeds import Feed, FeedState, load_feed
from kalshibook.feeds.recording import RecordingFeed, RecordingOptions
from kalshibook.feeds.tape import RecordedFrame
from kalshibook.store import BookStore, Change, Condition, Outcome
from kalshibook.testing import FrameFactory, compare_all, fold
from tests.feeds.reading import TIMEOUT_S, reaches
from tests.feeds.tapes import line, record

FROG, NEWT = "KXFROG-T40", "KXNEWT-T41.5"


def frames(count: int = 10) -> list[bytes]:
    made = FrameFactory()
    found = [made.snapshot(FROG, yes=[(4_000, 100)]), made.snapshot(NEWT, no=[(100, 7)])]
    return found + [made.delta((FROG, NEWT)[number % 2], "yes", 4_000, 1) for number in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two markets of one connection."""
    made = frames()
    for ticker in (FROG, NEWT):
        lines = [line(1_000 + ms, frame) for ms, frame in enumerate(made) if ticker.encode() in frame]
        record(tmp_path, ticker, "2026-08-10", lines)
    return tmp_path


def options(folder: Path, **changes: Any) -> RecordingOptions:
    return RecordingOptions(**{"path": str(folder), "speed": "max", **changes})


def test_it_is_a_plug_in(folder: Path, store: BookStore) -> None:
    """It is found by its name and keeps to the protocol of feeds."""
    assert load_feed("recording") is RecordingFeed
    assert isinstance(RecordingFeed(store, options(folder)), Feed)


def test_books_are_those_of_the_recording(folder: Path, store: BookStore) -> None:
    """Played to the end, the store equals the reference, is ready, and counts its frames as offsets."""
    with RecordingFeed(store, options(folder)) as feed:
        assert feed.wait_finished(TIMEOUT_S)
        health = feed.health()
    assert [] == compare_all(store.cut(), fold(frames()))
    assert {0: 12} == dict(store.cut().offsets)
    assert store.ready
    assert (FeedState.STOPPED, "played to the end", 12, 0) == (
        health.state,
        health.reason,
        health.records,
        health.rejected,
    )
    assert {} == {kind: count for kind, count in store.statistics().incidents.items() if count}


@pytest.mark.parametrize("restamp", [True, False])
def test_the_time_of_receipt_is_now_or_as_recorded(folder: Path, store: BookStore, restamp: bool) -> None:
    """The exchange's own time is never touched."""
    with RecordingFeed(store, options(folder, restamp=restamp)) as feed:
        feed.wait_finished(TIMEOUT_S)
    stamps = store.cut()[FROG].stamps
    assert stamps is not None
    assert stamps.received_us is not None
    assert restamp == (stamps.received_us != 1_010_000)
    assert 1_790_000_000_011_000 == stamps.exchange_us


def test_readers_see_every_change(folder: Path, store: BookStore) -> None:
    """Changes are handed out in batches, none is left behind at the end."""
    with store.changes() as reader:
        with RecordingFeed(store, options(folder)) as feed:
            feed.wait_finished(TIMEOUT_S)
        seen = 0
        while (batch := reader.take_nowait()) is not None:
            seen += sum(isinstance(notice, Change) for notice in batch.changes)
    assert 12 == seen


def test_a_loop_goes_on_with_live_books(folder: Path, store: BookStore) -> None:
    """Each round is applied whole, as a new connection, until the feed is stopped."""
    with RecordingFeed(store, options(folder, loop=True)) as feed:
        reaches(store, lambda cut: cut.offsets.get(0, 0) >= 40)
        assert feed.stop(TIMEOUT_S)
        assert (FeedState.STOPPED, "stopped on request") == (feed.health().state, feed.health().reason)
    outcomes = {name: count for name, count in store.statistics().outcomes.items() if count}
    assert {Outcome.SNAPSHOT, Outcome.DELTA} == set(outcomes)
    assert outcomes[Outcome.SNAPSHOT] >= 6
    assert Condition.LIVE == store.cut()[FROG].condition


def test_a_stop_ends_a_long_pause(tmp_path: Path, store: BookStore) -> None:
    """A feed whose next frame is due in an hour ends at once, and is ready meanwhile."""
    made = FrameFactory()
    record(tmp_path, FROG, "2026-08-10", [line(ms, made.snapshot(FROG)) for ms in (0, 3_600_000)])
    feed = RecordingFeed(store, options(tmp_path, speed=1, max_pause_ms=3_600_000))
    feed.start()
    assert store.wait_ready(TIMEOUT_S)
    assert (FeedState.LIVE, True) == (feed.health().state, feed.health().ok)
    assert not feed.wait_finished(0)
    assert feed.stop(TIMEOUT_S)
    assert feed.wait_finished(0)
    assert {0: 1} == dict(store.cut().offsets)


def test_a_frame_that_cannot_be_read_makes_its_market_stale(tmp_path: Path, store: BookStore) -> None:
    """It is counted and an incident; the other frames are applied."""
    made = FrameFactory()
    bad = b'{"type":"orderbook_delta","sid":1,"seq":9,"msg":{"market_ticker":"KXFROG-T40","side":"maybe"}}'
    record(tmp_path, FROG, "2026-08-10", [line(1, made.snapshot(FROG)), line(2, bad)])
    record(tmp_path, NEWT, "2026-08-10", [line(3, made.snapshot(NEWT))])
    with RecordingFeed(store, options(tmp_path)) as feed:
        feed.wait_finished(TIMEOUT_S)
    assert (3, 1) == (feed.health().records, feed.health().rejected)
    assert (Condition.STALE, Condition.LIVE) == (store.cut()[FROG].condition, store.cut()[NEWT].condition)


def test_a_bad_line_ends_a_strict_feed(folder: Path, store: BookStore) -> None:
    """The failure names file and line, and the store is not ready any more."""
    with (folder / FROG / "2026-08-10.ndjson").open("a") as file:
        file.write("{oops\n")
    with RecordingFeed(store, options(folder)) as feed:
        with pytest.raises(FeedError, match=r"2026-08-10\.ndjson, line 7"):
            feed.wait_finished(TIMEOUT_S)
        assert FeedState.FAILED is feed.health().state
    assert not store.ready


def test_a_bad_line_can_be_counted_instead(folder: Path, store: BookStore) -> None:
    """A feed that is not strict plays the rest."""
    with (folder / FROG / "2026-08-10.ndjson").open("a") as file:
        file.write("{oops\n")
    with RecordingFeed(store, options(folder, strict=False)) as feed:
        feed.wait_finished(TIMEOUT_S)
    assert (12, 1) == (feed.health().records, feed.health().rejected)
    assert store.ready


def test_a_failure_of_the_observer_is_a_failure_of_the_feed(folder: Path, store: BookStore) -> None:
    """What raises on the feed's thread is shown, not swallowed."""

    def fail(frame: RecordedFrame) -> None:
        raise ZeroDivisionError(frame.received_ms)

    with (
        RecordingFeed(store, options(folder), on_frame=fail) as feed,
        pytest.raises(FeedError, match="ZeroDivisionError: 1000"),
    ):
        feed.wait_finished(TIMEOUT_S)


def test_without_frames_there_is_nothing_to_play(tmp_path: Path, store: BookStore) -> None:
    """A missing folder refuses the start; empty files end it, also in a loop."""
    with pytest.raises(FeedError, match="no such file or folder"):
        RecordingFeed(store, options(tmp_path / "nowhere")).start()
    record(tmp_path, FROG, "2026-08-10", [])
    with (
        RecordingFeed(store, options(tmp_path, loop=True)) as feed,
        pytest.raises(FeedError, match="no frame"),
    ):
        feed.wait_finished(TIMEOUT_S)


def test_a_feed_is_started_once(folder: Path, store: BookStore) -> None:
    """A second start, and a second writer of the store, are refused; a stop before a start is not."""
    assert RecordingFeed(store, options(folder)).stop()
    reached = threading.Event()
    with RecordingFeed(store, options(folder, loop=True), on_frame=lambda _: reached.set()) as feed:
        assert reached.wait(TIMEOUT_S)
        with pytest.raises(StoreError, match="started once"):
            feed.start()
        with pytest.raises(StoreError):
            RecordingFeed(store, options(folder)).start()
    with RecordingFeed(store, options(folder)) as feed:
        assert feed.wait_finished(TIMEOUT_S)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"path": ""}, "path"),
        ({"speed": "fast"}, "speed"),
        ({"max_pause_ms": -1}, "max_pause_ms"),
        ({"loop": True, "restamp": False}, "restamp"),
    ],
)
def test_options_that_cannot_work_are_refused(changes: dict[str, Any], found: str) -> None:
    """Each names its setting."""
    with pytest.raises(SettingsError, match=found):
        RecordingOptions(**{"path": "x", **changes})
    assert math.inf == RecordingOptions(path="x", speed="max").factor
