"""
Every order book of the Kalshi exchange, in memory, always consistent, never locked.

The names here are the library: threads only, no web stack. The server is in `kalshibook.server`,
trader's helpers in `kalshibook.store.views`, tools for your own tests in `kalshibook.testing`.
"""

from kalshibook.errors import (
    ArchiveError as ArchiveError,
    ExchangeError as ExchangeError,
    ExchangeRefused as ExchangeRefused,
    ExchangeUnavailable as ExchangeUnavailable,
    FeedError as FeedError,
    KalshiBookError as KalshiBookError,
    NotReady as NotReady,
    ReadError as ReadError,
    SettingsError as SettingsError,
    Stale as Stale,
    StoreError as StoreError,
    UnknownMarket as UnknownMarket,
    VersionGone as VersionGone,
    WireError as WireError,
)
from kalshibook.feeds import (
    EmbeddedBroker as EmbeddedBroker,
    KafkaFeed as KafkaFeed,
    KafkaOptions as KafkaOptions,
)
from kalshibook.numbers import (
    format_price as format_price,
    format_size as format_size,
    parse_price as parse_price,
    parse_size as parse_size,
)
from kalshibook.store import (
    Book as Book,
    BookStore as BookStore,
    Change as Change,
    ChangeBatch as ChangeBatch,
    Condition as Condition,
    Cut as Cut,
    Ladder as Ladder,
    Level as Level,
    MarketStatus as MarketStatus,
    Quote as Quote,
    Stamps as Stamps,
    StoreOptions as StoreOptions,
    TopOfBook as TopOfBook,
)

__version__ = "0.1.0"

__all__ = [
    "ArchiveError",
    "Book",
    "BookStore",
    "Change",
    "ChangeBatch",
    "Condition",
    "Cut",
    "EmbeddedBroker",
    "ExchangeError",
    "ExchangeRefused",
    "ExchangeUnavailable",
    "FeedError",
    "KafkaFeed",
    "KafkaOptions",
    "KalshiBookError",
    "Ladder",
    "Level",
    "MarketStatus",
    "NotReady",
    "Quote",
    "ReadError",
    "SettingsError",
    "Stale",
    "Stamps",
    "StoreError",
    "StoreOptions",
    "TopOfBook",
    "UnknownMarket",
    "VersionGone",
    "WireError",
    "format_price",
    "format_size",
    "parse_price",
    "parse_size",
]
