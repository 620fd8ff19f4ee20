"""CPU time per item, on a machine that others use too."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import msgspec

__all__ = ["Cost", "costs", "time_of"]


class Cost(msgspec.Struct, frozen=True):
    """What one item costs in each round; the rounds of all that is compared are interleaved."""

    rounds: tuple[float, ...]
    """µs of this thread's CPU time."""

    @property
    def least(self) -> float:
        """The quietest round, µs: what the code costs when nobody disturbs it."""
        return min(self.rounds)

    def over(self, other: "Cost") -> float:
        """Return how many times as much this costs: the median over rounds, each against its neighbour."""
        return median(mine / theirs for mine, theirs in zip(self.rounds, other.rounds, strict=True))


def time_of(work: Callable[[], object]) -> float:
    """Return the seconds of CPU time that this thread spends on something."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def costs(work: Mapping[str, Callable[[], object]], items: int, rounds: int) -> dict[str, Cost]:
    """
    Measure several ways of doing the same, in turn, so that a noisy minute meets all of them.

    Args:
        work: name to what treats all items once.
        items: how many those are.
        rounds: how often.
    """
    seen: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, one in work.items():
            seen[name].append(time_of(one) / items * 1e6)
    return {name: Cost(tuple(found)) for name, found in seen.items()}
