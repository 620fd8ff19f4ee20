"""
One side of a book: an immutable ladder of levels whose update costs the same at any depth.

Levels sit on a uniform grid of a cent, a deci-cent or a centi-cent, the coarsest that fits every
price seen. The grid is cut into chunks of 128 slots; a chunk is a tuple of the levels that exist,
ascending, and an integer bitmap says which slots are occupied. An update copies one chunk and the
tuple of chunks (1, 8 or 79 long) and shares the rest; the best price is the bitmap's bit length.

Chosen by measuring (`docs/discussion/memory.md`): at the depth of real books it is as fast as a
pyrsistent vector indexed by tick, takes a quarter of its memory, and gives the collector nothing
to walk; and it does not slow down on Pythons for which pyrsistent ships no C extension.
"""

from collections.abc import Callable, Iterable, Iterator
from math import gcd
from operator import attrgetter
from typing import Final

import msgspec

__all__ = ["EMPTY_LADDER", "ImpossibleChange", "Ladder", "Level", "Stamps", "built"]


class Stamps(msgspec.Struct, frozen=True, gc=False):
    """
    The times at which a message passed each hop, in microseconds since the epoch; None is unknown.

    Levels changed by one message share one object.
    """

    exchange_us: int | None
    """The exchange's own time."""
    received_us: int | None
    """Off the gatherer's socket."""
    published_us: int | None
    """Handed to Kafka by the gatherer."""
    kafka_us: int | None
    """The Kafka record's timestamp."""
    consumed_us: int | None
    """Out of Kafka, in this process."""
    applied_us: int
    """Applied to the store."""

    @property
    def kafka_latency_us(self) -> int | None:
        """From the Kafka record's timestamp to its arrival in this process."""
        if self.kafka_us is None or self.consumed_us is None:
            return None
        return self.consumed_us - self.kafka_us

    @property
    def latency_us(self) -> int | None:
        """From the exchange's time, else the gatherer's, to the change being visible to readers."""
        start_us = self.exchange_us if self.exchange_us is not None else self.received_us
        return None if start_us is None else self.applied_us - start_us


class Level(msgspec.Struct, frozen=True, gc=False):
    """A price at which orders rest."""

    price: int
    """$0.0001, on the scale of the ladder's side."""
    size: int
    """0.01 contract, never 0."""
    stamps: Stamps
    """Of the last message that changed this level."""


class ImpossibleChange(Exception):  # noqa: N818 - a finding about the data, handled at once by the caller
    """
    A change takes away more than rests: our copy has diverged from the exchange's book.

    Attributes:
        resting: the size held at that price, 0.01 contract.
    """

    def __init__(self, resting: int) -> None:
        super().__init__(resting)
        self.resting = resting


_STEPS: Final = (100, 10, 1)
_CHUNK_BITS: Final = 7
_CHUNK_MASK: Final = (1 << _CHUNK_BITS) - 1
_CHUNK_FULL: Final = (1 << (1 << _CHUNK_BITS)) - 1
_BELOW: Final = tuple((1 << slot) - 1 for slot in range(1 << _CHUNK_BITS))
_BIT: Final = tuple(1 << slot for slot in range(10_001))
_CHUNKS: Final = {step: (10_000 // step >> _CHUNK_BITS) + 1 for step in _STEPS}


class Ladder(msgspec.Struct, frozen=True, gc=False):
    """
    Resting levels of one side. Make one with `EMPTY_LADDER.replaced(...)`.

    >>> stamps = Stamps(None, None, None, None, None, 0)
    >>> ladder = EMPTY_LADDER.replaced([(3800, 12000), (4000, 7550)], stamps)
    >>> ladder.best.price, ladder.changed(4000, -7550, stamps).best.price
    (4000, 3800)
    """

    step: int
    """$0.0001 per slot: 100, 10 or 1."""
    occupied: int
    """Bit n is set where slot n holds a level."""
    chunks: tuple[tuple[Level, ...], ...]

    @property
    def best(self) -> Level | None:
        """The highest bid, or None when nothing rests."""
        slot = self.occupied.bit_length() - 1
        return self.chunks[slot >> _CHUNK_BITS][-1] if slot >= 0 else None

    def __len__(self) -> int:
        """Count the levels."""
        return self.occupied.bit_count()

    def __bool__(self) -> bool:
        """Tell whether anything rests."""
        return self.occupied != 0

    def __iter__(self) -> Iterator[Level]:
        """Walk the levels, best first."""
        for chunk in reversed(self.chunks):
            yield from reversed(chunk)

    def at(self, price: int) -> Level | None:
        """Return the level at a price of $0.0001, or None."""
        slot, off_grid = divmod(price, self.step)
        if off_grid or not self.occupied >> slot & 1:
            return None
        index = slot >> _CHUNK_BITS
        chunk_bits = self.occupied >> (index << _CHUNK_BITS) & _CHUNK_FULL
        return self.chunks[index][(chunk_bits & _BELOW[slot & _CHUNK_MASK]).bit_count()]

    def changed(self, price: int, change: int, stamps: Stamps) -> "Ladder":
        """
        Add `change` to the size at `price`; a level that reaches 0 is gone.

        Args:
            price: $0.0001, between 0 and 10,000 exclusive.
            change: 0.01 contract, signed; 0 changes nothing and returns this ladder.
            stamps: of the message.

        Raises:
            ImpossibleChange: the level would fall below 0, or nothing rests there to take from.
        """
        step = self.step
        slot, off_grid = divmod(price, step)
        if off_grid:
            if change <= 0:
                if change:
                    raise ImpossibleChange(0)
                return self
            return self._refined(price).changed(price, change, stamps)
        occupied = self.occupied
        index = slot >> _CHUNK_BITS
        below = (occupied >> (index << _CHUNK_BITS) & _BELOW[slot & _CHUNK_MASK]).bit_count()
        levels = [*self.chunks[index]]
        if occupied & _BIT[slot]:
            size = levels[below].size + change
            if size > 0:
                if not change:
                    return self
                levels[below] = Level(price, size, stamps)
            elif size:
                raise ImpossibleChange(size - change)
            else:
                del levels[below]
                occupied ^= _BIT[slot]
        elif change > 0:
            levels.insert(below, Level(price, change, stamps))
            occupied |= _BIT[slot]
        elif change:
            raise ImpossibleChange(0)
        else:
            return self
        if len(self.chunks) == 1:
            return Ladder(step, occupied, (tuple(levels),))
        chunks = [*self.chunks]
        chunks[index] = tuple(levels)
        return Ladder(step, occupied, tuple(chunks))

    def replaced(self, levels: Iterable[tuple[int, int]], stamps: Stamps) -> "Ladder":
        """
        Return a ladder that holds these levels and no other.

        Args:
            levels: (price, size) in any order; each price once, no size below 1.
            stamps: of the message; every level bears them.
        """
        return built([Level(price, size, stamps) for price, size in levels])

    def _refined(self, price: int) -> "Ladder":
        levels = [*self]
        return built(levels, next(step for step in _STEPS if step < self.step and price % step == 0))


def built(levels: list[Level], step: int | None = None) -> Ladder:
    """
    Return the ladder of these levels, each price once.

    Args:
        levels: in any order; sorted in place.
        step: $0.0001 a slot; the coarsest that fits unless given.
    """
    levels.sort(key=_price)
    if step is None:
        step = _coarsest(levels)
    count = _CHUNKS[step]
    occupied = 0
    if count == 1:
        for level in levels:
            occupied |= _BIT[level.price // step]
        return Ladder(step, occupied, (tuple(levels),))
    chunks: list[list[Level]] = [[] for _ in range(count)]
    for level in levels:
        slot = level.price // step
        occupied |= _BIT[slot]
        chunks[slot >> _CHUNK_BITS].append(level)
    return Ladder(step, occupied, tuple(map(tuple, chunks)))


def _coarsest(levels: list[Level]) -> int:
    # The greatest common divisor, in one call instead of a generator for each step.
    common = gcd(*map(_price, levels))
    if not common % 100:
        return 100
    return 1 if common % 10 else 10


_price: Final[Callable[[Level], int]] = attrgetter("price")


EMPTY_LADDER: Final = built([])
"""A side on which nothing rests."""
