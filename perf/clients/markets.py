"""A process that holds a store of many markets, fills it, and updates it: for the `markets` scenario."""

import gc
import time
from collections import deque
from contextlib import ExitStack
from itertools import accumulate
from random import Random
from typing import Any, Final

from kalshibook.collecting import served_collector
from kalshibook.feeds.enveloper import Enveloper
from kalshibook.simulator.frames import delta_frame, snapshot_frame
from kalshibook.store import Arrival, BookStore, StoreWriter
from kalshibook.wire import Side, decode_envelope, read_frame
from perf.clients.worker import answer_commands, resident_bytes, settings
from perf.frames import START_US

_LEVELS: Final = 5
_SLICE: Final = 5_000
_BESIDE: Final = 10_000
_BEST: Final[tuple[tuple[Side, int], ...]] = (("yes", 4_000), ("no", 5_500))


class Pauses:
    """
    How long collections stop every thread, by generation.

    In CPU time, because a pass that other processes interrupt is no longer for it.
    """

    def __init__(self) -> None:
        self.longest_ms = [0.0, 0.0, 0.0]
        self.total_s = 0.0
        self.passes = [0, 0, 0]
        self._began_s = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began_s = time.thread_time()
            return
        seconds = time.thread_time() - self._began_s
        generation = info["generation"]
        self.passes[generation] += 1
        self.total_s += seconds
        self.longest_ms[generation] = max(self.longest_ms[generation], seconds * 1_000)

    def taken(self) -> dict[str, Any]:
        """Return what was seen since the last time."""
        found = {"longest_ms": self.longest_ms, "total_s": self.total_s, "passes": self.passes}
        self.longest_ms, self.total_s, self.passes = [0.0, 0.0, 0.0], 0.0, [0, 0, 0]
        return found


class Markets:
    """The store, and what is said to it."""

    def __init__(self, markets: int, seed: int, *, served: bool) -> None:
        self._markets = markets
        self._random = Random(seed)
        self._stack = ExitStack()
        self._warmed = self._stack.enter_context(served_collector()) if served else lambda: None
        self._base = resident_bytes()
        self._store = BookStore()
        self._writer: StoreWriter = self._stack.enter_context(self._store.writer())
        self._pauses = Pauses()
        self._enveloper = Enveloper("perf", clock_us=lambda: START_US)
        self._number = self._sequence = 0
        # What else a serving process allocates, and keeps for a while.
        self._beside: deque[list[int]] = deque(maxlen=_BESIDE)
        # Activity of real markets: Pareto with shape 0.6, so that few make nearly all of it.
        self._weights = list(accumulate(self._random.paretovariate(0.6) for _ in range(markets)))

    def fill(self) -> dict[str, Any]:
        """Give every market a snapshot of five levels a side, as a topic that is read from its start."""
        spent = 0.0
        for start in range(0, self._markets, _SLICE):
            numbers = range(start, min(start + _SLICE, self._markets))
            spent += self._apply([self._snapshot(number) for number in numbers])
        self._warmed()
        return {
            "seconds": spent,
            "bytes": resident_bytes() - self._base,
            "total_bytes": resident_bytes(),
            "pauses": self._pauses.taken(),
        }

    def run(self, updates: int, *, skewed: bool) -> dict[str, Any]:
        """Change levels of markets drawn by their activity, or evenly."""
        spent = 0.0
        markets = range(self._markets)
        for _ in range(0, updates, _SLICE):
            drawn = (
                self._random.choices(markets, cum_weights=self._weights, k=_SLICE)
                if skewed
                else self._random.choices(markets, k=_SLICE)
            )
            spent += self._apply([self._delta(number) for number in drawn])
        return {
            "us": spent / updates * 1e6,
            "pauses": self._pauses.taken(),
            "bytes": resident_bytes() - self._base,
        }

    def collect(self) -> dict[str, Any]:
        """Have everything collected, as Python does when it thinks fit."""
        gc.collect()
        return self._pauses.taken()

    def _apply(self, values: list[bytes]) -> float:
        began = time.thread_time()
        apply, beside = self._writer.apply, self._beside
        for value in values:
            self._number += 1
            envelope = decode_envelope(value)
            event = read_frame(envelope.payload)
            apply(event, Arrival.of(envelope, partition=0, offset=self._number, kafka_us=1, consumed_us=1))
            beside.append([self._number])
        self._writer.commit()
        return time.thread_time() - began

    def _snapshot(self, number: int) -> bytes:
        yes = [(4_000 - 100 * step, 10_000 + number) for step in range(_LEVELS)]
        no = [(5_500 - 100 * step, 10_000 + number) for step in range(_LEVELS)]
        return self._wrapped(
            snapshot_frame(_ticker(number), yes, no, sid=1, seq=self._next(), ts_ms=START_US // 1_000)
        )

    def _delta(self, number: int) -> bytes:
        side, best = _BEST[self._random.randrange(2)]
        price, change = best - 100 * self._random.randrange(_LEVELS), self._random.randrange(1, 50) * 100
        return self._wrapped(
            delta_frame(
                _ticker(number), side, price, change, sid=1, seq=self._next(), ts_ms=START_US // 1_000
            )
        )

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _wrapped(self, frame: bytes) -> bytes:
        route = self._enveloper.route(frame)
        assert route is not None
        return self._enveloper.wrap(frame, route, connection="c1", received_us=START_US)


def _ticker(number: int) -> str:
    return f"KXPERF{number % 97}-26DEC{number % 31:02d}-T{number}"


def main() -> None:
    """Answer commands."""
    held = Markets(**settings())
    answer_commands({"fill": held.fill, "run": held.run, "collect": held.collect}, {"ready": True})


if __name__ == "__main__":
    main()
