"""
What the ``/v1`` endpoints answer, as structs: the schema in ``/openapi.json`` is made from them.

Prices are dollar strings and sizes contract strings as Kalshi writes them, unless the request asks
for ticks; an absent side is null. Times end in ``_ms`` or ``_us`` and count from the Unix epoch.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = [
    "BookAnswer",
    "FeedAnswer",
    "HealthAnswer",
    "IncidentRow",
    "IncidentsAnswer",
    "LevelRow",
    "MarketRow",
    "MarketsAnswer",
    "NotFreshRow",
    "ReadyAnswer",
    "ReasonRow",
    "SourceRow",
    "StampsRow",
    "StatisticsAnswer",
    "TickTopRow",
    "TopRow",
    "TopsAnswer",
]


_EITHER_ROW: Final = [{"$ref": f"#/components/schemas/{name}"} for name in ("TopRow", "TickTopRow")]


class _Judged(msgspec.Struct, frozen=True, kw_only=True):
    ticker: str
    condition: str
    """awaiting, live, stale or closed."""
    stale_reason: str | UnsetType = UNSET
    """Why the copy is in doubt; only then."""
    status: str | None
    """The exchange's trading status, or null when unknown."""


class TopRow(_Judged, frozen=True, kw_only=True):
    """The top of one book; asks are the other side's bids, seen from here."""

    yes_bid_dollars: str | None
    yes_bid_size_fp: str | None
    yes_ask_dollars: str | None
    yes_ask_size_fp: str | None
    no_bid_dollars: str | None
    no_ask_dollars: str | None
    yes: list[tuple[str, str]] | None | UnsetType = UNSET
    """YES bids as (price, size), best first, when `depth` is asked; null while awaiting."""
    no: list[tuple[str, str]] | None | UnsetType = UNSET
    updated_ms: int | None
    """The market's last message; its age is `now_ms` less this."""
    latency_ms: int | None
    """From the exchange to this store, for that message."""
    version: int
    """The store's version in which this book last changed."""


class TickTopRow(_Judged, frozen=True, kw_only=True):
    """The same in integers of $0.0001 and 0.01 contract."""

    yes_bid: int | None
    yes_bid_size: int | None
    yes_ask: int | None
    yes_ask_size: int | None
    no_bid: int | None
    no_ask: int | None
    yes: list[tuple[int, int]] | None | UnsetType = UNSET
    no: list[tuple[int, int]] | None | UnsetType = UNSET
    updated_ms: int | None
    latency_ms: int | None
    version: int


class NotFreshRow(msgspec.Struct, frozen=True):
    """A market that is not as fresh as `max_age_ms` demands, and therefore not among `markets`."""

    ticker: str
    condition: str
    age_ms: int | None
    reason: str


class TopsAnswer(msgspec.Struct, frozen=True):
    """Tops of many books, all from one version of the store."""

    version: int
    offsets: dict[str, int]
    """Next offset to be consumed, by partition, in that version; usable as `min_offset` elsewhere."""
    as_of: int
    """When that version came into being, Unix ms."""
    now_ms: int
    """The server's clock; ages count back from here."""
    behind: str | None
    """Why books may be older than what the feed's source has, or null when they are not."""
    missing: list[str]
    """Tickers that no message has named."""
    not_fresh: list[NotFreshRow]
    cursor: str
    """For the next page; empty when there is none."""
    markets: list[Annotated[dict[str, Any], Meta(extra_json_schema={"anyOf": _EITHER_ROW})]]
    """Each a `TopRow`, or a `TickTopRow` when ticks are asked for."""


class StampsRow(msgspec.Struct, frozen=True):
    """When a message passed each hop, in microseconds; null is unknown."""

    exchange_us: int | None
    received_us: int | None
    published_us: int | None
    kafka_us: int | None
    consumed_us: int | None
    applied_us: int
    kafka_latency_us: int | None
    """From the Kafka record's timestamp to this process."""
    latency_us: int | None
    """From the exchange, else the gatherer, to being visible to readers."""


class LevelRow(msgspec.Struct, frozen=True):
    """A price at which orders rest, and the stamps of the last message that changed it."""

    price_dollars: str
    size_fp: str
    stamps: StampsRow


class BookAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One book with everything known about it."""

    ticker: str
    condition: str
    stale_reason: str | None
    """Why the copy is in doubt, or null."""
    status: str | None
    close_ms: int | None
    result: str | None
    settlement_value_dollars: str | None
    open_ms: int | None
    event_ticker: str | None
    title: str | None
    yes_bid_dollars: str | None
    yes_bid_size_fp: str | None
    yes_ask_dollars: str | None
    yes_ask_size_fp: str | None
    no_bid_dollars: str | None
    no_ask_dollars: str | None
    last_price_dollars: str | None
    volume_fp: str | None
    open_interest_fp: str | None
    updated_ms: int | None
    age_ms: int | None
    now_ms: int
    stamps: StampsRow | None
    source: str | None
    connection: str | None
    sid: int | None
    sequence: int | None
    book_version: int
    """The store's version in which this book last changed."""
    version: int
    """The store's version that this answer was read from."""
    as_of: int
    behind: str | None
    """Why books may be older than what the feed's source has, or null when they are not."""
    yes_levels: int
    no_levels: int
    yes: list[LevelRow] | None
    """YES bids, best first; null while awaiting, because unknown is not empty."""
    no: list[LevelRow] | None


class MarketRow(msgspec.Struct, frozen=True, kw_only=True):
    """A market as listed."""

    ticker: str
    title: str | None
    event_ticker: str | None
    condition: str
    stale_reason: str | None
    status: str | None
    close_ms: int | None
    result: str | None
    yes_bid_dollars: str | None
    yes_bid_size_fp: str | None
    yes_ask_dollars: str | None
    yes_ask_size_fp: str | None
    last_price_dollars: str | None
    volume_fp: str | None
    updated_ms: int | None


class MarketsAnswer(msgspec.Struct, frozen=True):
    """A page of markets, sorted by ticker; it may be short, go on while `cursor` is not empty."""

    version: int
    now_ms: int
    behind: str | None
    cursor: str
    markets: list[MarketRow]


class IncidentRow(msgspec.Struct, frozen=True):
    """One thing that went wrong, or was put right."""

    id: int
    kind: str
    time_us: int
    ticker: str | None
    partition: int | None
    offset: int | None
    detail: str


class IncidentsAnswer(msgspec.Struct, frozen=True):
    """A page of incidents, newest first, and how often each kind happened since the start."""

    counts: dict[str, int]
    cursor: str
    incidents: list[IncidentRow]


class FeedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a feed says about itself."""

    name: str
    state: str
    reason: str
    ok: bool
    silent: bool
    since_us: int
    lag: int | None
    """Records still to be read, or null when unknown."""
    waiting_us: int
    """For how long, at least, the oldest of them has been there, microseconds."""
    records: int
    bytes: int
    rejected: int
    tombstones: int
    quarantined: int
    quarantine_lost: int
    queued: int
    last_record_us: int | None


class SourceRow(msgspec.Struct, frozen=True):
    """One gatherer, as the store sees it."""

    name: str
    pulse: str
    """alive, silent, ended, or unjudged when it gives no signs of life."""
    last_alive_us: int | None
    markets: int
    """Books that follow it."""
    live: int
    """Those of them that are live."""


class StatisticsAnswer(msgspec.Struct, frozen=True):
    """Counts since the start."""

    now_ms: int
    uptime_ms: int
    store: dict[str, Any]
    feeds: list[FeedAnswer]
    stream: dict[str, int]
    http: dict[str, int]


class HealthAnswer(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str
    uptime_ms: int


class ReasonRow(msgspec.Struct, frozen=True):
    """One reason why the service is not ready."""

    check: str
    """store, feed or stale_share."""
    message: str
    details: dict[str, Any]


class ReadyAnswer(msgspec.Struct, frozen=True):
    """Whether answers can be relied on, and if not, why."""

    ready: bool
    reasons: list[ReasonRow]
    version: int
    conditions: dict[str, int]
    feeds: list[FeedAnswer]
    sources: list[SourceRow]
