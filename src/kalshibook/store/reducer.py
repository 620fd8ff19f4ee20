"""
How one message changes one book: plain functions from (book, message) to (book, outcome).

Sequence numbers count per subscription across all its markets, so a jump in one market's numbers
says nothing. What a consumer can judge is per origin (source, connection, sid): an equal number is
a duplicate; a smaller one a replay, or, when it was received later, a counter that was reset; and
a `previous_sequence` beyond what was applied proves a loss. Everything doubtful turns the book
stale; only a snapshot heals it.
"""

from typing import Final

import msgspec

from kalshibook.store.book import Activity, Book, Market, Origin, shared_origin
from kalshibook.store.incidents import IncidentKind
from kalshibook.store.ladder import EMPTY_LADDER, ImpossibleChange, Stamps
from kalshibook.store.states import (
    CHANGEOVER,
    COPIES,
    STATUSES,
    Condition,
    CopyEvent,
    MarketStatus,
    StatusEvent,
    Word,
)
from kalshibook.wire import (
    BookDelta,
    BookSnapshot,
    Envelope,
    MarketDescription,
    MarketLifecycle,
    Ticker,
    Trade,
)

__all__ = [
    "Arrival",
    "Outcome",
    "Result",
    "apply_delta",
    "apply_description",
    "apply_lifecycle",
    "apply_snapshot",
    "apply_ticker",
    "apply_trade",
    "distrusted",
    "doubt",
    "is_on_grid",
    "move_status",
    "numbered",
]


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """Where a message came from and when it passed each hop; times in microseconds, None is unknown."""

    source: str
    connection: str | None
    sid: int | None
    sequence: int | None
    previous_sequence: int | None
    received_us: int | None
    published_us: int | None
    kafka_us: int | None
    consumed_us: int | None
    partition: int
    offset: int
    doubt: str | None = None
    """Why its gatherer does not trust the message, or None."""

    @classmethod
    def of(
        cls, envelope: Envelope, *, partition: int, offset: int, kafka_us: int | None, consumed_us: int | None
    ) -> "Arrival":
        """Take over what an envelope says; its frame's own `sid` and `seq` stand in for missing ones."""
        sid, sequence = envelope.sid, envelope.sequence
        if sid is None:
            sid = getattr(envelope.payload, "sid", None)
        if sequence is None:
            sequence = getattr(envelope.payload, "seq", None)
        received_us, published_us = envelope.received_timestamp_us, envelope.published_timestamp_us
        return cls(
            envelope.source,
            envelope.connection,
            sid,
            sequence,
            envelope.previous_sequence,
            envelope.received_us if received_us is None else received_us,
            envelope.published_us if published_us is None else published_us,
            kafka_us,
            consumed_us,
            partition,
            offset,
            envelope.doubt,
        )

    def stamps(self, exchange_us: int | None, applied_us: int) -> Stamps:
        """Return the stamps of a message that is applied now."""
        return Stamps(
            exchange_us, self.received_us, self.published_us, self.kafka_us, self.consumed_us, applied_us
        )


class Outcome(Word):
    """What became of a message; every message has exactly one."""

    SNAPSHOT = "snapshot"
    """A book was replaced."""
    DELTA = "delta"
    """A level changed."""
    UNCHANGED = "unchanged"
    """A change of 0."""
    TRADE = "trade"
    TICKER = "ticker"
    LIFECYCLE = "lifecycle"
    DESCRIPTION = "description"
    """What the exchange's lists say of a market."""
    EVENT = "event"
    """A message about an event, passed on."""
    NOTICE = "notice"
    """What a gatherer says of itself."""
    OTHER = "other"
    """A type that carries no market data."""
    DUPLICATE = "duplicate"
    """Its number, or its trade id, was applied before."""
    REPLAYED = "replayed"
    """Older than what was applied."""
    FOREIGN = "foreign"
    """From another gatherer than the one this live book follows."""
    AWAITING = "awaiting"
    """A change before any snapshot: there is no book to change."""
    WHILE_STALE = "while_stale"
    """A change of a stale book: not applied, its number is."""
    GAP = "gap"
    """A loss was found; the book is stale."""
    IMPOSSIBLE = "impossible"
    """Took away more than rests; the book is stale."""
    CROSSED = "crossed"
    """A crossed snapshot; the book is stale."""
    RESET = "reset"
    """The counter went backwards; the book is stale."""
    UNANCHORED = "unanchored"
    """A change on a connection without a snapshot; the book is stale."""
    REJECTED = "rejected"
    """Could not be read."""
    RESTORED = "restored"
    """Held already by the book that was restored."""
    SKIPPED = "skipped"
    """An offset without a message for a store."""


# A member of an enumeration costs a call when it is looked up by its name.
_LIVE: Final = Condition.LIVE
_DELTA: Final = Outcome.DELTA

# The exchange stamps snapshots when it sends them and changes when they happen: by so much they may
# stand in the wrong order.
_CLEARLY_LATER_US: Final = 250_000


_OF_BOOKS: Final = frozenset({Outcome.SNAPSHOT, Outcome.DELTA, Outcome.UNCHANGED})


class Result(msgspec.Struct, frozen=True, gc=False):
    """A book after a message. The identical book means that nothing changed."""

    book: Book
    outcome: Outcome
    incident: IncidentKind | None = None
    detail: str = ""


def apply_snapshot(
    book: Book, event: BookSnapshot, arrival: Arrival, applied_us: int, version: int
) -> Result:
    """Replace both sides, unless the message is known already or from a gatherer that is not followed."""
    origin, sequence = book.origin, arrival.sequence
    incident: IncidentKind | None = None
    detail = ""
    if origin is not None:
        if origin.source != arrival.source:
            if not CHANGEOVER[book.copy]:
                return Result(book, Outcome.FOREIGN)
            incident = IncidentKind.SOURCE_CHANGED
            detail = f"from {origin.source!r} to {arrival.source!r}"
        elif _same_subscription(origin, arrival):
            if sequence is not None and book.sequence is not None and sequence <= book.sequence:
                # A producer that names no connections reuses sid and numbers after a reconnect, and the
                # markets of a subscription then get their snapshots with the same numbers again.
                if sequence == book.sequence and (
                    arrival.connection is not None or _is_replay(arrival, event.exchange_us, book)
                ):
                    return Result(book, Outcome.DUPLICATE)
                if _is_replay(arrival, event.exchange_us, book):
                    return Result(book, Outcome.REPLAYED)
                incident = IncidentKind.RESET
                detail = f"number {sequence} after {book.sequence}; this snapshot is the new base"
            elif _proves_loss(arrival, book.sequence):
                incident = IncidentKind.GAP
                detail = _loss(arrival, book.sequence) + "; this snapshot repairs it"
        elif _is_earlier(arrival, event.exchange_us, book):
            return Result(book, Outcome.REPLAYED)
    if book.copy is Condition.STALE and incident is None:
        incident, detail = IncidentKind.HEALED, f"was stale: {book.stale_reason}"
    stamps = arrival.stamps(event.exchange_us, applied_us)
    fresh = Book(
        book.market,
        EMPTY_LADDER.replaced(event.yes, stamps) if event.yes else EMPTY_LADDER,
        EMPTY_LADDER.replaced(event.no, stamps) if event.no else EMPTY_LADDER,
        COPIES[book.copy][CopyEvent.SNAPSHOT],
        None,
        _origin(book, arrival),
        sequence,
        stamps,
        version,
        book.activity,
    )
    if fresh.is_crossed:
        reason = "the snapshot's best bids sum to a dollar or more; is its NO side on the YES scale?"
        return Result(doubt(fresh, reason, stamps, version), Outcome.CROSSED, IncidentKind.CROSSED, reason)
    return Result(fresh, Outcome.SNAPSHOT, incident, detail)


def apply_delta(book: Book, event: BookDelta, arrival: Arrival, applied_us: int, version: int) -> Result:
    """Change one level of one side; the other side stays the identical object."""
    origin = book.origin
    if origin is None:
        return Result(book, Outcome.AWAITING)
    sequence, last = arrival.sequence, book.sequence
    if origin.source != arrival.source:
        return Result(book, Outcome.FOREIGN)
    if (
        origin.connection != arrival.connection
        or origin.sid != arrival.sid
        or origin.partition != arrival.partition
    ):
        if _is_earlier(arrival, event.exchange_us, book):
            return Result(book, Outcome.REPLAYED)
        if not _same_subscription(origin, arrival) or arrival.previous_sequence is None:
            detail = (
                f"a change on connection {arrival.connection!r} sid {arrival.sid}"
                f" partition {arrival.partition} before its snapshot"
            )
            # It counts on another subscription than the book's, so its number is not noted.
            arrival = msgspec.structs.replace(arrival, sequence=None)
            return _doubted(
                book, detail, Outcome.UNANCHORED, IncidentKind.UNANCHORED, arrival, event, applied_us, version
            )
        # Partitions were added, and keys moved. Partitions are read side by side, in no order: only
        # the previous number, judged below, tells that nothing still waits in the old one.
        origin = _origin(book, arrival)
    if sequence is not None and last is not None:
        if sequence <= last:
            if sequence == last:
                return Result(book, Outcome.DUPLICATE)
            if _is_replay(arrival, event.exchange_us, book):
                return Result(book, Outcome.REPLAYED)
            detail = f"number {sequence} after {last} on a live subscription"
            return _doubted(
                book, detail, Outcome.RESET, IncidentKind.RESET, arrival, event, applied_us, version
            )
        if arrival.previous_sequence is not None and arrival.previous_sequence > last:
            detail = _loss(arrival, last)
            return _doubted(book, detail, Outcome.GAP, IncidentKind.GAP, arrival, event, applied_us, version)
    if book.copy is not _LIVE:
        return Result(_numbered(book, sequence), Outcome.WHILE_STALE)
    stamps = Stamps(
        event.exchange_us,
        arrival.received_us,
        arrival.published_us,
        arrival.kafka_us,
        arrival.consumed_us,
        applied_us,
    )
    yes, no = book.yes, book.no
    try:
        if event.side == "yes":
            yes = yes.changed(event.price, event.change, stamps)
        else:
            no = no.changed(event.price, event.change, stamps)
    except ImpossibleChange as impossible:
        detail = (
            f"{event.side} at {event.price}: {event.change} of {impossible.resting} resting (0.01 contract)"
        )
        return _doubted(
            book, detail, Outcome.IMPOSSIBLE, IncidentKind.IMPOSSIBLE, arrival, event, applied_us, version
        )
    if yes is book.yes and no is book.no:
        return Result(_numbered(book, sequence), Outcome.UNCHANGED)
    changed = Book(book.market, yes, no, _LIVE, None, origin, sequence, stamps, version, book.activity)
    return Result(changed, _DELTA)


def apply_trade(book: Book, event: Trade, version: int) -> Result:
    """Take the last price; the resting size that a trade takes arrives as its own change."""
    activity = book.activity
    if event.is_block_trade or _is_older(event.exchange_us, activity):
        return Result(book, Outcome.TRADE)
    traded = msgspec.structs.replace(
        activity,
        last_price=event.yes_price,
        last_size=event.size,
        exchange_us=event.exchange_us if event.exchange_us is not None else activity.exchange_us,
    )
    return Result(msgspec.structs.replace(book, activity=traded, version=version), Outcome.TRADE)


def apply_ticker(book: Book, event: Ticker, version: int) -> Result:
    """Take the statistics that are there; quotes come from the book itself."""
    activity = book.activity
    if _is_older(event.exchange_us, activity):
        return Result(book, Outcome.REPLAYED)
    fresh = Activity(
        *(
            held if found is None else found
            for found, held in (
                (event.last_price, activity.last_price),
                (event.last_size, activity.last_size),
                (event.volume, activity.volume),
                (event.open_interest, activity.open_interest),
                (event.dollar_volume, activity.dollar_volume),
                (event.dollar_open_interest, activity.dollar_open_interest),
                (event.exchange_us, activity.exchange_us),
            )
        )
    )
    if fresh == activity:
        return Result(book, Outcome.TICKER)
    return Result(msgspec.structs.replace(book, activity=fresh, version=version), Outcome.TICKER)


_STATUS_EVENTS: Final = {
    "created": StatusEvent.CREATED,
    "activated": StatusEvent.ACTIVATED,
    "deactivated": StatusEvent.DEACTIVATED,
    "determined": StatusEvent.DETERMINED,
    "settled": StatusEvent.SETTLED,
}


def apply_lifecycle(book: Book, event: MarketLifecycle, version: int) -> Result:
    """Take what the message carries, and move the trading status by the table."""
    market = book.market
    status = market.status
    step = _STATUS_EVENTS.get(event.event_type)
    if step is not None and not _is_told_again(event, market):
        status = STATUSES[status][step]
    fresh = Market(
        market.ticker,
        market.number,
        status,
        market.open_us if event.open_us is None else event.open_us,
        market.close_us if event.close_us is None else event.close_us,
        market.result if event.result is None else event.result,
        market.settlement_value if event.settlement_value is None else event.settlement_value,
        market.event_ticker if event.event_ticker is None else event.event_ticker,
        market.title if event.title is None else event.title,
        market.price_ranges if event.price_ranges is None else event.price_ranges,
    )
    if fresh == market:
        return Result(book, Outcome.LIFECYCLE)
    return Result(msgspec.structs.replace(book, market=fresh, version=version), Outcome.LIFECYCLE)


# How far a market's life has come. Lists may be older than the messages beside them, so a description
# never takes a market back; only a message reopens one that has closed.
_STAGES: Final = {
    MarketStatus.INITIALIZED: 1,
    MarketStatus.ACTIVE: 2,
    MarketStatus.INACTIVE: 2,
    MarketStatus.CLOSED: 3,
    MarketStatus.DETERMINED: 4,
    MarketStatus.DISPUTED: 5,
    MarketStatus.AMENDED: 5,
    MarketStatus.FINALIZED: 6,
}


_STATUS_WORDS: Final = {status.value: status for status in MarketStatus}


def apply_description(book: Book, event: MarketDescription, version: int) -> Result:
    """Take what is known, and the trading status unless it lies behind the one that is held."""
    market = book.market
    status = market.status
    # A word of tomorrow is passed over; what is held stays.
    told = _STATUS_WORDS.get(event.status)
    if told is not None and (status is None or _STAGES[told] >= _STAGES[status]):
        status = told
    fresh = msgspec.structs.replace(
        market,
        status=status,
        open_us=market.open_us if event.open_us is None else event.open_us,
        close_us=market.close_us if event.close_us is None else event.close_us,
        event_ticker=market.event_ticker if event.event_ticker is None else event.event_ticker,
        title=market.title if event.title is None else event.title,
        price_ranges=market.price_ranges if event.price_ranges is None else event.price_ranges,
    )
    if fresh == market:
        return Result(book, Outcome.DESCRIPTION)
    return Result(msgspec.structs.replace(book, market=fresh, version=version), Outcome.DESCRIPTION)


def _is_told_again(event: MarketLifecycle, market: Market) -> bool:
    # Several gatherers see each message, and lifecycle messages have no id; a second determination
    # amends the first only when it says something else.
    return (
        event.event_type == "determined"
        and market.status is MarketStatus.DETERMINED
        and (event.result, event.settlement_value) == (market.result, market.settlement_value)
    )


def move_status(book: Book, step: StatusEvent, version: int) -> Book:
    """Move the trading status by the table; the identical book when it stays."""
    market = book.market
    status: MarketStatus | None = STATUSES[market.status][step]
    if status is market.status:
        return book
    return msgspec.structs.replace(
        book, market=msgspec.structs.replace(market, status=status), version=version
    )


def numbered(book: Book, arrival: Arrival) -> Book:
    """
    Note the number of a message that says nothing of the book: the one after it will name it.

    Where a loss before it shows, nothing is noted, so that the next change shows the loss too.
    """
    origin, sequence, last = book.origin, arrival.sequence, book.sequence
    if origin is None or origin.source != arrival.source or not _same_subscription(origin, arrival):
        return book
    if sequence is None or last is None or sequence < last or _proves_loss(arrival, last):
        return book
    return _numbered(book, sequence)


def doubt(book: Book, reason: str, stamps: Stamps | None, version: int) -> Book:
    """Turn a live book stale; an awaiting one has nothing to doubt, a stale one keeps its first reason."""
    copy = COPIES[book.copy][CopyEvent.DOUBT]
    if copy is book.copy:
        return book
    return msgspec.structs.replace(
        book,
        copy=copy,
        stale_reason=reason,
        stamps=book.stamps if stamps is None else stamps,
        version=version,
    )


def distrusted(before: Book, result: Result, reason: str, version: int) -> Result:
    """
    Put a book in doubt whose message was applied although its gatherer does not trust it.

    Args:
        before: the book before the message.
        result: what the message made of it.
        reason: the gatherer's.
        version: of the book that is returned.
    """
    if result.outcome not in _OF_BOOKS:
        return result
    stale = doubt(result.book, reason or "its gatherer does not trust it", None, version)
    incident, detail = result.incident, result.detail
    if incident is None or incident is IncidentKind.HEALED:
        # A stale book that is refreshed in doubt again and again is one incident, not many.
        is_news = before.copy is not Condition.STALE
        incident, detail = (IncidentKind.DOUBTED, reason) if is_news else (None, "")
    return Result(stale, result.outcome, incident, detail)


def is_on_grid(market: Market, price: int) -> bool:
    """Tell whether a price is on the market's grid; without a known grid every price is."""
    ranges = market.price_ranges
    if ranges is None:
        return True
    # A loop, because a generator costs more than all it looks at, and this is asked for every change.
    for band in ranges:
        start, step = band.start, band.step
        if start <= price <= band.end and step and (price - start) % step == 0:
            return True
    return False


def _doubted(
    book: Book,
    detail: str,
    outcome: Outcome,
    incident: IncidentKind,
    arrival: Arrival,
    event: BookDelta,
    applied_us: int,
    version: int,
) -> Result:
    if book.copy is not Condition.LIVE:
        return Result(_numbered(book, arrival.sequence), outcome)
    stamps = arrival.stamps(event.exchange_us, applied_us)
    stale = doubt(book, f"{incident.value}: {detail}", stamps, version)
    return Result(_numbered(stale, arrival.sequence), outcome, incident, detail)


def _numbered(book: Book, sequence: int | None) -> Book:
    if sequence is None or sequence == book.sequence:
        return book
    return msgspec.structs.replace(book, sequence=sequence)


def _origin(book: Book, arrival: Arrival) -> Origin:
    held = book.origin
    if (
        held is not None
        and held.source == arrival.source
        and held.partition == arrival.partition
        and _same_subscription(held, arrival)
    ):
        return held
    return shared_origin(arrival.source, arrival.connection, arrival.sid, arrival.partition)


def _same_subscription(origin: Origin, arrival: Arrival) -> bool:
    return origin.connection == arrival.connection and origin.sid == arrival.sid


def _proves_loss(arrival: Arrival, last: int | None) -> bool:
    return arrival.previous_sequence is not None and last is not None and arrival.previous_sequence > last


def _loss(arrival: Arrival, last: int | None) -> str:
    return (
        f"before {arrival.sequence}, {arrival.previous_sequence} was published, but {last} was the last seen"
    )


def _is_replay(arrival: Arrival, exchange_us: int | None, book: Book) -> bool:
    """
    Tell whether a smaller number is an old message come again rather than a counter that was reset.

    It must be known to be no younger than what was applied. What cannot be known counts as a
    reset: a replay taken for one costs a resync, a reset taken for a replay would freeze the book.
    """
    sequence, previous = arrival.sequence, arrival.previous_sequence
    if sequence is not None and previous is not None and previous > sequence:
        return False
    held = book.stamps.received_us if book.stamps is not None else None
    if arrival.received_us is None or held is None or arrival.received_us > held:
        return False
    return arrival.connection is not None or not _is_clearly_later(exchange_us, book)


def _is_earlier(arrival: Arrival, exchange_us: int | None, book: Book) -> bool:
    """Tell whether a message is known to have been received before the book's last one."""
    held = book.stamps.received_us if book.stamps is not None else None
    if arrival.received_us is None or held is None or arrival.received_us >= held:
        return False
    return not _is_clearly_later(exchange_us, book)


def _is_clearly_later(exchange_us: int | None, book: Book) -> bool:
    """
    Tell whether the exchange's clock went on since the book's last message, whatever the gatherer's says.

    A gatherer whose clock was set back receives new messages "before" old ones; taken for replays,
    they would leave the book as it was, and live.
    """
    held = book.stamps.exchange_us if book.stamps is not None else None
    return exchange_us is not None and held is not None and exchange_us > held + _CLEARLY_LATER_US


def _is_older(exchange_us: int | None, activity: Activity) -> bool:
    return exchange_us is not None and activity.exchange_us is not None and exchange_us < activity.exchange_us
