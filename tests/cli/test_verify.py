import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from kalshibook.cli.verify import Moments, verify
from kalshibook.feeds.tape import RecordedFrame
from kalshibook.simulator import GeneratorOptions, MarketGenerator
from kalshibook.store import Arrival, BookStore
from kalshibook.wire import decode_frame, read_frame

START_US = 1_790_000_000_000_000


def _frames(count: int = 600) -> list[RecordedFrame]:
    options = GeneratorOptions(markets=4, short_lived=0.0, seed=3)
    frames = itertools.islice(MarketGenerator(options, start_us=START_US).frames(), count)
    return [
        RecordedFrame(START_US // 1_000 + number, "c1", frame) for number, (_, frame) in enumerate(frames)
    ]


def _applied(store: BookStore, frames: Iterable[RecordedFrame]) -> None:
    with store.writer() as writer:
        for offset, recorded in enumerate(frames):
            frame = decode_frame(recorded.frame)
            numbers = getattr(frame, "sid", None), getattr(frame, "seq", None), None
            arrival = Arrival("demo", recorded.connection, *numbers, None, None, None, None, 0, offset)
            writer.apply(read_frame(frame), arrival)
        writer.commit()


def _last_delta(frames: list[RecordedFrame]) -> int:
    return max(place for place, recorded in enumerate(frames) if b'"orderbook_delta"' in recorded.frame)


def _changed(frames: list[RecordedFrame], **message: Any) -> list[RecordedFrame]:
    """Change fields of the last delta."""
    place = _last_delta(frames)
    frame = json.loads(frames[place].frame)
    frame["msg"] |= message
    changed = RecordedFrame(0, frames[place].connection, json.dumps(frame).encode())
    return [*frames[:place], changed, *frames[place + 1 :]]


def test_equal_at_random_moments_and_at_the_end() -> None:
    """Cuts taken while frames pass are those of a fold up to each book's own number."""
    frames, store = _frames(), BookStore()
    moments = Moments(store, 10, seed=1)

    _applied(store, moments.among(frames))
    verdict = verify(frames, moments.cuts, store.cut(), complete=True)

    assert verdict.differences == []
    assert len(moments.cuts) == 10
    assert verdict.books == sum(
        book.sequence is not None for cut in (*moments.cuts, store.cut()) for book in cut.books()
    )
    assert verdict.books > 30


def test_moments_are_spread_and_bounded() -> None:
    """However long the playing, there are as many cuts as asked for, from all over it."""
    store = BookStore()
    frame = RecordedFrame(0, "c1", b"")

    def passing() -> Iterator[RecordedFrame]:
        with store.writer() as writer:
            for offset in range(5_000):
                writer.skip(0, offset + 1)
                yield frame

    moments = Moments(store, 10, seed=1)
    passed = sum(1 for _ in moments.among(passing()))

    versions = [cut.version for cut in moments.cuts]
    assert passed == 5_000
    assert len(set(versions)) == 10
    assert min(versions) < 2_000
    assert max(versions) > 3_000


def test_one_wrong_size_is_found() -> None:
    """A store that differs in a single level is caught, with the market, the side and the price."""
    frames, store = _frames(), BookStore()
    _applied(store, _changed(frames, delta_fp="12345.00"))

    verdict = verify(frames, [], store.cut(), complete=True)

    assert len(verdict.differences) in {1, 2}  # the level, and the best price if it is that
    assert json.loads(frames[_last_delta(frames)].frame)["msg"]["market_ticker"] in verdict.differences[0]


def test_a_lost_end_is_found() -> None:
    """A store that is consistent, but not at the recording's end, is behind."""
    frames, store = _frames(), BookStore()
    _applied(store, frames[: _last_delta(frames)])

    assert verify(frames, [], store.cut(), complete=False).differences == []
    [difference] = verify(frames, [], store.cut(), complete=True).differences
    assert "expected" in difference


def test_what_was_never_recorded_is_found() -> None:
    """A store that applied more than the recording has is told, with the place."""
    frames, store = _frames(), BookStore()
    _applied(store, frames)

    differences = verify(frames[: _last_delta(frames)], [], store.cut(), complete=False).differences

    assert ["is not in the recording" in line for line in differences] == [True]


def test_doubt_and_absence_are_differences() -> None:
    """A stale book differs even if its levels agree, and so does a missing one."""
    frames, store = _frames(), BookStore()
    _applied(store, frames)
    ticker = store.cut().tickers()[0]
    with store.writer() as writer:
        writer.doubt(ticker, "a gap")

    assert verify(frames, [], store.cut(), complete=True).differences == [f"{ticker} is stale: a gap"]
    missing = verify(frames, [], BookStore().cut(), complete=True).differences
    assert len(missing) == 4
    assert all(line.endswith("is missing at the end") for line in missing)


@pytest.mark.parametrize("complete", [True, False])
def test_a_recording_that_contradicts_itself_is_told(*, complete: bool) -> None:
    """A change that takes away more than rests is a difference, not a crash of the comparison."""
    frames, store = _frames(), BookStore()
    changed = _changed(frames, delta_fp="-99999999.00")
    _applied(store, changed)

    differences = verify(changed, [], store.cut(), complete=complete).differences

    assert any("contradicts itself" in line for line in differences)
    assert any("is stale" in line for line in differences)
