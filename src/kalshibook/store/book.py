"""
A book: both sides of one market and every fact a reader needs to judge them; immutable.

Both sides are bids. A YES bid at p is a NO ask at 1 - p, so asks are derived, never stored.
"""

from functools import lru_cache
from typing import Final

import msgspec

from kalshibook.numbers import ONE_DOLLAR
from kalshibook.store.ladder import EMPTY_LADDER, Ladder, Level, Stamps
from kalshibook.store.states import Condition, MarketStatus, condition_of
from kalshibook.wire import PriceRange

__all__ = [
    "Activity",
    "Book",
    "Market",
    "Origin",
    "Quote",
    "TopOfBook",
    "awaiting_book",
    "shared_origin",
    "top_changed",
]


class Market(msgspec.Struct, frozen=True, gc=False):
    """What is known of a market beside its book; it changes rarely, so books share it."""

    ticker: str
    number: int
    """The market's place in the store, assigned once."""
    status: MarketStatus | None = None
    """Trading status, or None when no lifecycle message was seen."""
    open_us: int | None = None
    close_us: int | None = None
    result: str | None = None
    """yes, no or scalar, once determined."""
    settlement_value: int | None = None
    """$0.0001."""
    event_ticker: str | None = None
    title: str | None = None
    price_ranges: tuple[PriceRange, ...] | None = None


class Activity(msgspec.Struct, frozen=True, gc=False):
    """Trading statistics, from upstream `ticker` and `trade` messages; None is unknown."""

    last_price: int | None = None
    last_size: int | None = None
    volume: int | None = None
    """0.01 contract."""
    open_interest: int | None = None
    """0.01 contract."""
    dollar_volume: int | None = None
    """Whole dollars."""
    dollar_open_interest: int | None = None
    """Whole dollars."""
    exchange_us: int | None = None


NO_ACTIVITY: Final = Activity()


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Where a market's numbers are counted: one subscription of one socket epoch of one gatherer."""

    source: str
    connection: str | None
    """None when the producer does not say."""
    sid: int | None
    partition: int
    """The partition by which its records come."""


# The books of one subscription share the object: a million of their own would be 48 MB, and equal ones
# are found equal by identity.
shared_origin: Final = lru_cache(maxsize=4_096)(Origin)
"""Return the origin of these facts, the same object each time."""


class Quote(msgspec.Struct, frozen=True, gc=False):
    """A price and the size offered or bid at it."""

    price: int
    """$0.0001."""
    size: int
    """0.01 contract."""


class TopOfBook(msgspec.Struct, frozen=True, gc=False):
    """Best prices of one market, taken from one version of its book; None is an absent side, never 0."""

    ticker: str
    yes_bid: Quote | None
    yes_ask: Quote | None
    no_bid: Quote | None
    no_ask: Quote | None
    condition: Condition
    status: MarketStatus | None
    stamps: Stamps | None
    """Of the book's last message, or None while awaiting the first."""
    version: int
    """The store's version in which this book last changed."""


class Book(msgspec.Struct, frozen=True, gc=False):
    """One market's book as of one version of the store."""

    market: Market
    yes: Ladder
    no: Ladder
    copy: Condition
    """State of our copy, whatever the market's status: awaiting, live or stale."""
    stale_reason: str | None
    """Why the copy is stale, or None."""
    origin: Origin | None
    """Where `sequence` counts, or None before the first snapshot."""
    sequence: int | None
    """The last number applied, or None when the producer gives none."""
    stamps: Stamps | None
    """Of the last message applied to the ladders or the condition."""
    version: int
    """The store's version in which this book last changed."""
    activity: Activity

    @property
    def ticker(self) -> str:
        """The market's ticker."""
        return self.market.ticker

    @property
    def condition(self) -> Condition:
        """How far this book can be trusted: awaiting, live, stale or closed."""
        return condition_of(self.copy, self.market.status)

    @property
    def yes_bid(self) -> Quote | None:
        """Highest resting YES bid."""
        return _bid(self.yes)

    @property
    def no_bid(self) -> Quote | None:
        """Highest resting NO bid, on the NO scale."""
        return _bid(self.no)

    @property
    def yes_ask(self) -> Quote | None:
        """One dollar less the best NO bid, with that level's size."""
        return _ask(self.no)

    @property
    def no_ask(self) -> Quote | None:
        """One dollar less the best YES bid, with that level's size."""
        return _ask(self.yes)

    @property
    def is_crossed(self) -> bool:
        """Whether the best bids sum to a dollar or more, which a healthy book never shows for long."""
        yes, no = self.yes.best, self.no.best
        return yes is not None and no is not None and yes.price + no.price >= ONE_DOLLAR

    def top(self) -> TopOfBook:
        """Return the best prices of both sides."""
        # Not by the properties, which look for each best level twice: bulk reads are made of this.
        market, yes, no = self.market, self.yes.best, self.no.best
        yes_bid = yes_ask = no_bid = no_ask = None
        if yes is not None:
            yes_bid, no_ask = Quote(yes.price, yes.size), Quote(ONE_DOLLAR - yes.price, yes.size)
        if no is not None:
            no_bid, yes_ask = Quote(no.price, no.size), Quote(ONE_DOLLAR - no.price, no.size)
        status = market.status
        return TopOfBook(
            market.ticker,
            yes_bid,
            yes_ask,
            no_bid,
            no_ask,
            self.copy if status is None else condition_of(self.copy, status),
            status,
            self.stamps,
            self.version,
        )

    def age_us(self, now_us: int) -> int | None:
        """
        Return the time since the exchange's last word on this market, in microseconds.

        Counted from the exchange's own stamp, else from the earliest hop that stamped the message;
        None while awaiting. A quiet market grows old without being wrong: see `condition` for doubt.
        """
        stamps = self.stamps
        if stamps is None:
            return None
        for stamp in (stamps.exchange_us, stamps.received_us, stamps.published_us, stamps.kafka_us):
            if stamp is not None:
                return now_us - stamp
        return now_us - stamps.applied_us


def awaiting_book(ticker: str, number: int) -> Book:
    """Return the book of a market of which nothing is known but its name."""
    market = Market(ticker, number)
    return Book(
        market, EMPTY_LADDER, EMPTY_LADDER, Condition.AWAITING, None, None, None, None, 0, NO_ACTIVITY
    )


def top_changed(old: Book, new: Book) -> bool:
    """Tell whether the best price or size of a side, the condition or the status differs."""
    return (
        (old.yes is not new.yes and _level_differs(old.yes.best, new.yes.best))
        or (old.no is not new.no and _level_differs(old.no.best, new.no.best))
        or old.copy is not new.copy
        or old.market.status is not new.market.status
    )


def _level_differs(old: Level | None, new: Level | None) -> bool:
    if old is new:
        return False
    return old is None or new is None or old.price != new.price or old.size != new.size


def _bid(ladder: Ladder) -> Quote | None:
    best = ladder.best
    return None if best is None else Quote(best.price, best.size)


def _ask(opposite: Ladder) -> Quote | None:
    best = opposite.best
    return None if best is None else Quote(ONE_DOLLAR - best.price, best.size)
