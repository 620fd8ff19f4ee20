"""Ask an exported archive with DuckDB, in place: ``python parquet_with_duckdb.py /data/parquet``."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from kalshibook.archive.parquet import LAYOUTS, hours, write

TICKER = "KXFROG-26NOV26-T40"
MADE_US = 1_795_672_800_000_000  # 2026-11-26 06:00 UTC
FINER_US = MADE_US + 100_000_000
"""Since then the made-up market has finer prices."""
KEYS = {"trades": "trade_id", "markets": "ticker, valid_from_us"}


def made_up(folder: Path) -> Path:
    """Write a few trades and what their market was, as exports do, so that this runs without a database."""
    trades = [
        {
            "ticker": TICKER,
            "exchange_us": MADE_US + second * 1_000_000,
            "received_us": MADE_US + second * 1_000_000 + 20_000,
            "ingest": second + 1,
            "trade_id": f"trade-{second}",
            "yes_price": 4_000 + second % 7 * 100,
            "size": 100 * (1 + second % 5),
            "taker_side": 1 + second % 2,
            "is_block_trade": False,
            "consistent": True,
            "sources": 7,
            "at_us": MADE_US + second * 1_000_000,
        }
        for second in range(150)
    ]
    market = {"ticker": TICKER, "status": "active", "body": "{}", "price_level_structure": "linear_cent"}
    first = market | {"ingest": 1_000, "valid_from_us": MADE_US, "at_us": MADE_US}
    finer = {"price_level_structure": "deci_cent", "ingest": 1_002, "valid_from_us": FINER_US}
    put_down(folder, "trades", 1, trades)
    put_down(folder, "markets", 2, [first])
    # The row that has ended comes again, beside the one that follows it.
    ended = first | {"ingest": 1_001, "valid_to_us": FINER_US, "at_us": FINER_US}
    put_down(folder, "markets", 3, [ended, market | finer | {"at_us": FINER_US}])
    return folder


def put_down(folder: Path, table: str, batch: int, rows: list[dict[str, Any]]) -> None:
    """Write one file, of the only hour there is."""
    layout = LAYOUTS[table]
    schema = pa.schema([*layout.columns.items(), ("at_us", pa.int64())])
    ((_, part),) = hours(pa.Table.from_pylist(rows, schema=schema), layout)
    file = folder / table / "date=2026-11-26" / "hour=06" / f"{batch:012d}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(write(part, layout))


def view(database: duckdb.DuckDBPyConnection, folder: Path, table: str) -> None:
    """Make a view of a table: a row that grew or ended after its export comes again, and the last stands."""
    files = database.read_parquet(f"{folder}/{table}/*/*/*.parquet", hive_partitioning=True)
    last = f"row_number() OVER (PARTITION BY {KEYS[table]} ORDER BY ingest DESC)"
    files.project(f"*, {last} AS nth").filter("nth = 1").create_view(table)


def main(folder: Path) -> None:
    """Print one-minute candles of every market that traded, and what the markets were when they traded."""
    with duckdb.connect() as database:
        for table in KEYS:
            view(database, folder, table)
        candles = database.execute(
            """
            SELECT ticker, make_timestamp(exchange_us // 60000000 * 60000000) AS minute,
                arg_min(yes_price, (exchange_us, trade_id)) AS open, max(yes_price) AS high,
                min(yes_price) AS low, arg_max(yes_price, (exchange_us, trade_id)) AS close,
                sum(size)::bigint AS volume, count(*) AS trades
            FROM trades WHERE NOT is_block_trade
            GROUP BY ALL ORDER BY ticker, minute
            """
        ).fetchall()
        # A market is described a while after it opens: what it was before is not known.
        states = database.execute(
            """
            SELECT t.ticker, m.status, m.price_level_structure,
                sum(t.size)::bigint AS volume, count(*) AS trades
            FROM trades AS t LEFT JOIN markets AS m ON m.ticker = t.ticker
                AND m.valid_from_us <= t.exchange_us
                AND (t.exchange_us < m.valid_to_us OR m.valid_to_us IS NULL)
            GROUP BY ALL ORDER BY ALL
            """
        ).fetchall()
    for ticker, minute, first, high, low, last, volume, trades in candles:
        print(f"{ticker} {minute:%H:%M} {first} {high} {low} {last}, {volume / 100:.2f} in {trades} trades")
    for ticker, status, structure, volume, trades in states:
        print(f"{ticker} while {status}, in {structure}: {volume / 100:.2f} in {trades} trades")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(made_up(Path(temporary)))
