"""Counts of requests in plain integers, for ``/metrics`` and ``/v1/statistics``."""

import time
from bisect import bisect_left
from collections import Counter
from typing import Final, final

from quart import Quart, Response, g, request

__all__ = ["BUCKETS_S", "Traffic", "count_traffic"]

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


def count_traffic(app: Quart, traffic: Traffic) -> None:
    """Count every answer of an application."""

    @app.before_request
    async def begin() -> None:
        g.began = time.perf_counter()

    @app.after_request
    async def end(response: Response) -> Response:
        # The endpoint, not the path: a path names a market, and a label must not.
        rule = request.url_rule
        endpoint = "none" if rule is None else rule.endpoint
        traffic.count(endpoint, response.status_code, time.perf_counter() - g.began)
        return response
