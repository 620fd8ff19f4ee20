"""For how long records wait in Kafka until they are read, by this machine's clock alone. Pure: no broker."""

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple, final

__all__ = ["LagClock"]

_MOST_SIGHTINGS: Final = 128


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


def _is_reached(ends: Mapping[int, int], next_offsets: Mapping[int, int]) -> bool:
    return all(next_offsets.get(partition, end) >= end for partition, end in ends.items())
