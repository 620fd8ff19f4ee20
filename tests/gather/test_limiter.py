"""The budget: whoever obeys it is never refused, and none of it is lost."""

import pytest
from hypothesis import given, strategies as st

from kalshibook.gather.limiter import TokenBucket


class Exchange:
    """A bucket as an exchange keeps it: it refuses instead of asking to wait."""

    def __init__(self, rate: int, capacity: int) -> None:
        self.rate = rate
        self.capacity = self.level = capacity * 1_000_000
        self.then_us = 0

    def accepts(self, cost: int, now_us: int) -> bool:
        """Spend, if there is enough."""
        self.level = min(self.capacity, self.level + (now_us - self.then_us) * self.rate)
        self.then_us = now_us
        if self.level < cost * 1_000_000:
            return False
        self.level -= cost * 1_000_000
        return True


@given(
    rate=st.integers(10, 10_000),
    capacity=st.integers(10, 20_000),
    gaps=st.lists(st.integers(0, 2_000_000), max_size=60),
)
def test_whoever_waits_as_told_is_never_refused(rate: int, capacity: int, gaps: list[int]) -> None:
    """Whatever the pattern of requests: at the moments that were given, the exchange has the tokens."""
    bucket = TokenBucket(rate, capacity, 0)
    exchange = Exchange(rate, capacity)
    now = 0
    moments = []
    for gap in gaps:
        now += gap
        moments.append(now + bucket.reserve(10, now))

    assert moments == sorted(moments)
    assert all(exchange.accepts(10, moment) for moment in moments)


def test_nothing_is_lost() -> None:
    """A busy client gets its whole rate: after the saved tokens, twenty requests a second, evenly."""
    bucket = TokenBucket(200, 200, 5_000_000)

    waits = [bucket.reserve(10, 5_000_000) for _ in range(60)]

    assert [0] * 20 == waits[:20]
    assert [50_000 * number for number in range(1, 41)] == waits[20:]


def test_tokens_of_who_was_cancelled_come_back() -> None:
    """They can be spent by the next; more than fits is not kept."""
    bucket = TokenBucket(10, 10, 0)
    assert [0, 1_000_000] == [bucket.reserve(10, 0), bucket.reserve(10, 0)]

    bucket.give_back(10)
    assert 1_000_000 == bucket.reserve(10, 0)
    bucket.give_back(1_000)
    assert [0, 1_000_000] == [bucket.reserve(10, 0), bucket.reserve(10, 0)]


def test_refusal_spends_what_was_saved() -> None:
    """After a 429 the next request waits its full share; one that waits already does not wait longer."""
    bucket = TokenBucket(10, 100, 0)
    bucket.empty(0)
    assert 1_000_000 == bucket.reserve(10, 0)

    bucket.empty(0)
    assert 2_000_000 == bucket.reserve(10, 0)


def test_clock_that_goes_back() -> None:
    """It neither gives tokens nor takes any, and time is counted once."""
    bucket = TokenBucket(10, 10, 1_000_000)
    bucket.reserve(10, 1_000_000)

    assert 1_000_000 == bucket.reserve(10, 0)
    assert 1_000_000 == bucket.reserve(10, 2_000_000)


def test_bucket_that_lets_nothing_pass() -> None:
    """It is refused, not waited for."""
    for rate, capacity in ((0, 10), (10, 0)):
        with pytest.raises(ValueError, match="lets nothing pass"):
            TokenBucket(rate, capacity, 0)
