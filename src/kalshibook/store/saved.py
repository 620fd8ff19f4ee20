"""
A book as it is saved and loaded: exact, versioned, with the place in its partition where it stands. Pure.

What a reader could ask of a book is kept to the last digit: both ladders, each level's stamps, market
facts, statistics, origin and number, the condition of our copy and why it is stale. Times are written as
differences from one of them, which makes most of them short.
"""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec

from kalshibook.errors import WireError
from kalshibook.store.book import NO_ACTIVITY, Activity, Book, Market, shared_origin
from kalshibook.store.heartbeats import LastSign
from kalshibook.store.ladder import EMPTY_LADDER, Ladder, Level, Stamps, built
from kalshibook.store.states import Condition, MarketStatus
from kalshibook.wire import PriceRange

__all__ = ["SAVED_VERSION", "Checkpoint", "SavedBook", "decode_checkpoint", "decode_saved", "save_book"]

SAVED_VERSION: Final = 1

_Times: TypeAlias = tuple[int | None, int | None, int | None, int | None, int | None, int]
_Levels: TypeAlias = list[
    tuple[Annotated[int, msgspec.Meta(gt=0, lt=10_000)], Annotated[int, msgspec.Meta(gt=0)], int]
]


class SavedBook(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One market, as a record of the topic of saved books."""

    version: int
    ticker: str
    written_us: int
    """When it was saved."""
    offset: int | None = None
    """Next offset of its partition: it holds what all records before it said; None without an origin."""
    copy: str = "awaiting"
    stale_reason: str | None = None
    source: str | None = None
    connection: str | None = None
    sid: int | None = None
    partition: int = 0
    sequence: int | None = None
    base_us: int = 0
    times: list[_Times] = []
    """Stamps as differences from `base_us`; the first are the book's own, if it has some."""
    yes: _Levels = []
    """Price, size, and the number of its stamps; ascending."""
    no: _Levels = []
    activity: (
        tuple[int | None, int | None, int | None, int | None, int | None, int | None, int | None] | None
    ) = None
    status: str | None = None
    open_us: int | None = None
    close_us: int | None = None
    result: str | None = None
    settlement_value: int | None = None
    event_ticker: str | None = None
    title: str | None = None
    price_ranges: tuple[tuple[int, int, int], ...] | None = None

    def book(self, number: int, version: int) -> Book:
        """
        Return the book.

        Args:
            number: the market's, in this store.
            version: the store's, in which it appears.

        Raises:
            WireError: what is saved contradicts itself.
        """
        try:
            stamps = [_stamps(self.base_us, times) for times in self.times]
            return Book(
                Market(
                    self.ticker,
                    number,
                    None if self.status is None else MarketStatus(self.status),
                    self.open_us,
                    self.close_us,
                    self.result,
                    self.settlement_value,
                    self.event_ticker,
                    self.title,
                    None
                    if self.price_ranges is None
                    else tuple(PriceRange(*one) for one in self.price_ranges),
                ),
                _ladder(self.yes, stamps),
                _ladder(self.no, stamps),
                Condition(self.copy),
                self.stale_reason,
                None
                if self.source is None
                else shared_origin(self.source, self.connection, self.sid, self.partition),
                self.sequence,
                stamps[0] if stamps else None,
                version,
                NO_ACTIVITY if self.activity is None else Activity(*self.activity),
            )
        except (IndexError, ValueError) as error:
            raise WireError("$", f"the saved book of {self.ticker!r} contradicts itself: {error}") from None


class Checkpoint(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """All books of a partition are saved as of an offset: written when the brokers have them all."""

    version: int
    topic: str
    """Whose partition."""
    partition: int
    offset: int
    """Next offset: reading goes on here."""
    begun_us: int
    """When the version of the store was taken that the books are of."""
    signs: list[LastSign] = []
    """The last sign of life of every source there: who died before it must not look alive after a restart."""


_Saved = TypeVar("_Saved", SavedBook, Checkpoint)

_encoder: Final = msgspec.json.Encoder()
_book_decoder: Final = msgspec.json.Decoder(SavedBook)
_checkpoint_decoder: Final = msgspec.json.Decoder(Checkpoint)


def save_book(book: Book, offset: int | None, written_us: int) -> bytes:
    """
    Return a book as a record's value.

    Args:
        book: of a cut.
        offset: the cut's next offset of the book's partition; None for a book without an origin.
        written_us: now.
    """
    market, origin, activity, own = book.market, book.origin, book.activity, book.stamps
    base_us = 0 if own is None else own.applied_us
    places: dict[int, int] = {}
    times: list[_Times] = []
    if own is not None:
        places[id(own)] = 0
        times.append(_times(own, base_us))
    saved = SavedBook(
        version=SAVED_VERSION,
        ticker=market.ticker,
        written_us=written_us,
        offset=offset,
        copy=book.copy.value,
        stale_reason=book.stale_reason,
        source=None if origin is None else origin.source,
        connection=None if origin is None else origin.connection,
        sid=None if origin is None else origin.sid,
        partition=0 if origin is None else origin.partition,
        sequence=book.sequence,
        base_us=base_us,
        times=times,
        yes=_levels(book.yes, base_us, places, times),
        no=_levels(book.no, base_us, places, times),
        activity=None if activity is NO_ACTIVITY else msgspec.structs.astuple(activity),
        status=None if market.status is None else market.status.value,
        open_us=market.open_us,
        close_us=market.close_us,
        result=market.result,
        settlement_value=market.settlement_value,
        event_ticker=market.event_ticker,
        title=market.title,
        price_ranges=None
        if market.price_ranges is None
        else tuple((one.start, one.end, one.step) for one in market.price_ranges),
    )
    return _encoder.encode(saved)


def decode_saved(value: bytes) -> SavedBook:
    """
    Read a record of a saved book.

    Raises:
        WireError: it is none, or of another version.
    """
    return _decoded(_book_decoder, value)


def decode_checkpoint(value: bytes) -> Checkpoint:
    """
    Read a record of a checkpoint.

    Raises:
        WireError: it is none, or of another version.
    """
    return _decoded(_checkpoint_decoder, value)


def _decoded(decoder: msgspec.json.Decoder[_Saved], value: bytes) -> _Saved:
    try:
        found = decoder.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise WireError("$", str(error)) from None
    if found.version != SAVED_VERSION:
        raise WireError("$.version", f"saved by version {found.version}, which is not {SAVED_VERSION}")
    return found


def _levels(ladder: Ladder, base_us: int, places: dict[int, int], times: list[_Times]) -> _Levels:
    levels: _Levels = []
    for chunk in ladder.chunks:
        for level in chunk:
            # By identity: the levels of one message share their stamps, and comparing costs more.
            place = places.get(id(level.stamps))
            if place is None:
                place = places[id(level.stamps)] = len(times)
                times.append(_times(level.stamps, base_us))
            levels.append((level.price, level.size, place))
    return levels


def _times(stamps: Stamps, base_us: int) -> _Times:
    return (
        None if stamps.exchange_us is None else stamps.exchange_us - base_us,
        None if stamps.received_us is None else stamps.received_us - base_us,
        None if stamps.published_us is None else stamps.published_us - base_us,
        None if stamps.kafka_us is None else stamps.kafka_us - base_us,
        None if stamps.consumed_us is None else stamps.consumed_us - base_us,
        stamps.applied_us - base_us,
    )


def _stamps(base_us: int, times: _Times) -> Stamps:
    exchange, received, published, kafka, consumed, applied = times
    return Stamps(
        None if exchange is None else exchange + base_us,
        None if received is None else received + base_us,
        None if published is None else published + base_us,
        None if kafka is None else kafka + base_us,
        None if consumed is None else consumed + base_us,
        applied + base_us,
    )


def _ladder(levels: _Levels, stamps: Sequence[Stamps]) -> Ladder:
    if not levels:
        return EMPTY_LADDER
    return built([Level(price, size, stamps[place]) for price, size, place in levels])
