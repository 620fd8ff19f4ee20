"""When a market acts: bursts within bursts, as real traffic comes."""

from random import Random
from typing import Final

from kalshibook.simulator.measured import CLUSTER_MEAN, GAPS, MOODS, PARETO_SHAPE

__all__ = ["Pace", "mean_gaps_us"]

_ROWS: Final = len(GAPS)
_SECOND_US: Final = 1_000_000
_MOOD_US: Final = 4 * _SECOND_US
_MOOD_GAPS: Final = 50
"""A mood outlasts this many mean gaps, or slow markets would fall behind their rate in bad moods."""


class Pace:
    """Draws the times between a market's clusters; its mood changes every few seconds."""

    __slots__ = ("_gap_us", "_mean_us", "_mood_lasts_us", "_mood_until_us", "_random")

    def __init__(self, mean_us: float, random: Random) -> None:
        self._mean_us = mean_us
        self._random = random.random
        self._mood_lasts_us = max(_MOOD_US, _MOOD_GAPS * mean_us)
        self._mood_until_us = 0.0
        self._gap_us = mean_us

    def next_us(self, now_us: int) -> int:
        """Return when the next cluster is due."""
        if now_us >= self._mood_until_us:
            self._mood_until_us = now_us + self._mood_lasts_us * 2 * self._random()
            self._gap_us = self._mean_us / MOODS[int(self._random() * _ROWS)]
        return now_us + int(self._gap_us * GAPS[int(self._random() * _ROWS)])


def mean_gaps_us(markets: int, messages_per_second: float, random: Random) -> list[float]:
    """Share a total rate out over markets by a Pareto law: the mean time between clusters of each."""
    weights = [(place + 1) ** (-1 / PARETO_SHAPE) for place in range(markets)]
    random.shuffle(weights)
    total_us = sum(weights) * CLUSTER_MEAN / messages_per_second * _SECOND_US
    return [total_us / weight for weight in weights]
