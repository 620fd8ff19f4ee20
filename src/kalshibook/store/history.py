"""A bounded ring of versions: the newest one by one, the older ones in steps of time."""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable

from kalshibook.errors import VersionGone
from kalshibook.store.cut import StoreVersion

__all__ = ["History"]


class History:
    """
    Versions that can be gone back to. One thread adds; any thread reads.

    Args:
        recent: how many of the newest versions are kept one by one.
        seconds: how far back the steps reach.
        step_ms: distance of the steps.
    """

    def __init__(self, recent: int, seconds: int, step_ms: int) -> None:
        self._recent: deque[StoreVersion] = deque(maxlen=recent)
        self._steps: deque[StoreVersion] = deque(maxlen=seconds * 1_000 // step_ms)
        self._step_us = step_ms * 1_000
        self._step_ends_us = 0

    def add(self, version: StoreVersion) -> None:
        """Add the newest version."""
        # What is kept of a step is its last version, so that it is the store as it was when the
        # step ended; a version is known to be the last when the next one falls into another step.
        if version.applied_us >= self._step_ends_us:
            if self._recent:
                self._steps.append(self._recent[-1])
            self._step_ends_us = (version.applied_us // self._step_us + 1) * self._step_us
        self._recent.append(version)

    def at(self, number: int) -> StoreVersion:
        """
        Return exactly the version of a number.

        Raises:
            VersionGone: it is not kept, or not there yet.
        """
        kept = self._kept()
        index = bisect_right(kept, number, key=_number) - 1
        if index < 0 or kept[index].number != number:
            raise self._gone(f"version {number} is not kept", kept)
        return kept[index]

    def as_of(self, time_us: int) -> StoreVersion:
        """
        Return the newest kept version applied at or before a time, exact to one step.

        Raises:
            VersionGone: the time lies before all that is kept.
        """
        kept = self._kept()
        index = bisect_right(kept, time_us, key=_applied_us) - 1
        if index < 0:
            raise self._gone(f"time {time_us} lies before what is kept", kept)
        return kept[index]

    def _kept(self) -> list[StoreVersion]:
        recent = _copied(self._recent)
        steps = _copied(self._steps)
        oldest_recent = recent[0].number if recent else 0
        return [version for version in steps if version.number < oldest_recent] + recent

    def _gone(self, reason: str, kept: list[StoreVersion]) -> VersionGone:
        return VersionGone(
            reason, oldest=kept[0].number if kept else 0, newest=kept[-1].number if kept else 0
        )


def _copied(ring: deque[StoreVersion]) -> list[StoreVersion]:
    # The writer may append while a reader copies; CPython then raises, and the copy is made again.
    while True:
        try:
            return list(ring)
        except RuntimeError:
            continue


_number: Callable[[StoreVersion], int] = lambda version: version.number  # noqa: E731 - a key, typed
_applied_us: Callable[[StoreVersion], int] = lambda version: version.applied_us  # noqa: E731 - a key, typed
