"""Reader threads beside a server, as an embedding service would run them: latencies, and torn versions."""

import threading
import time
from array import array
from typing import Any, Final, final

from kalshibook.store import BookStore
from perf.clients.load import PartitionSums
from perf.measures import percentiles

__all__ = ["Readers"]

_PAUSE_S: Final = 0.01
_TICKERS_AT_ONCE: Final = 20
_CUTS_A_SECOND: Final = 4


@final
class Readers:
    """
    Threads that read tops a hundred times a second each; one of them checks whole cuts besides.

    Args:
        store: what they read.
        tickers: what they choose from.
        threads: how many.
        sums: what cuts must hold; None checks none.
        partitions: of the topic.
    """

    def __init__(
        self, store: BookStore, tickers: list[str], threads: int, sums: PartitionSums | None, partitions: int
    ) -> None:
        self._store = store
        self._tickers = tickers
        self._sums = sums
        self._partitions = partitions
        self._stopping = threading.Event()
        self._latencies = [array("q") for _ in range(threads)]
        self._mixed = [0] * threads
        self._torn = 0
        self._cuts = 0
        self._threads = [
            threading.Thread(target=self._read, args=(slot,), name=f"reader-{slot}", daemon=True)
            for slot in range(threads)
        ]
        if sums is not None:
            self._threads.append(threading.Thread(target=self._check, name="cut-reader", daemon=True))

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> dict[str, Any]:
        """End; return percentiles in microseconds, and what was found."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        samples = sorted(sample for latencies in self._latencies for sample in latencies)
        return {
            "reads": len(samples),
            "percentiles_us": {name: value / 1_000 for name, value in percentiles(samples).items()},
            "cuts": self._cuts,
            "torn": self._torn,
            "mixed": sum(self._mixed),
        }

    def _read(self, slot: int) -> None:
        store, latencies, wait = self._store, self._latencies[slot], self._stopping.wait
        first = slot * _TICKERS_AT_ONCE % len(self._tickers)
        tickers = self._tickers[first : first + _TICKERS_AT_ONCE]
        newest = 0
        while not wait(_PAUSE_S):
            started = time.perf_counter_ns()
            tops = store.tops(tickers)
            latencies.append(time.perf_counter_ns() - started)
            version = tops.cut.version
            if version < newest or any(top.version > version for top in tops.tops):
                self._mixed[slot] += 1
            newest = version

    def _check(self) -> None:
        assert self._sums is not None
        partition = 0
        while not self._stopping.wait(1 / _CUTS_A_SECOND):
            cut = self._store.cut()
            partition = (partition + 1) % self._partitions
            self._torn += self._sums.is_torn(cut, partition)
            self._cuts += 1
