"""
Series, events and markets, as the exchange describes them, with their history.

What changes gets a new row, and the row before it ends where the new one begins. What moves with every
trade is not a description, and is left out: prices, sizes, volumes.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, Literal, LiteralString, NamedTuple, TypeAlias

import msgspec
import psycopg

from kalshibook.errors import WireError
from kalshibook.numbers import parse_price
from kalshibook.wire.times import parse_time

__all__ = [
    "Described",
    "DescribedTable",
    "Description",
    "describe_events",
    "describe_markets",
    "describe_series",
]

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
Body: TypeAlias = dict[str, Any]
DescribedTable: TypeAlias = Literal["series", "events", "markets"]

_MOVING: Final = frozenset(
    {
        *("yes_bid_dollars", "yes_bid_size_fp", "yes_ask_dollars", "yes_ask_size_fp", "no_bid_dollars"),
        *("no_ask_dollars", "last_price_dollars", "volume_fp", "volume_24h_fp", "open_interest_fp"),
        *("previous_yes_bid_dollars", "previous_yes_ask_dollars", "previous_price_dollars"),
        *("liquidity_dollars", "markets"),
    }
)
"""What changes with trading, and the markets that an event may carry: they have rows of their own."""

_PAGE: Final = 5_000


class Description(msgspec.Struct, frozen=True):
    """What the exchange said of a series, an event or a market, and from when to when it was so."""

    ticker: str
    valid_from_us: int
    valid_to_us: int | None
    """Exclusive; None while it is so."""
    body: Body


class Described(NamedTuple):
    """What came of one pass."""

    seen: int
    changed: int
    """Rows begun: new ones, and new states of known ones."""
    rejected: int
    """Entries that cannot be read."""


def _wall_us() -> int:
    return time.time_ns() // 1_000


def describe_series(
    connection: Connection, bodies: Iterable[Body], *, clock_us: Callable[[], int] = _wall_us
) -> Described:
    """Take over series; those that are not named stay as they are."""
    return _describe(connection, bodies, "series", _series, _SERIES, clock_us)


def describe_events(
    connection: Connection, bodies: Iterable[Body], *, clock_us: Callable[[], int] = _wall_us
) -> Described:
    """Take over events."""
    return _describe(connection, bodies, "events", _event, _EVENTS, clock_us)


def describe_markets(
    connection: Connection, bodies: Iterable[Body], *, clock_us: Callable[[], int] = _wall_us
) -> Described:
    """Take over markets."""
    return _describe(connection, bodies, "markets", _market, _MARKETS, clock_us)


_SERIES: Final = {"title": "text", "category": "text", "frequency": "text"}
_EVENTS: Final = {"series_ticker": "text", "title": "text", "sub_title": "text"}
_MARKETS: Final = {
    "event_ticker": "text",
    "title": "text",
    "status": "text",
    "open_us": "bigint",
    "close_us": "bigint",
    "result": "text",
    "settlement_value": "integer",
    "price_level_structure": "text",
}


def _series(body: Body) -> tuple[Any, ...]:
    return (body["ticker"], body.get("title"), body.get("category"), body.get("frequency"))


def _event(body: Body) -> tuple[Any, ...]:
    return (body["event_ticker"], body.get("series_ticker"), body.get("title"), body.get("sub_title"))


def _market(body: Body) -> tuple[Any, ...]:
    value = body.get("settlement_value_dollars")
    return (
        body["ticker"],
        body.get("event_ticker"),
        body.get("title"),
        body.get("status"),
        _time(body, "open_time"),
        _time(body, "close_time"),
        body.get("result") or None,
        None if value in {None, ""} else parse_price(value, "$.settlement_value_dollars"),
        body.get("price_level_structure"),
    )


def _time(body: Body, name: str) -> int | None:
    text = body.get(name)
    return None if not text else parse_time(text, f"$.{name}")


def _describe(
    connection: Connection,
    bodies: Iterable[Body],
    table: LiteralString,
    read: Callable[[Body], tuple[Any, ...]],
    columns: dict[LiteralString, LiteralString],
    clock_us: Callable[[], int],
) -> Described:
    seen = changed = rejected = 0
    remaining: Iterator[Body] = iter(bodies)
    while page := list(islice(remaining, _PAGE)):
        rows: dict[str, tuple[Any, ...]] = {}
        for body in page:
            try:
                values = read(body)
            except (KeyError, WireError):
                rejected += 1
                continue
            still = {name: value for name, value in body.items() if name not in _MOVING}
            rows[values[0]] = (*values, msgspec.json.encode(still).decode())
        seen += len(rows)
        changed += _take_over(connection, table, columns, rows.values(), clock_us())
    return Described(seen, changed, rejected)


def _take_over(
    connection: Connection,
    table: LiteralString,
    columns: dict[LiteralString, LiteralString],
    rows: Iterable[tuple[Any, ...]],
    now_us: int,
) -> int:
    names = ", ".join(columns)
    types = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE described (ticker text, {types}, body jsonb) ON COMMIT DROP")
        with cursor.copy(f"COPY described (ticker, {names}, body) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        # Ended first: an index allows one current row a ticker.
        cursor.execute(
            f"""
            UPDATE {table} AS t SET
                valid_to_us = greatest(%s, t.valid_from_us + 1),
                ingest = nextval('ingest_order'),
                xid = pg_current_xact_id()
            FROM described AS d
            WHERE d.ticker = t.ticker AND t.valid_to_us IS NULL AND t.body IS DISTINCT FROM d.body
            """,
            [now_us],
        )
        cursor.execute(
            f"""
            INSERT INTO {table} (ticker, valid_from_us, {names}, body)
            SELECT
                d.ticker,
                greatest(%s, (SELECT max(t.valid_to_us) FROM {table} AS t WHERE t.ticker = d.ticker)),
                {", ".join(f"d.{name}" for name in columns)}, d.body
            FROM described AS d
            WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE t.ticker = d.ticker AND t.valid_to_us IS NULL)
            """,
            [now_us],
        )
        return cursor.rowcount
