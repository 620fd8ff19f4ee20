"""A process that fills a store and saves its books, or begins with what is saved: for `warm-start`."""

import threading
import time
from contextlib import ExitStack
from typing import Any, Final

from kalshibook.collecting import served_collector
from kalshibook.feeds import KafkaOptions, SnapshotOptions, SnapshotWriter
from kalshibook.feeds.warm_start import WarmStart
from kalshibook.store import Arrival, BookStore
from kalshibook.wire import BookSnapshot
from perf.clients.worker import answer_commands, cpu_seconds, resident_bytes, settings
from perf.frames import START_US

_LEVELS: Final = 5
_PARTITIONS: Final = 12


class Saved:
    """One store, and the topic of saved books."""

    def __init__(self, address: str, markets: int) -> None:
        self._markets = markets
        self._stack = ExitStack()
        self._stack.enter_context(served_collector())
        self._base = resident_bytes()
        self._store = BookStore()
        self._options = KafkaOptions(bootstrap_servers=address, start="snapshots")
        every = SnapshotOptions(records_per_second=10_000_000)
        self._saver = SnapshotWriter(self._store, self._options, every)

    def save(self) -> dict[str, float]:
        """Fill the store, and save all books in one round."""
        with self._store.writer() as writer:
            for number in range(self._markets):
                yes = tuple((4_000 - 100 * step, 10_000 + number) for step in range(_LEVELS))
                no = tuple((5_500 - 100 * step, 10_000 + number) for step in range(_LEVELS))
                partition, offset = number % _PARTITIONS, number // _PARTITIONS
                at_us = START_US + number
                arrival = Arrival("g1", "c1", 1, number + 1, 0, at_us, at_us, at_us, at_us, partition, offset)
                writer.apply(BookSnapshot(_ticker(number), yes, no, at_us), arrival)
            writer.set_ready(True)
        return self.save_again()

    def save_again(self) -> dict[str, float]:
        """Save what has changed since the last round."""
        began_s, cpu_s, before = time.perf_counter(), cpu_seconds(), self._saver.health()
        if not self._saver.save(600):
            raise RuntimeError(self._saver.health().reason)
        health = self._saver.health()
        return {
            "seconds": time.perf_counter() - began_s,
            "cpu_seconds": cpu_seconds() - cpu_s,
            "records": health.records - before.records,
            "bytes": health.bytes - before.bytes,
        }

    def restore(self) -> dict[str, float]:
        """Begin with what is saved."""
        began_s, cpu_s = time.perf_counter(), cpu_seconds()
        with self._store.writer() as writer:
            found = WarmStart(
                self._options, writer, self._store.incidents, lambda *_: None, threading.Event()
            ).read()
            starts = {partition: one.offset for partition, one in found.checkpoints.items()}
            writer.resume(starts, found.checkpoints)
        return {
            "seconds": time.perf_counter() - began_s,
            "cpu_seconds": cpu_seconds() - cpu_s,
            "live": self._store.cut().counts.live,
            "offsets": sum(self._store.cut().offsets.values()),
            "bytes": resident_bytes() - self._base,
            "total_bytes": resident_bytes(),
        }


def _ticker(number: int) -> str:
    return f"KXPERF{number % 97}-26DEC{number % 31:02d}-T{number}"


def main(**arguments: Any) -> None:
    """Answer commands."""
    held = Saved(**arguments)
    answer_commands(
        {"save": held.save, "save_again": held.save_again, "restore": held.restore}, {"ready": True}
    )


if __name__ == "__main__":
    main(**settings())
