"""Small makers of messages for store tests; numbers rise by themselves."""

import itertools
from typing import Any

from kalshibook.store import Arrival, BookStore, Stamps
from kalshibook.wire import (
    BookDelta,
    BookSnapshot,
    MarketDescription,
    MarketLifecycle,
    Side,
    Ticker,
    Trade,
)

STAMPS = Stamps(None, None, None, None, None, 0)

TICKER = "KXFROG-26DEC01-T40"


class Script:
    """Feeds messages of one subscription into a store, numbering them as a gatherer would."""

    def __init__(
        self, store: BookStore, *, source: str = "g1", connection: str | None = "c1", sid: int = 1
    ) -> None:
        self.store = store
        self.source, self.connection, self.sid = source, connection, sid
        self.sequence = itertools.count(1)
        self.offsets = itertools.count()
        self.last: dict[str, int] = {}
        self.clock_us = itertools.count(1_000_000, 1_000)
        with store.writer() as writer:
            writer.set_ready(True)

    def arrival(self, ticker: str, **overrides: Any) -> Arrival:
        """Return the next arrival for a market."""
        sequence = overrides.pop("sequence", None) or next(self.sequence)
        received_us = next(self.clock_us)
        fields: dict[str, Any] = {
            "source": self.source,
            "connection": self.connection,
            "sid": self.sid,
            "sequence": sequence,
            "previous_sequence": self.last.get(ticker, 0),
            "received_us": received_us,
            "published_us": received_us + 10,
            "kafka_us": received_us + 20,
            "consumed_us": received_us + 30,
            "partition": 0,
            "offset": next(self.offsets),
        }
        fields.update(overrides)
        self.last[ticker] = sequence
        return Arrival(**fields)

    def apply(
        self,
        event: BookDelta | BookSnapshot | Trade | Ticker | MarketLifecycle | MarketDescription,
        **overrides: Any,
    ) -> str:
        """Apply one message in a batch of its own and return its outcome."""
        if isinstance(event, BookDelta | BookSnapshot):
            arrival = self.arrival(event.ticker, **overrides)
        else:
            # Other channels are other subscriptions and count for themselves.
            last = self.last.get(event.ticker, 0)
            arrival = self.arrival(event.ticker, **{"sid": 9, "previous_sequence": None, **overrides})
            self.last[event.ticker] = last
        with self.store.writer() as writer:
            return writer.apply(event, arrival).value

    def snapshot(
        self, yes: dict[int, int], no: dict[int, int], *, ticker: str = TICKER, **overrides: Any
    ) -> str:
        """Apply a snapshot."""
        event = BookSnapshot(ticker, tuple(yes.items()), tuple(no.items()), None)
        return self.apply(event, **overrides)

    def delta(self, side: Side, price: int, change: int, *, ticker: str = TICKER, **overrides: Any) -> str:
        """Apply a delta."""
        return self.apply(BookDelta(ticker, side, price, change, 5_000_000), **overrides)


def lifecycle(event_type: Any, *, ticker: str = TICKER, **fields: Any) -> MarketLifecycle:
    """Return a lifecycle message with only the named fields set."""
    values: dict[str, Any] = dict.fromkeys(MarketLifecycle.__struct_fields__)
    values.update(ticker=ticker, event_type=event_type, channel="market_lifecycle_v2", body=b"{}", **fields)
    return MarketLifecycle(**values)


def described(status: str, *, ticker: str = TICKER, **fields: Any) -> MarketDescription:
    """Return a description with only the named fields set."""
    values: dict[str, Any] = dict.fromkeys(MarketDescription.__struct_fields__)
    values.update(ticker=ticker, status=status, **fields)
    return MarketDescription(**values)


def trade(
    trade_id: str = "t1", *, price: int = 4_300, size: int = 1_025, ticker: str = TICKER, **fields: Any
) -> Trade:
    """Return a trade."""
    values: dict[str, Any] = {
        "ticker": ticker,
        "trade_id": trade_id,
        "yes_price": price,
        "size": size,
        "taker_side": "yes",
        "is_block_trade": False,
        "consistent": True,
        "exchange_us": None,
        "body": b"{}",
    }
    values.update(fields)
    return Trade(**values)


def ticker_message(*, ticker: str = TICKER, **fields: Any) -> Ticker:
    """Return a ticker message with only the named fields set."""
    values: dict[str, Any] = dict.fromkeys(Ticker.__struct_fields__)
    values.update(ticker=ticker, **fields)
    return Ticker(**values)


def levels(book_side: Any) -> dict[int, int]:
    """Return a ladder as price to size."""
    return {level.price: level.size for level in book_side}
