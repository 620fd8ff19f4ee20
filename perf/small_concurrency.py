"""
One book, one writer, twenty reader threads: the smallest load that can show a torn read.

The writer applies ten batches of deltas that move one contract from the YES to the NO side and back,
so both sides of the book together always hold the same size. Readers take the book as fast as they can
and check exactly that: a reader that saw half an update, or two books' halves, would find another sum.
"""

import itertools
import threading
import time

import msgspec

from kalshibook.store import Arrival, BookStore
from kalshibook.wire import BookDelta, BookSnapshot

__all__ = ["SmallConcurrency", "run"]

BATCHES = 10
READERS = 20
TICKER = "KXPERF-26DEC01-T1"


class SmallConcurrency(msgspec.Struct, frozen=True):
    """What the run measured."""

    writes: int
    reads: int
    torn: int
    seconds: float

    @property
    def writes_per_s(self) -> float:
        """Updates applied and published a second."""
        return self.writes / self.seconds

    @property
    def reads_per_s(self) -> float:
        """Books read and checked a second, all threads together."""
        return self.reads / self.seconds


def run(writes_per_batch: int = 20_000) -> SmallConcurrency:
    """Write ten batches while twenty threads read, and count what they saw."""
    store = BookStore()
    offsets = itertools.count()

    def arrival(sequence: int) -> Arrival:
        return Arrival("perf", "c1", 1, sequence, sequence - 1, None, None, None, None, 0, next(offsets))

    with store.writer() as writer:
        snapshot = BookSnapshot(TICKER, ((4_000, 1_000_000),), ((5_000, 1_000_000),), None)
        writer.apply(snapshot, arrival(1))
    stop = threading.Event()
    reads = [0] * READERS
    torn = [0] * READERS

    def read(slot: int) -> None:
        count = wrong = 0
        while not stop.is_set():
            cut = store.cut()
            book = cut[TICKER]
            yes, no = book.yes.best, book.no.best
            assert yes is not None
            assert no is not None
            # An odd step has added a contract on one side that the next step takes from the other.
            if yes.size + no.size != 2_000_000 + (cut.version - 1) % 2 * 100:
                wrong += 1
            count += 1
        reads[slot], torn[slot] = count, wrong

    threads = [threading.Thread(target=read, args=(slot,), name=f"reader-{slot}") for slot in range(READERS)]
    for thread in threads:
        thread.start()
    started = time.perf_counter()
    sequence = 1
    try:
        for batch in range(BATCHES):
            give, take = (("yes", 4_000), ("no", 5_000)) if batch % 2 else (("no", 5_000), ("yes", 4_000))
            with store.writer() as writer:
                for step in range(writes_per_batch):
                    sequence += 1
                    side, price = give if step % 2 == 0 else take
                    change = 100 if step % 2 == 0 else -100
                    writer.apply(BookDelta(TICKER, side, price, change, None), arrival(sequence))  # type: ignore[arg-type]
    finally:
        seconds = time.perf_counter() - started
        stop.set()
        for thread in threads:
            thread.join()
    return SmallConcurrency(BATCHES * writes_per_batch, sum(reads), sum(torn), seconds)


def main() -> None:
    """Print reads and writes per second."""
    result = run()
    print(f"one book, {BATCHES} batches of updates, {READERS} reader threads, {result.seconds:.2f} s")
    print(f"  writes {result.writes_per_s:>12,.0f} /s")
    print(f"  reads  {result.reads_per_s:>12,.0f} /s")
    print(f"  torn   {result.torn:>12,}")
    if result.torn:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
