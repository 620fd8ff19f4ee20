"""Ask an exported archive with DuckDB, in place: ``python parquet_with_duckdb.py /data/parquet``."""

import sys
import tempfile
from pathlib import Path

import duckdb
import pyarrow as pa

from kalshibook.archive.parquet import LAYOUTS, hours, write

MADE_US = 1_795_672_800_000_000  # 2026-11-26 06:00 UTC


def made_up(folder: Path) -> Path:
    """Write a few trades as an export does, so that this runs without a database."""
    layout = LAYOUTS["trades"]
    rows = [
        {
            "ticker": "KXFROG-26NOV26-T40",
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
    schema = pa.schema([*layout.columns.items(), ("at_us", pa.int64())])
    for _, part in hours(pa.Table.from_pylist(rows, schema=schema), layout):
        file = folder / "trades" / "date=2026-11-26" / "hour=06" / "000000000001.parquet"
        file.parent.mkdir(parents=True)
        file.write_bytes(write(part, layout))
    return folder


def main(folder: Path) -> None:
    """Print one-minute candles of every market that traded."""
    with duckdb.connect() as database:
        database.read_parquet(f"{folder}/trades/*/*/*.parquet", hive_partitioning=True).create_view("files")
        # A row that grew after it was exported comes again: the one exported last stands.
        database.execute(
            """
            CREATE VIEW trades AS SELECT * FROM files
            QUALIFY row_number() OVER (PARTITION BY trade_id ORDER BY ingest DESC) = 1
            """
        )
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
    for ticker, minute, first, high, low, last, volume, trades in candles:
        print(f"{ticker} {minute:%H:%M} {first} {high} {low} {last}, {volume / 100:.2f} in {trades} trades")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(made_up(Path(temporary)))
