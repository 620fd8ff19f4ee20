"""Token buckets, by which the exchange limits REST: a rate, and two seconds' worth at once. Pure."""

from typing import Final, final

__all__ = ["TokenBuckets"]

_COST: Final = 10.0
"""Of a request, in tokens."""
_SECONDS: Final = 2.0
"""How much a bucket holds, in seconds of its refill."""


@final
class TokenBuckets:
    """One bucket for each user."""

    def __init__(self, tokens_per_second: float) -> None:
        self._rate = tokens_per_second
        self._held: dict[str, tuple[float, float]] = {}

    def take(self, user: str, now_s: float) -> bool:
        """Take the tokens for one request, or tell that there are too few. Without a rate all goes."""
        if not self._rate:
            return True
        full = max(self._rate * _SECONDS, _COST)
        tokens, then_s = self._held.get(user, (full, now_s))
        tokens = min(full, tokens + (now_s - then_s) * self._rate)
        taken = tokens >= _COST
        self._held[user] = (tokens - _COST if taken else tokens, now_s)
        return taken
