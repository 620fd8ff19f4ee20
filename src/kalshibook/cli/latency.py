"""Percentiles of many durations in constant memory."""

from typing import Final

__all__ = ["Durations", "duration_text"]

_FRACTION_BITS: Final = 5
_FRACTIONS: Final = 1 << _FRACTION_BITS


class Durations:
    """
    Counts durations in buckets that are 3 % wide, so that a run of any length fits.

    One thread adds; any may read meanwhile.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.largest_us = 0

    def add(self, microseconds: int) -> None:
        """Count one duration; a negative one, from clocks that differ, counts as 0."""
        duration = max(microseconds, 0)
        shift = max(duration.bit_length() - _FRACTION_BITS - 1, 0)
        bucket = (shift << _FRACTION_BITS) + (duration >> shift)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.largest_us = max(self.largest_us, duration)

    def percentile_us(self, share: float) -> int | None:
        """
        Return the least duration that `share` of all do not exceed, at most 3 % too high.

        Args:
            share: from 0 to 1.

        Returns:
            Microseconds, or None when nothing was counted.
        """
        buckets = self._buckets.copy()
        needed, seen = share * sum(buckets.values()), 0
        for bucket in sorted(buckets):
            seen += buckets[bucket]
            if seen >= needed:
                return min(_upper_end(bucket), self.largest_us)
        return None


def _upper_end(bucket: int) -> int:
    # Durations below 2 * _FRACTIONS have a bucket each; above, the bucket's number is
    # (shift << bits) + mantissa with the mantissa's leading one still in it.
    if bucket < 2 * _FRACTIONS:
        return bucket
    shift = (bucket >> _FRACTION_BITS) - 1
    mantissa = bucket - (shift << _FRACTION_BITS)
    return ((mantissa + 1) << shift) - 1


def duration_text(microseconds: int | None) -> str:
    """Write a duration with three digits at most: ``840 µs``, ``3.1 ms``, ``2.4 s``."""
    if microseconds is None:
        return "-"
    for unit, size in (("s", 1_000_000), ("ms", 1_000)):
        if microseconds >= size:
            amount = microseconds / size
            return f"{amount:.0f} {unit}" if amount >= 100 else f"{amount:.1f} {unit}"
    return f"{microseconds} µs"
