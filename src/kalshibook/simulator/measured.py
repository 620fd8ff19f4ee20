"""
What real traffic looks like, in numbers: the statistics that simulated activity is drawn from.

Measured on six recorded fifteen-minute markets of August 2026 (402,566 changes, 7,902 trades,
5,119 seconds), with level counts confirmed on the 39 markets they come from. Prices there are
multiples of a cent, so distances are in cents. Tables are pairs of a value and its share; they
are spread out once into equally likely rows, so that one draw is one index.
"""

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import Final

__all__ = [
    "CLUSTER_MEAN",
    "CLUSTER_SIZES",
    "GAPS",
    "GAP_SIGMA",
    "GONE_SHARE",
    "GROW_SHARE",
    "IMPROVEMENTS",
    "LEVELS_MEDIAN",
    "LEVELS_P90",
    "LEVEL_SIZES",
    "MOODS",
    "MOOD_SIGMA",
    "NEW_DISTANCES",
    "NEW_SHARE",
    "PARETO_SHAPE",
    "RANKS",
    "SECOND_VARIATION",
    "SIZES",
    "SPREAD_MEDIAN",
    "SPREAD_P90",
    "TOP_CHANGE_SHARE",
    "TRADES_PER_DELTA",
    "TRADE_SIZES",
]

TRADES_PER_DELTA: Final = 0.0196
"""Trades per book change; 95 % of them follow the change that took the maker's size away."""

NEW_SHARE: Final = 0.162
"""Share of changes that make a level."""
GONE_SHARE: Final = 0.162
"""Share of changes that end a level."""
GROW_SHARE: Final = 0.333
"""Share of changes that add to a level; the rest takes a part away."""

TOP_CHANGE_SHARE: Final = 0.22
"""Share of changes that move the best price or its size; 0.205 in the six, 0.22 in all 39 markets."""

LEVELS_MEDIAN: Final = 22
"""Levels per side of a book, median over time and markets."""
LEVELS_P90: Final = 41
"""Levels per side, 90th percentile; the largest seen is 62."""

SPREAD_MEDIAN: Final = 2
"""Cents between best bid and best ask."""
SPREAD_P90: Final = 6
"""Cents, 90th percentile; the 99th is 12."""

SECOND_VARIATION: Final = (1.04, 1.55)
"""Standard deviation over mean of a market's messages per second: least and most of the six."""

PARETO_SHAPE: Final = 1.16
"""Activity over markets: a fifth of them carries four fifths of the messages (assumed, not measured)."""

CLUSTER_MEAN: Final = 1.76
"""Messages of one market with the same exchange millisecond."""

GAP_SIGMA: Final = 2.0
"""
Time between clusters is log-normal: quantiles of 1, 3, 8, 38, 387 and 1,399 ms at 25, 50, 75, 90,
99 and 99.9 % are those of a median of 3 ms with this standard deviation of the logarithm.
"""

MOOD_SIGMA: Final = 0.9
"""
The part of `GAP_SIGMA` that stays for seconds; the rest is drawn anew for each gap. Without it a
busy market's seconds would be far more even than `SECOND_VARIATION`.
"""

_ROWS: Final = 4_096


def _spread_out(shares: Iterable[tuple[int, float]]) -> tuple[int, ...]:
    pairs = list(shares)
    total = sum(share for _, share in pairs)
    rows: list[int] = []
    reached = 0.0
    for value, share in pairs:
        reached += share
        rows.extend([value] * (round(_ROWS * reached / total) - len(rows)))
    return tuple(rows)


def _log_normal(sigma: float) -> tuple[float, ...]:
    normal = NormalDist(0.0, sigma)
    raw = [math.exp(normal.inv_cdf((row + 0.5) / _ROWS)) for row in range(_ROWS)]
    mean = sum(raw) / _ROWS
    return tuple(value / mean for value in raw)


GAPS: Final = _log_normal(math.sqrt(GAP_SIGMA**2 - MOOD_SIGMA**2))
"""Equally likely times between clusters in one mood, as multiples of their mean."""

MOODS: Final = _log_normal(MOOD_SIGMA)
"""Equally likely rates of the next seconds, as multiples of the mean rate."""

# fmt: off
CLUSTER_SIZES: Final = _spread_out(
    [(1, 0.5015), (2, 0.3615), (3, 0.0647), (4, 0.0456), (5, 0.0101), (6, 0.0083),
    (7, 0.0019), (8, 0.0018), (10, 0.0020), (12, 0.0012), (16, 0.0008), (24, 0.0006)]
)
"""Equally likely numbers of messages in a cluster."""

RANKS: Final = _spread_out(
    [(0, 0.185), (1, 0.165), (2, 0.148), (3, 0.123), (4, 0.097), (5, 0.070), (6, 0.049), (7, 0.035),
    (8, 0.021), (9, 0.012), (10, 0.008), *((rank, 0.0055) for rank in range(11, 20)),
    *((rank, 0.002) for rank in range(20, 30)), *((rank, 0.0007) for rank in range(30, 60))]
)
"""Equally likely places of the level that changes, counted from the best one."""

IMPROVEMENTS: Final = _spread_out([(1, 0.69), (2, 0.155), (3, 0.062), (4, 0.034), (5, 0.02), (6, 0.039)])
"""Equally likely distances, in cents above the best bid, of a new level that improves it."""

NEW_DISTANCES: Final = _spread_out(
    [(1, 0.093), (2, 0.104), (3, 0.104), (4, 0.107), (5, 0.090), (6, 0.075), (7, 0.074), (8, 0.066),
    (9, 0.047), (10, 0.027), (11, 0.016), *((12 + 2 * step, 0.197 / 16) for step in range(16))]
)
"""Equally likely distances, in cents below the best bid, of any other new level."""

# fmt: on
_COMMON_SIZES: Final = (
    (10_000, 0.132),
    (1_000, 0.113),
    (10, 0.098),
    (200_000, 0.036),
    (2_500, 0.034),
    (3_000, 0.033),
    (1_500, 0.027),
    (4_000, 0.025),
    (500, 0.019),
    (2_000, 0.018),
    (5_000, 0.015),
    (20_000, 0.014),
)

SIZES: Final = _spread_out(
    [
        *_COMMON_SIZES,
        *((contracts * 100, 0.29 / 34) for contracts in range(11, 45)),
        *((contracts * 100, 0.04 / 8) for contracts in range(1, 9)),
        *((contracts * 100, 0.05 / 60) for contracts in range(45, 105)),
        *((contracts * 100, 0.02 / 20) for contracts in range(110, 510, 20)),
        *((137 + 271 * step, 0.032 / 40) for step in range(40)),
    ]
)
"""Equally likely order sizes, 0.01 contract: median 29 contracts, 13 % of exactly 100, 10 % of 0.10."""

# fmt: off
LEVEL_SIZES: Final = _spread_out(
    [(400, 0.10), (1_000, 0.10), (2_000, 0.10), (5_000, 0.30), (7_900, 0.12), (10_000, 0.11),
    (27_500, 0.11), (60_000, 0.04), (202_300, 0.02)]
)
"""Equally likely sizes of a level in a book at rest, 0.01 contract."""

TRADE_SIZES: Final = _spread_out(
    [(10, 0.06), (47, 0.06), (100, 0.08), (290, 0.10), (500, 0.10), (1_000, 0.18), (1_700, 0.12),
    (2_500, 0.12), (4_000, 0.07), (5_000, 0.05), (10_000, 0.04), (31_700, 0.02)]
)
"""Equally likely sizes that a taker wants, 0.01 contract."""
# fmt: on
