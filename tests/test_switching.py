"""The interpreter's switch interval while servers run."""

import sys
from collections.abc import Iterator

import pytest

from kalshibook.switching import short_switch_interval


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    """Start from a known interval and leave none behind."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield
    assert 0.005 == pytest.approx(sys.getswitchinterval())
    sys.setswitchinterval(interval)


def test_it_is_short_in_the_block_only() -> None:
    """The interval is what was asked for inside, and what it was before outside."""
    with short_switch_interval(500):
        assert 0.0005 == pytest.approx(sys.getswitchinterval())


def test_blocks_may_overlap() -> None:
    """The shortest one rules, and the last to leave restores, in whatever order they leave."""
    first, second = short_switch_interval(500), short_switch_interval(200)
    first.__enter__()
    second.__enter__()
    assert 0.0002 == pytest.approx(sys.getswitchinterval())
    first.__exit__(None, None, None)
    assert 0.0002 == pytest.approx(sys.getswitchinterval())
    second.__exit__(None, None, None)


def test_it_never_lengthens() -> None:
    """Whoever chose a shorter interval for the process keeps it."""
    with short_switch_interval(50_000):
        assert 0.005 == pytest.approx(sys.getswitchinterval())


def test_zero_leaves_it_alone() -> None:
    """0 is the way to opt out."""
    with short_switch_interval(0):
        assert 0.005 == pytest.approx(sys.getswitchinterval())


def test_an_error_inside_restores_it() -> None:
    """The interval is restored however the block ends."""
    with pytest.raises(ZeroDivisionError), short_switch_interval(500):
        raise ZeroDivisionError
