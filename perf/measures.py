"""Percentiles and differences."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

__all__ = ["PERCENTILES", "counted_percentiles", "percentiles"]

PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def percentiles(ordered: Sequence[float]) -> dict[str, float]:
    """Return the percentiles of sorted samples; all 0 where there are none."""
    if not ordered:
        return dict.fromkeys(PERCENTILES, 0.0)
    last = len(ordered) - 1
    return {name: ordered[min(int(share * len(ordered)), last)] for name, share in PERCENTILES.items()}


def counted_percentiles(counts: Mapping[int, int]) -> dict[str, float]:
    """Return the percentiles of values that come with how often each was seen."""
    values = sorted(counts)
    sums = list(accumulate(counts[value] for value in values))
    if not sums:
        return dict.fromkeys(PERCENTILES, 0.0)
    found: dict[str, float] = {}
    for name, share in PERCENTILES.items():
        wanted = min(int(share * sums[-1]) + 1, sums[-1])
        found[name] = float(
            next(value for value, reached in zip(values, sums, strict=True) if reached >= wanted)
        )
    return found
