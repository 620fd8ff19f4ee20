"""
What makes two sightings one event: the rule by which several gatherers' rows become one archive. Pure.

Each gatherer has sockets of its own, and on each of them the exchange counts anew, so one change of
a book arrives under as many identities as there are gatherers. What they share is what it says.

1. A *sighting* is one frame of one stream; a stream is one subscription of one connection of one
   source. Its number there is its identity: the same number again is the same sighting again.
2. Sightings with the same *key* are one event. The key is made of what the exchange says: a trade's
   id; a change's market, exchange time, side, price and signed size; a statement's market, time and
   whole content.
3. The exchange says each thing once per stream. So when one stream has two sightings of a key, the
   exchange has said it twice, and the event's *count* is the greatest number of sightings that any
   one stream has. Two streams with one sighting each have seen the same thing.
4. A lifecycle message has no time that is the same on every connection. Sightings of the same
   content are one event when no more than `TOLD_WITHIN_US` lies between neighbours.

An event is a set of sightings, and joining two is the union of the sets: the order of arrival,
lateness and redelivery cannot matter. The one ambiguity, and why it can lie only in a stretch that
is named as lost, is in `docs/discussion/deduplication.md`.
"""

import bisect
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias, final

import msgspec

__all__ = [
    "TOLD_WITHIN_US",
    "Event",
    "Merged",
    "Place",
    "Sighting",
    "Stream",
    "change_key",
    "join",
    "statement_key",
    "told_key",
    "trade_key",
]

TOLD_WITHIN_US: Final = 10_000_000
"""
Between two sightings of one lifecycle message: far above what connections differ in, and below the
shortest time in which a market is paused, resumed and paused again with the very same words.
"""

Key: TypeAlias = tuple[Hashable, ...]


class Stream(NamedTuple):
    """Where a number counts."""

    source: str
    connection: str
    sid: int


class Place(NamedTuple):
    """The identity of one frame."""

    stream: Stream
    number: int
    """The frame's `seq`; where its channel has none, the microsecond of its receipt."""


class Sighting(NamedTuple):
    """One gatherer's row, reduced to what merging needs."""

    key: Key
    at_us: int
    """The exchange's time, else that of receipt."""
    place: Place
    received_us: int
    told: bool = False
    """Whether the key holds no time, and nearness decides (rule 4)."""


class Event(msgspec.Struct, frozen=True):
    """One production row: what the exchange said, and who saw it."""

    key: Key
    at_us: int
    """Of the earliest sighting."""
    last_at_us: int
    """Of the latest; another one only where nearness decides."""
    received_us: int
    """The first receipt by any source."""
    places: frozenset[Place]
    told: bool = False

    @property
    def count(self) -> int:
        """How often the exchange has said it: the most sightings that one stream has."""
        return max(Counter(place.stream for place in self.places).values())

    @property
    def sources(self) -> frozenset[str]:
        """Who saw it."""
        return frozenset(place.stream.source for place in self.places)

    @classmethod
    def of(cls, sighting: Sighting) -> "Event":
        """Return the event that is known from one sighting."""
        at_us = sighting.at_us
        return cls(
            sighting.key, at_us, at_us, sighting.received_us, frozenset([sighting.place]), sighting.told
        )


def join(one: Event, other: Event) -> Event:
    """Return the event of which both are a part; in any order, any number of times."""
    return Event(
        one.key,
        min(one.at_us, other.at_us),
        max(one.last_at_us, other.last_at_us),
        min(one.received_us, other.received_us),
        one.places | other.places,
        one.told,
    )


def change_key(ticker: str, at_us: int, side: Hashable, price: int, change: int) -> Key:
    """Return the key of a change of a level; a twin within the time's granularity raises its count."""
    return (ticker, at_us, side, price, change)


def trade_key(trade_id: str) -> Key:
    """Return the key of a trade: the exchange names it, so nothing else counts."""
    return (trade_id,)


def statement_key(ticker: str, at_us: int, content: Hashable) -> Key:
    """
    Return the key of a snapshot or of a market's statistics.

    They say how things stand, not what changed, so a twin adds nothing, and two that differ in
    anything are both kept: each is true of the connection that it was made for.
    """
    return (ticker, at_us, content)


def told_key(ticker: str, content: Hashable) -> Key:
    """Return the key of a lifecycle message, which nearness completes."""
    return (ticker, content)


@final
class Merged:
    """
    Events, by sightings that come in any order; the plain form of what the database does.

    Example:
        >>> merged = Merged()
        >>> for source in ("a", "b"):
        ...     place = Place(Stream(source, "c1", 1), 7)
        ...     merged.add([Sighting(trade_key("t1"), 1_000, place, 2_000)])
        1
        1
        >>> [(event.count, sorted(event.sources)) for event in merged]
        [(1, ['a', 'b'])]
    """

    def __init__(self) -> None:
        self._events: dict[Key, list[Event]] = {}

    def __iter__(self) -> Iterator[Event]:
        """Walk the events, by no particular order."""
        for events in self._events.values():
            yield from events

    def __len__(self) -> int:
        """Count the events."""
        return sum(map(len, self._events.values()))

    def add(self, sightings: Iterable[Sighting]) -> int:
        """Take sightings, and return how many were not known."""
        return sum(map(self._add, sightings))

    def _add(self, sighting: Sighting) -> bool:
        events = self._events.setdefault(sighting.key, [])
        margin_us = TOLD_WITHIN_US if sighting.told else 0
        # Those near it are neighbours in the list: it is sorted, and they do not overlap.
        low = bisect.bisect_left(events, sighting.at_us - margin_us, key=lambda event: event.last_at_us)
        high = bisect.bisect_right(events, sighting.at_us + margin_us, key=lambda event: event.at_us)
        if not sighting.told:
            low, high = 0, len(events)
        event = Event.of(sighting)
        known = 0
        for near in events[low:high]:
            known += sighting.place in near.places
            event = join(event, near)
        events[low:high] = [event]
        return not known
