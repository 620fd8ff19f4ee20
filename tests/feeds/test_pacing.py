import math

import pytest

from kalshibook.errors import SettingsError
from kalshibook.feeds.pacing import Pacer, parse_speed


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def delays(received_ms: list[int], factor: float, max_pause_ms: int = 10_000) -> list[float]:
    """Return each frame's delay for a player that takes no time itself."""
    clock = Clock()
    pacer = Pacer(factor, max_pause_ms, clock)
    found = []
    for moment_ms in received_ms:
        pacer.schedule(moment_ms)
        found.append(round(pacer.delay_s(), 6))
        clock.now_s += pacer.delay_s()
    return found


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0, [0, 0.5, 0, 2]), (4.0, [0, 0.125, 0, 0.5]), (0.5, [0, 1, 0, 4]), (math.inf, [0, 0, 0, 0])],
)
def test_pauses_are_divided_by_the_speed(factor: float, expected: list[float]) -> None:
    """The first frame comes at once, the others after their recorded distance, scaled."""
    assert expected == delays([5_000, 5_500, 5_500, 7_500], factor)


def test_long_pauses_are_cut() -> None:
    """A day between two recordings is no day of waiting."""
    assert [0, 2, 1] == delays([0, 86_400_000, 86_401_000], 1.0, max_pause_ms=2_000)


def test_a_time_that_goes_back_costs_nothing() -> None:
    """A recorder's clock may step back; the frame then follows at once, and later pauses count from it."""
    assert [0, 0, 0.1] == delays([1_000, 400, 500], 1.0)


def test_who_is_late_catches_up() -> None:
    """Time lost is not waited for again."""
    clock = Clock()
    pacer = Pacer(1.0, 10_000, clock)
    pacer.schedule(0)
    clock.now_s += 1.5
    pacer.schedule(1_000)
    assert 0.0 == pacer.delay_s()
    pacer.schedule(2_000)
    assert 0.5 == pacer.delay_s()


@pytest.mark.parametrize(("text", "factor"), [("max", math.inf), ("1", 1.0), ("0.5", 0.5), (10, 10.0)])
def test_speeds_are_read(text: str | float, factor: float) -> None:
    """A number of times, or as fast as possible."""
    assert factor == parse_speed(text)


@pytest.mark.parametrize("text", ["", "fast", "0", "-1", "nan", "inf", 0])
def test_speeds_that_cannot_be_are_refused(text: str | float) -> None:
    """Each is an error that shows what was found."""
    with pytest.raises(SettingsError, match="neither 'max' nor a number"):
        parse_speed(text)
