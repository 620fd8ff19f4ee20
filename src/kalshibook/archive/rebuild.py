"""
A book at any time, from a snapshot and the changes after it. Pure.

Changes add up, so their order within the stretch does not matter; what matters is which of them the
snapshot already contains. Where one of the snapshot's own streams saw the change, the numbers say
it exactly. Where none did, because that gatherer lost it or was not subscribed yet, the exchange's
times decide: a snapshot contains what happened up to the moment at which it was sent.

"At a time" is by the exchange's clock: every change with a time up to that one is in.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Final, Protocol

import msgspec

from kalshibook.archive.gaps import Coverage
from kalshibook.store import EMPTY_LADDER, Activity, Book, Condition, Ladder, Market, Stamps
from kalshibook.wire import Side

__all__ = [
    "NEAR_US",
    "SIDES",
    "Archive",
    "Books",
    "KnownChange",
    "KnownSnapshot",
    "KnownTrade",
    "Sum",
    "added_up",
    "book_from",
    "counted_after",
    "latest_first",
    "sums",
]

NEAR_US: Final = 60_000_000
"""How far from a snapshot a change is judged by its numbers; farther away its time is beyond doubt."""

SIDES: Final[dict[int, Side]] = {1: "yes", 2: "no"}
"""By their numbers in the tables."""


class KnownSnapshot(msgspec.Struct, frozen=True):
    """A stored snapshot."""

    ticker: str
    at_us: int
    """When the exchange sent it, else when it was received."""
    places: tuple[tuple[Hashable, int], ...]
    """Stream and number of each sighting: the book contains what those streams said up to there."""
    yes: tuple[tuple[int, int], ...]
    no: tuple[tuple[int, int], ...]


class KnownChange(msgspec.Struct, frozen=True):
    """A stored change of one level."""

    at_us: int
    side: Side
    price: int
    change: int
    count: int
    """How often it happened."""
    places: tuple[tuple[Hashable, int], ...]


class KnownTrade(msgspec.Struct, frozen=True):
    """A stored trade."""

    at_us: int
    trade_id: str
    yes_price: int
    size: int
    taker_side: Side | None


class Sum(msgspec.Struct, frozen=True):
    """What was added to one level in all."""

    side: Side
    price: int
    change: int
    last_us: int
    """The latest exchange time in it."""


class Books(Protocol):
    """What books are rebuilt from."""

    def snapshots_before(self, ticker: str, at_us: int) -> Sequence[KnownSnapshot]:
        """Return the last snapshots up to a time, the latest first; none of another kind than books."""

    def sums_after(self, snapshot: KnownSnapshot, at_us: int) -> Sequence[Sum]:
        """Return what was added since a snapshot, up to and including a time."""

    def coverage(self, ticker: str, from_us: int, until_us: int) -> Coverage:
        """Return who watched a market in a stretch of time."""


class Archive(Books, Protocol):
    """A database, or Parquet files: books, and what happened to them."""

    def tickers(self, from_us: int, until_us: int) -> list[str]:
        """Return the markets of which anything is stored in a stretch of time, sorted."""

    def changes(self, ticker: str, from_us: int, until_us: int) -> list[KnownChange]:
        """Return a market's changes of a stretch of time, its end exclusive, in no order."""

    def trades(self, ticker: str, from_us: int, until_us: int) -> list[KnownTrade]:
        """Return a market's trades on the book, of a stretch of time, its end exclusive, in no order."""


def counted_after(snapshot: KnownSnapshot, change: KnownChange) -> int:
    """Return how many of a change's occurrences the snapshot does not contain yet."""
    reached = dict(snapshot.places)
    after: dict[Hashable, int] = {}
    seen: dict[Hashable, int] = {}
    for stream, number in change.places:
        if stream in reached:
            seen[stream] = seen.get(stream, 0) + 1
            after[stream] = after.get(stream, 0) + (number > reached[stream])
    if not seen:
        return change.count if change.at_us > snapshot.at_us else 0
    stream = max(seen, key=lambda one: (seen[one], after[one]))
    # Twins that this stream lost and another saw go with those it saw last.
    return after[stream] + (change.count - seen[stream] if after[stream] else 0)


def sums(snapshot: KnownSnapshot, changes: Iterable[KnownChange], at_us: int) -> list[Sum]:
    """Return what changes add to a snapshot's levels up to a time."""
    added: dict[tuple[Side, int], tuple[int, int]] = {}
    for change in changes:
        if change.at_us <= at_us and (count := counted_after(snapshot, change)):
            total, last_us = added.get((change.side, change.price), (0, 0))
            added[change.side, change.price] = (total + count * change.change, max(last_us, change.at_us))
    return [Sum(side, price, total, last_us) for (side, price), (total, last_us) in added.items()]


def added_up(*parts: Iterable[Sum]) -> list[Sum]:
    """Return what several parts of a stretch add in all."""
    levels: dict[tuple[Side, int], Sum] = {}
    for part in parts:
        for one in part:
            key = (one.side, one.price)
            held = levels.get(key, Sum(one.side, one.price, 0, 0))
            levels[key] = Sum(*key, held.change + one.change, max(held.last_us, one.last_us))
    return list(levels.values())


def latest_first(snapshots: Iterable[KnownSnapshot]) -> list[KnownSnapshot]:
    """Return snapshots by their times, equal ones by their numbers."""

    def when(snapshot: KnownSnapshot) -> tuple[int, int]:
        return snapshot.at_us, max((number for _, number in snapshot.places), default=0)

    return sorted(snapshots, key=when, reverse=True)


def book_from(archive: Books, ticker: str, at_us: int) -> Book:
    """
    Return the book of a market as the exchange had it at a time.

    Its `condition` is awaiting when there is no snapshot before that time, and stale, with the
    reason, when something is known to be missing in between; `stamps` hold the exchange time of
    each level's last change, or of the snapshot.
    """
    market = Market(ticker, 0)
    candidates = archive.snapshots_before(ticker, at_us)
    if not candidates:
        return _book(market, EMPTY_LADDER, EMPTY_LADDER, Condition.AWAITING, None, None)
    coverage = archive.coverage(ticker, candidates[-1].at_us, at_us)
    snapshot = next((one for one in candidates if not _doubted(coverage, one)), candidates[0])
    added = archive.sums_after(snapshot, at_us)
    doubts = [lost.reason for lost in coverage.lost(snapshot.at_us, at_us)]
    sides: dict[Side, Ladder] = {}
    both: tuple[tuple[Side, tuple[tuple[int, int], ...]], ...] = (("yes", snapshot.yes), ("no", snapshot.no))
    for side, levels in both:
        sizes, times = dict(levels), dict.fromkeys(dict(levels), snapshot.at_us)
        for one in added:
            if one.side == side:
                sizes[one.price] = sizes.get(one.price, 0) + one.change
                times[one.price] = one.last_us
        # Taken away more than rests: nothing is clamped in silence.
        doubts += [f"{side} at {price}: {size} (0.01 contract)" for price, size in sizes.items() if size < 0]
        sides[side] = _ladder(sizes, times, at_us)
    last_us = max((one.last_us for one in added), default=snapshot.at_us)
    condition = Condition.STALE if doubts else Condition.LIVE
    return _book(
        market, sides["yes"], sides["no"], condition, "; ".join(doubts) or None, _stamps(last_us, at_us)
    )


def _doubted(coverage: Coverage, snapshot: KnownSnapshot) -> bool:
    # A change that its stream lost just behind it cannot be placed before or after it.
    return any(coverage.doubted(stream, snapshot.at_us) for stream, _ in snapshot.places)


def _ladder(sizes: dict[int, int], times: dict[int, int], at_us: int) -> Ladder:
    ladder = EMPTY_LADDER
    by_time: dict[int, list[tuple[int, int]]] = {}
    for price, size in sizes.items():
        if size > 0:
            by_time.setdefault(times[price], []).append((price, size))
    for time_us, levels in by_time.items():
        stamps = _stamps(time_us, at_us)
        for price, size in levels:
            ladder = ladder.changed(price, size, stamps)
    return ladder


def _stamps(exchange_us: int, at_us: int) -> Stamps:
    return Stamps(exchange_us, None, None, None, None, at_us)


def _book(
    market: Market, yes: Ladder, no: Ladder, condition: Condition, reason: str | None, stamps: Stamps | None
) -> Book:
    return Book(market, yes, no, condition, reason, None, None, stamps, 0, Activity())
