"""One judgement of freshness for every endpoint."""

import pytest

from kalshibook.http.freshness import age_ms_of, why_not_fresh
from tests.http.client import AWAITING, CLOSED, LIVE, STALE, filled_store


@pytest.mark.parametrize(
    ("now_us", "age_ms"), [(1_005_999, 5), (1_000_000, 0), (900_000, 0)], ids=["older", "now", "ahead of us"]
)
def test_age(now_us: int, age_ms: int) -> None:
    """Whole milliseconds since the last message; a clock that is ahead of ours makes none negative."""
    store, _ = filled_store()

    assert age_ms == age_ms_of(store.cut()[LIVE], now_us)
    assert age_ms_of(store.cut()[AWAITING], now_us) is None


@pytest.mark.parametrize(
    ("ticker", "age_ms", "reason"),
    [
        (LIVE, 100, None),
        (LIVE, 101, "its last message is 101 ms old, 100 ms are allowed"),
        (LIVE, None, "its last message is None ms old, 100 ms are allowed"),
        (CLOSED, 100, None),
        (AWAITING, None, "awaits its first snapshot"),
        (STALE, 0, "3 messages were lost"),
    ],
)
def test_reasons(ticker: str, age_ms: int | None, reason: str | None) -> None:
    """Doubt counts before age, and a bound is met exactly at the bound."""
    store, _ = filled_store()

    assert reason == why_not_fresh(store.cut()[ticker], age_ms, 100)
