"""Counts of requests in plain integers, for ``/metrics`` and ``/v1/statistics``."""

from bisect import bisect_left
from collections import Counter
from typing import Final, final

__all__ = ["BUCKETS_S", "Traffic"]

BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the histogram of handling times, in seconds."""


@final
class Traffic:
    """
    What this server has answered.

    Written on the server's thread and read on any: each number is right, their sum may be one
    request behind.
    """

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        """Answers by endpoint and status."""
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        """Requests by handling time; the last is beyond all bounds."""
        self.seconds = 0.0
        """Sum of handling times."""
        self.not_modified = 0
        """Bulk requests answered with 304."""
        self.compressed = 0
        """Bulk answers compressed on request."""

    def count(self, endpoint: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self.answers[endpoint, status] += 1
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds += seconds
