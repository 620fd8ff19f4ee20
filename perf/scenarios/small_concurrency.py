"""
One book, one writer, twenty reader threads: the smallest load that can show a torn read.

The writer applies ten batches of deltas that move one contract from the YES to the NO side and back,
so both sides of the book together always hold the same size. Readers take the book as fast as they can
and check exactly that: a reader that saw half an update, or two books' halves, would find another sum.
"""

import itertools
import threading
import time
from typing import Final

from kalshibook.store import Arrival, BookStore, StoreWriter
from kalshibook.wire import BookDelta, BookSnapshot, Side
from perf.context import Context
from perf.result import Check, Measurement, ScenarioResult

__all__ = ["run"]

_BATCHES: Final = 10
_READERS: Final = 20
_TICKER: Final = "KXPERF-26DEC01-T1"
_EACH: Final = 100_000_000  # more than a batch takes from one side
_STEP: Final = 100


class _Reader(threading.Thread):
    def __init__(self, store: BookStore, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._store, self._stop_asked = store, stop
        self.reads = self.torn = 0

    def run(self) -> None:
        while not self._stop_asked.is_set():
            cut = self._store.cut()
            book = cut[_TICKER]
            yes, no = book.yes.best, book.no.best
            # Every other step has added to one side what the next one takes from the other.
            expected = 2 * _EACH + (cut.version - 1) % 2 * _STEP
            if yes is None or no is None or yes.size + no.size != expected:
                self.torn += 1
            self.reads += 1


def run(context: Context) -> ScenarioResult:
    """Write ten batches while twenty threads read, and count what they saw."""
    writes = 2_000 if context.quick else 12_000
    store = BookStore()
    numbers = itertools.count(1)
    with store.writer() as writer:
        snapshot = BookSnapshot(_TICKER, ((4_000, _EACH),), ((5_000, _EACH),), None)
        writer.apply(snapshot, _arrival(next(numbers)))
    stop = threading.Event()
    readers = [_Reader(store, stop) for _ in range(_READERS)]
    for reader in readers:
        reader.start()
    started_s = time.perf_counter()
    try:
        for batch in range(_BATCHES):
            context.step(f"{_READERS} threads read, batch {batch + 1} of {_BATCHES}", batch / _BATCHES)
            with store.writer() as writer:
                _write(writer, batch, writes, numbers)
    finally:
        seconds = time.perf_counter() - started_s
        stop.set()
        for reader in readers:
            reader.join()
    reads, torn = sum(reader.reads for reader in readers), sum(reader.torn for reader in readers)
    lost = _BATCHES * writes + 1 - store.cut().version
    return ScenarioResult(
        name="small-concurrency",
        title=f"One book, one writer, {_READERS} reader threads that check every book they see.",
        conditions=(f"{_BATCHES} batches of {writes:,} updates, readers without a pause",),
        measurements=(
            Measurement("writes", _BATCHES * writes / seconds, "/s", "one thread, beside the readers"),
            Measurement("reads", reads / seconds, "/s", "all threads together"),
        ),
        checks=(
            Check("no torn read", torn == 0, f"{torn} of {reads:,}"),
            Check("no lost update", lost == 0, f"{lost} of {_BATCHES * writes:,}"),
        ),
    )


def _write(writer: StoreWriter, batch: int, writes: int, numbers: "itertools.count[int]") -> None:
    sides: tuple[tuple[Side, int], tuple[Side, int]] = (("yes", 4_000), ("no", 5_000))
    give, take = sides if batch % 2 else sides[::-1]
    for _ in range(writes // 2):
        for (side, price), change in ((give, _STEP), (take, -_STEP)):
            writer.apply(BookDelta(_TICKER, side, price, change, None), _arrival(next(numbers)))


def _arrival(number: int) -> Arrival:
    return Arrival("perf", "c1", 1, number, number - 1, None, None, None, None, 0, number - 1)
