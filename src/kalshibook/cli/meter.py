"""Measures a running store: how much comes, and how long each hop takes."""

import threading
import time
from typing import Final, Self

from kalshibook.cli.latency import Durations
from kalshibook.store import BookStore, Change, ChangeBatch, ChangeReader

__all__ = ["HOPS", "HOPS_FROM_EXCHANGE", "Meter"]

HOPS: Final = ("producer to feed", "feed to store", "store to reader", "the whole way")
"""What is measured, in the order in which a message passes; Kafka is within the first."""

HOPS_FROM_EXCHANGE: Final = ("exchange to producer", *HOPS)
"""The same where messages carry the exchange's time of now, in its own milliseconds."""

# Measuring costs a multiple of applying a delta, and shares the interpreter with it: at full
# speed a batch is sampled, or the meter would measure itself.
_SAMPLES_PER_BATCH: Final = 32
_PATIENCE_S: Final = 0.1


class Meter:
    """
    Reads a store's changes on its own thread and keeps their latencies, until the end of its `with` block.

    It is a reader like any other: what it measures is what an embedding service would see.

    Args:
        store: what is measured.
        from_exchange: begin with the exchange's own stamp; one of a recording is long past.
    """

    def __init__(self, store: BookStore, *, from_exchange: bool = False) -> None:
        self._store = store
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)
        self._reader: ChangeReader = store.changes()
        self._from_exchange = from_exchange
        self.hops: Final = {hop: Durations() for hop in (HOPS_FROM_EXCHANGE if from_exchange else HOPS)}
        self.changes = 0
        """Changes seen, conflated ones included."""
        self.first_us: int | None = None
        """When the first change was applied."""
        self.last_us: int | None = None
        """When the newest change was applied."""
        self.updates: Final[dict[str, int]] = {}
        """Changes by ticker."""

    @property
    def conflated(self) -> int:
        """How many changes came folded into others, because this reader was slower than the feed."""
        return self._reader.total_conflated

    def rate(self) -> float:
        """Return changes per second, from the first to the newest."""
        if self.first_us is None or self.last_us is None or self.last_us <= self.first_us:
            return 0.0
        return self.changes * 1_000_000 / (self.last_us - self.first_us)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._take(self._reader.take(_PATIENCE_S))
        self._take(self._reader.take_nowait())

    def _take(self, batch: ChangeBatch | None) -> None:
        if batch is None:
            return
        now_us = time.time_ns() // 1_000
        changes = [notice for notice in batch.changes if isinstance(notice, Change)]
        for change in changes:
            ticker = change.new.market.ticker
            self.updates[ticker] = self.updates.get(ticker, 0) + change.merged
            self.changes += change.merged
        step = max(1, len(changes) // _SAMPLES_PER_BATCH)
        for change in (*changes[::step], *changes[-1:]):
            self._measure(change, now_us)

    def _measure(self, change: Change, now_us: int) -> None:
        stamps = change.new.stamps
        if stamps is None or stamps is change.old.stamps:
            return  # a trade or a step of time: the stamps are those of an older message
        if self.first_us is None:
            self.first_us = stamps.applied_us
        self.last_us = stamps.applied_us
        first = (stamps.exchange_us,) if self._from_exchange else ()
        times = (*first, stamps.published_us, stamps.consumed_us, stamps.applied_us, now_us)
        for hop, start_us, end_us in zip(self.hops, times, times[1:], strict=False):
            if start_us is not None and end_us is not None:
                self.hops[hop].add(end_us - start_us)
        if times[0] is not None:
            self.hops[HOPS[-1]].add(now_us - times[0])
