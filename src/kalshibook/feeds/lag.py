"""For how long records wait in Kafka until they are read, by this machine's clock alone. Pure: no broker."""

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple, final

__all__ = ["LagClock", "LagJudge"]

_MOST_SIGHTINGS: Final = 128
_NEAR_US: Final = 1_000_000
_LONGEST_CALM_US: Final = 60_000_000
_FORGIVEN_US: Final = 600_000_000


class _Sighting(NamedTuple):
    seen_us: int
    ends: Mapping[int, int]


@final
class LagClock:
    """
    Tells since when, at least, the oldest record that is not read yet has been there.

    The time that a record carries is its producer's, whose clock may differ from ours by more than any
    limit. So the ends of partitions are kept with the time when they were seen: one that was seen five
    seconds ago, and that reading has not reached, is a record that waits for five seconds or longer.

    Example:
        >>> clock = LagClock()
        >>> clock.ends_are({0: 10}, now_us=1_000_000)
        >>> clock.waiting_us({0: 9}, now_us=3_000_000)
        2000000
        >>> clock.waiting_us({0: 10}, now_us=3_000_000)
        0
    """

    __slots__ = ("_newest", "_sightings")

    def __init__(self) -> None:
        self._sightings: deque[_Sighting] = deque()
        self._newest: dict[int, int] = {}

    def begin(self) -> None:
        """Forget all ends: reading begins elsewhere, or in another topic of that name."""
        self._sightings.clear()
        self._newest = {}

    def ends_are(self, ends: Mapping[int, int], now_us: int) -> None:
        """
        Take over the ends of partitions as they are known now.

        Args:
            ends: the offset that the next record will get, by partition; must not change afterwards.
            now_us: any steady time, microseconds.
        """
        if self._sightings and self._sightings[-1].ends is ends:
            return
        if any(end < self._newest.get(partition, 0) for partition, end in ends.items()):
            # The log was cut off: nobody will ever reach what was seen before.
            self.begin()
        self._newest.update(ends)
        if len(self._sightings) == _MOST_SIGHTINGS:
            # The oldest one stays: how long it has been waiting is what is asked for.
            self._sightings = deque([*self._sightings][::2])
        self._sightings.append(_Sighting(now_us, ends))

    def waiting_us(self, next_offsets: Mapping[int, int], now_us: int) -> int:
        """
        Return for how long a record waits at least, in microseconds; 0 when all that was seen is read.

        Args:
            next_offsets: where reading goes on, by partition; others do not count.
            now_us: as for `ends_are`.
        """
        while self._sightings and _is_reached(self._sightings[0].ends, next_offsets):
            self._sightings.popleft()
        return max(now_us - self._sightings[0].seen_us, 0) if self._sightings else 0


@final
class LagJudge:
    """
    Tells whether a reader is late: from the limit on, until it has nearly nothing left to read.

    Being late makes less work, because what is sent is folded and subscriptions have ended. So a machine with
    a little too much to do would come and go, and each time all its clients. Therefore it must have kept pace
    for a while before it is called in time again, for longer after each relapse: up to a minute.

    Args:
        limit_us: how long a record may wait, microseconds; 0 for as long as it likes.
    """

    __slots__ = ("_calm_since_us", "_calm_us", "_in_time_since_us", "_limit_us", "_needed_us", "is_late")

    def __init__(self, limit_us: int) -> None:
        self._limit_us = limit_us
        self._calm_us = self._in_time_since_us = 0
        self.begin()

    def begin(self) -> None:
        """Count as late until all that came meanwhile is read: reading begins, or begins again."""
        self.is_late = self._limit_us > 0
        self._needed_us = 0
        self._calm_since_us: int | None = None

    def judge(self, waiting_us: int, now_us: int) -> bool:
        """
        Take over for how long a record waits, and tell whether the reader is late.

        Args:
            waiting_us: as from `LagClock.waiting_us`.
            now_us: any steady time, microseconds.
        """
        if not self.is_late:
            if 0 < self._limit_us < waiting_us:
                longer_us = min(max(2 * self._calm_us, self._limit_us), _LONGEST_CALM_US)
                is_relapse = now_us - self._in_time_since_us < _FORGIVEN_US
                self._needed_us = self._calm_us = longer_us if is_relapse else 0
                self.is_late, self._calm_since_us = True, None
        elif waiting_us > min(self._limit_us // 10, _NEAR_US):
            self._calm_since_us = None
        else:
            if self._calm_since_us is None:
                self._calm_since_us = now_us
            if now_us - self._calm_since_us >= self._needed_us:
                self.is_late, self._in_time_since_us = False, now_us
        return self.is_late


def _is_reached(ends: Mapping[int, int], next_offsets: Mapping[int, int]) -> bool:
    return all(next_offsets.get(partition, end) >= end for partition, end in ends.items())
