"""When a recorded frame is due. Pure: the clock is handed in."""

import math
import time
from collections.abc import Callable
from typing import Final, final

from kalshibook.errors import SettingsError

__all__ = ["Pacer", "parse_speed"]


def parse_speed(speed: str | float) -> float:
    """
    Return how many times faster than recorded to play; infinity for ``"max"``.

    Raises:
        SettingsError: neither ``"max"`` nor a number above 0.
    """
    if speed == "max":
        return math.inf
    try:
        factor = float(speed)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise SettingsError(f"speed {speed!r} is neither 'max' nor a number above 0")
    return factor


@final
class Pacer:
    """
    Spreads frames over time as they were received, faster or slower.

    A player that falls behind is not told to wait until it has caught up.

    Args:
        factor: how many times faster; infinity never waits.
        max_pause_ms: longest time between two frames, as recorded; what is longer is cut to it.
        clock_s: seconds, never backwards.
    """

    def __init__(
        self, factor: float, max_pause_ms: int, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._factor: Final = factor
        self._max_pause_ms: Final = max_pause_ms
        self._clock_s = clock_s
        self._last_ms: int | None = None
        self._due_s = clock_s()

    def schedule(self, received_ms: int) -> None:
        """Take the next frame's recorded time; one before its predecessor's counts as the same."""
        if self._last_ms is not None:
            pause_ms = min(max(received_ms - self._last_ms, 0), self._max_pause_ms)
            self._due_s += pause_ms / 1_000 / self._factor
        self._last_ms = received_ms

    def delay_s(self) -> float:
        """Return how many seconds the scheduled frame is still away; 0 when it is due."""
        if self._factor == math.inf:
            return 0.0
        return max(0.0, self._due_s - self._clock_s())
