"""Where reading begins, how far it is, and when it has caught up. Pure: no broker, no clock."""

from collections.abc import Mapping
from typing import NamedTuple

from kalshibook.feeds.base import PartitionHealth

__all__ = [
    "Bounds",
    "Positions",
    "Start",
    "start_at_beginning",
    "start_at_offsets",
    "start_at_time",
    "without_hole",
    "without_strangers",
]

_UNKNOWN = -1
"""What a broker answers for a time when no record is that young, or when it cannot search by time."""


class Bounds(NamedTuple):
    """What a broker keeps of a partition."""

    low: int
    """The oldest offset."""
    high: int
    """The offset that the next record will get."""


class Start(NamedTuple):
    """Where to begin reading each partition."""

    offsets: Mapping[int, int]
    overtaken: Mapping[int, str]
    """Partitions in which the records wanted are gone, and the finding."""
    note: str
    """How reading begins, for people."""


def start_at_beginning(bounds: Mapping[int, Bounds]) -> Start:
    """Begin at the oldest record of every partition."""
    return Start({partition: kept.low for partition, kept in bounds.items()}, {}, "from the beginning")


def start_at_offsets(bounds: Mapping[int, Bounds], wanted: Mapping[int, int]) -> Start:
    """
    Go on at given offsets; where such an offset is not kept, or not there, begin at the oldest record.

    Args:
        bounds: what the broker keeps.
        wanted: next offset by partition; a partition that is missing begins at its oldest record.
    """
    offsets: dict[int, int] = {}
    overtaken: dict[int, str] = {}
    for partition, kept in bounds.items():
        offset = wanted.get(partition, kept.low)
        # A broker that has just come back may not know its beginning yet, and librdkafka then gives the
        # end for both. Records are not given up for that: if they are gone, the first fetch says so.
        is_unsure = kept.low == kept.high
        if offset > kept.high or (offset < kept.low and not is_unsure):
            overtaken[partition] = (
                f"offset {offset} of partition {partition} is gone, {kept.low} to {kept.high} are kept"
            )
            offset = kept.low
        offsets[partition] = offset
    return Start(offsets, overtaken, "from stored offsets")


def start_at_time(
    bounds: Mapping[int, Bounds], found: Mapping[int, int], oldest: Mapping[int, int], minutes: int
) -> Start:
    """
    Begin at the first record of each partition that is young enough.

    A broker that cannot search by time (librdkafka's mock cluster) gives the same answer as one
    that has no record so young. They differ in what they answer for the oldest time of all.

    Args:
        bounds: what the broker keeps.
        found: its answer for the time wanted, -1 for none.
        oldest: its answer for time 0, -1 for none.
        minutes: how far back the time wanted lies, for the note.
    """
    offsets: dict[int, int] = {}
    blind: list[int] = []
    for partition, kept in bounds.items():
        offset = found[partition]
        if offset <= _UNKNOWN:
            offset = kept.high
            if kept.high > kept.low and oldest[partition] <= _UNKNOWN:
                offset = kept.low
                blind.append(partition)
        offsets[partition] = offset
    note = f"from {minutes} minutes ago"
    if blind:
        note = f"from the beginning instead of {minutes} minutes ago: this broker cannot search by time"
    return Start(offsets, {}, note)


def without_hole(start: Start, reached: Mapping[int, int]) -> Start:
    """
    Count partitions as overtaken in which reading begins beyond what a store has consumed before.

    Args:
        start: where to begin.
        reached: next offset by partition, as in `Cut.offsets`.
    """
    holes = {
        partition: f"offsets {reached[partition]} to {offset} of partition {partition} were not read"
        for partition, offset in start.offsets.items()
        if partition in reached and offset > reached[partition]
    }
    return start._replace(overtaken={**holes, **start.overtaken})


def without_strangers(
    start: Start, wanted: Mapping[int, int], younger: Mapping[int, int], bounds: Mapping[int, Bounds]
) -> Start:
    """
    Begin at the oldest record where the records before an offset are younger than the offset itself.

    A topic that was deleted and made again under its name counts from 0. What was noted of the old one
    means nothing in it, although such an offset is there again after a while.

    Args:
        start: at the offsets wanted.
        wanted: next offset by partition, noted at some time.
        younger: the first record of each partition that is clearly younger than that; -1 for none.
        bounds: what the broker keeps.
    """
    strangers = {
        partition: (
            f"offset {offset} of partition {partition} was noted before record {younger[partition]} was"
            " written: the topic was made anew"
        )
        for partition, offset in wanted.items()
        if partition not in start.overtaken and _UNKNOWN < younger.get(partition, _UNKNOWN) < offset
    }
    offsets = {**start.offsets, **{partition: bounds[partition].low for partition in strangers}}
    return start._replace(offsets=offsets, overtaken={**start.overtaken, **strangers})


class _Position:
    __slots__ = ("end", "next_offset", "target")

    def __init__(self, next_offset: int, target: int | None) -> None:
        self.next_offset = next_offset
        self.target = target
        self.end = target


class Positions:
    """
    How far each partition is read. One thread writes; `health` is for any.

    A partition has caught up when its offset reaches the end seen at the start, or when the broker
    says that its end is reached: the last offsets may belong to records that are never delivered
    (transaction markers, records removed by compaction).
    """

    def __init__(self) -> None:
        self._positions: dict[int, _Position] = {}
        self._behind: set[int] = set()

    @property
    def caught_up(self) -> bool:
        """Whether every partition that counts has caught up; not so before `begin`."""
        return bool(self._positions) and not self._behind

    @property
    def next_offsets(self) -> dict[int, int]:
        """Where reading would go on, by partition."""
        return {partition: position.next_offset for partition, position in self._positions.items()}

    def begin(self, offsets: Mapping[int, int], bounds: Mapping[int, Bounds]) -> None:
        """Read these partitions and no other, up to the ends seen now."""
        self._positions = {
            partition: _Position(offset, bounds[partition].high) for partition, offset in offsets.items()
        }
        self._behind = {partition for partition, offset in offsets.items() if offset < bounds[partition].high}

    def add(self, partition: int) -> None:
        """Read a partition that appeared later, from its beginning; it does not undo having caught up."""
        # A new dict, because `health` walks the old one on another thread.
        self._positions = {**self._positions, partition: _Position(0, None)}

    def restart(self, partition: int) -> None:
        """Note that a partition is read anew, up to wherever the broker says that it ends."""
        self._positions[partition].target = None
        self._behind.add(partition)

    def consumed(self, next_offsets: Mapping[int, int]) -> None:
        """Take over how far a batch came, by partition."""
        for partition, next_offset in next_offsets.items():
            position = self._positions[partition]
            position.next_offset = next_offset
            if partition in self._behind and position.target is not None and next_offset >= position.target:
                self._behind.discard(partition)

    def end_reached(self, partition: int, offset: int) -> None:
        """Note the broker's word that nothing is left; `offset` is where the next record will be."""
        position = self._positions[partition]
        position.next_offset = position.end = offset
        self._behind.discard(partition)

    def ends_at(self, ends: Mapping[int, int]) -> None:
        """Take over the newest ends that are known, by partition, for the lag."""
        for partition, end in ends.items():
            if partition in self._positions:
                self._positions[partition].end = end

    def health(self) -> tuple[PartitionHealth, ...]:
        """Return every partition's state, ascending."""
        positions = self._positions
        return tuple(
            PartitionHealth(
                partition,
                positions[partition].next_offset,
                _end(positions[partition]),
                partition not in self._behind,
            )
            for partition in sorted(positions)
        )


def _end(position: _Position) -> int | None:
    # Ends come once a second, offsets with every batch: the later one is the better end.
    return None if position.end is None else max(position.end, position.next_offset)
