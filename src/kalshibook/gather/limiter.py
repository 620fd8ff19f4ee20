"""
The exchange's budget for REST: a bucket of tokens that fills steadily and holds a little. Pure.

Every read costs tokens, ten unless the exchange lists it otherwise, and a tier has so many a second
(Kalshi API reference, "rate limits", 2026). Whoever is refused with status 429 has spent its share
of a second for nothing, so a client had better wait beforehand.
"""

from typing import Final, final

__all__ = ["READ_COST", "TokenBucket"]

READ_COST: Final = 10
"""Tokens of a read, unless the exchange lists it otherwise."""


@final
class TokenBucket:
    """
    Tokens that may be spent ahead of time: who comes is told how long to wait, in the order of coming.

    >>> bucket = TokenBucket(rate=200, capacity=20, now_us=0)
    >>> [bucket.reserve(10, now_us=0) for _ in range(4)]
    [0, 0, 50000, 100000]

    Args:
        rate: tokens a second.
        capacity: most that are saved up.
        now_us: any clock's time, microseconds; later calls use the same clock.
    """

    # Counted in millionths, so that a microsecond's worth is a whole number and nothing is rounded away.
    __slots__ = ("_capacity", "_level", "_rate", "_then_us")

    def __init__(self, rate: int, capacity: int, now_us: int) -> None:
        if rate < 1 or capacity < 1:
            raise ValueError(f"a bucket of {capacity} tokens with {rate} a second lets nothing pass")
        self._rate = rate
        self._capacity = capacity * 1_000_000
        self._level = self._capacity
        self._then_us = now_us

    @property
    def rate(self) -> int:
        """Tokens a second."""
        return self._rate

    def reserve(self, cost: int, now_us: int) -> int:
        """Take `cost` tokens and return after how many microseconds they may be used."""
        self._refill(now_us)
        self._level -= cost * 1_000_000
        return max(0, -(self._level // self._rate))

    def give_back(self, cost: int) -> None:
        """Return tokens that were reserved and not used: whoever waited for them was cancelled."""
        self._level = min(self._capacity, self._level + cost * 1_000_000)

    def empty(self, now_us: int) -> None:
        """Spend what is saved up: the exchange refused, so it counts less than we believed."""
        self._refill(now_us)
        self._level = min(self._level, 0)

    def _refill(self, now_us: int) -> None:
        # A clock that went back gives nothing and takes nothing.
        elapsed = max(0, now_us - self._then_us)
        self._level = min(self._capacity, self._level + elapsed * self._rate)
        self._then_us = max(self._then_us, now_us)
