import pytest
from hypothesis import given, strategies as st

from kalshibook.cli.latency import Durations, duration_text


def test_nothing_counted_has_no_percentile() -> None:
    """No measurement is no duration, not a duration of 0."""
    assert Durations().percentile_us(0.5) is None


@given(st.lists(st.integers(0, 10**9), min_size=1), st.floats(0.01, 1))
def test_percentiles_are_within_their_bucket(values: list[int], share: float) -> None:
    """A percentile is never below the true one, and at most 3.2 % above it."""
    durations = Durations()
    for value in values:
        durations.add(value)
    needed = share * len(values)
    true = next(value for place, value in enumerate(sorted(values), 1) if place >= needed)

    found = durations.percentile_us(share)

    assert found is not None
    assert true <= found <= true * 1.032


def test_clocks_that_differ_count_as_nothing() -> None:
    """A negative duration, from two machines' clocks, counts as 0 and is not lost."""
    durations = Durations()

    durations.add(-5)

    assert durations.count == 1
    assert durations.percentile_us(1) == 0


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (None, "-"),
        (0, "0 µs"),
        (999, "999 µs"),
        (1_000, "1.0 ms"),
        (99_949, "99.9 ms"),
        (100_000, "100 ms"),
        (2_400_000, "2.4 s"),
    ],
)
def test_durations_read_well(microseconds: int | None, text: str) -> None:
    """A duration is written in the unit that people would choose."""
    assert text == duration_text(microseconds)
