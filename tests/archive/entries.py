"""Entries as tests need them, and what came of them in a database."""

import itertools
from typing import Any

import psycopg

from kalshibook.archive.entries import Entry
from kalshibook.archive.rows import DeltaRow, GapRow, LifecycleRow, SnapshotRow, TickerRow, TradeRow

START_US = 1_790_000_000_000_000
_numbers = itertools.count(1)

DELTA = DeltaRow("gatherer-1", "c1", 2, 1, START_US, START_US - 5_000, "KXFROG-T40", 2, 42, -1)
SNAPSHOT = SnapshotRow(
    "gatherer-1", "c1", 2, 1, START_US, None, "KXFROG-T40", 1, 2, (4000, 4100), (7550, 1), (), ()
)
TRADE = TradeRow(
    "gatherer-1", "c1", 3, 1, START_US, START_US - 5_000, "KXFROG-T40", "7c0f", 4000, 1200, 1, False, True
)
TICKER = TickerRow("gatherer-1", "c1", 4, -5, START_US, START_US, "KXFROG-T40", 4000, 100, 5, 6, 7, -8)
LIFECYCLE = LifecycleRow(
    *("gatherer-1", "c1", 5, 1, START_US, START_US, "KXFROG-T40", "market_lifecycle_v2", "determined"),
    '{"result": "yes"}',
)
GAP = GapRow(
    "gatherer-1", "c1", 2, "g-1", "orderbook_delta", "gap", 5, 9, 1, ("KXFROG-T40",), START_US, None, None
)


def entry(row: Any, payload: bytes = b"{}") -> Entry:
    """Wrap one row."""
    return Entry("market-data-all/0@1", payload, (row,))


def deltas(count: int, first: int = 1, **changes: Any) -> list[Entry]:
    """Return deltas of one subscription, numbered from `first`."""
    return [
        entry(DELTA._replace(sequence=number, received_us=START_US + number, **changes), b"%d" % number)
        for number in range(first, first + count)
    ]


def query(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a statement."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(statement.encode()).fetchall()


def count(dsn: str, table: str) -> int:
    """Return how many rows a table has."""
    found: int = query(dsn, f"SELECT count(*) FROM {table}")[0][0]
    return found
