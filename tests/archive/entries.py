"""Entries as tests need them, and what came of them in a database."""

import itertools
import pickle
from collections.abc import Sequence
from typing import Any, Final, final

import msgspec
import psycopg

from kalshibook.archive.entries import Entry
from kalshibook.archive.rows import DeltaRow, GapRow, LifecycleRow, SnapshotRow, TickerRow, TradeRow
from kalshibook.gather.records import Received

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


def frame(number: int) -> bytes:
    """Return a change as the exchange sends it."""
    message = {
        "market_ticker": f"KXFROG-T{number % 23}",
        "side": "yes",
        "price_dollars": "0.4000",
        "delta_fp": f"{number}.00",
        "ts_ms": START_US // 1_000 + number,
    }
    return msgspec.json.encode({"type": "orderbook_delta", "sid": 2, "seq": number, "msg": message})


def received(number: int, data: bytes | None = None) -> Received:
    """Return a frame as a gatherer hands it on."""
    return Received(data or frame(number), "c1", START_US + number, "orderbook_delta", 2, number)


@final
class EntryCodec:
    """Entries in a journal as they are, for tests that are not about frames."""

    def encode(self, messages: Sequence[Entry]) -> bytes:
        """Return entries as one record."""
        return pickle.dumps(list(messages))

    def decode(self, record: bytes) -> list[Entry]:
        """Return the entries again."""
        found: list[Entry] = pickle.loads(record)
        return found


ENTRIES: Final = EntryCodec()


def query(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a statement."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(statement.encode()).fetchall()


def count(dsn: str, table: str) -> int:
    """Return how many rows a table has."""
    found: int = query(dsn, f"SELECT count(*) FROM {table}")[0][0]
    return found
