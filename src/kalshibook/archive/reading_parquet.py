"""Parquet files to read from, in a folder or a bucket."""

from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Self, final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from kalshibook.archive.describing import DescribedTable, Description
from kalshibook.archive.gaps import Coverage, Gap, Seen, coverage_of
from kalshibook.archive.rebuild import (
    NEAR_US,
    SIDES,
    KnownChange,
    KnownSnapshot,
    KnownTrade,
    Sum,
    added_up,
    latest_first,
    sums,
)
from kalshibook.errors import ArchiveError

__all__ = ["ParquetArchive"]


@final
class ParquetArchive:
    """
    Files that `kalshibook archive export` has written, in a folder or a bucket.

    Args:
        url: a folder, or ``s3://bucket/prefix``.
        options: of the bucket, as `open_target` takes them.
    """

    def __init__(self, url: str, options: dict[str, str] | None = None) -> None:
        self._files, self._root = _file_system(url, options or {})
        if not self._exists("manifests"):
            raise ArchiveError(f"there is no export at {url}: no folder manifests")

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open."""

    def snapshots_before(self, ticker: str, at_us: int) -> Sequence[KnownSnapshot]:
        """Return the last snapshots up to a time, the latest first."""
        for hours in (2, 26, 24 * 367):
            found = [
                KnownSnapshot(
                    ticker,
                    time_us,
                    ((row["stream_id"], row["sequence"]),),
                    tuple(zip(row["yes_prices"], row["yes_sizes"], strict=True)),
                    tuple(zip(row["no_prices"], row["no_sizes"], strict=True)),
                )
                for row in self._rows(
                    "orderbook_snapshots", ticker, at_us - hours * 3_600_000_000, at_us + NEAR_US
                )
                if row["kind"] != _AUDIT and row["condition"] == _LIVE and (time_us := _at_us(row)) <= at_us
            ]
            if found:
                return latest_first(found)
        return []

    def sums_after(self, snapshot: KnownSnapshot, at_us: int) -> Sequence[Sum]:
        """Return what was added since a snapshot, up to and including a time."""
        rows = self._table("orderbook_deltas", snapshot.ticker, snapshot.at_us - NEAR_US, at_us)
        if rows is None:
            return []
        time = pc.coalesce(rows["exchange_us"], rows["received_us"])
        edge_us = min(at_us, snapshot.at_us + NEAR_US)
        near = rows.filter(pc.and_(pc.less_equal(time, edge_us), pc.less_equal(time, at_us)))
        far = rows.filter(pc.and_(pc.greater(time, edge_us), pc.less_equal(time, at_us)))
        changes = [_change(row) for row in near.to_pylist()]
        return added_up(sums(snapshot, changes, at_us), _summed(far))

    def coverage(self, ticker: str, from_us: int, until_us: int) -> Coverage:
        """Return who watched a market in a stretch of time."""
        rows = (
            ds.dataset(f"{self._root}/lookups/streams.parquet", filesystem=self._files).to_table().to_pylist()
        )
        last: dict[int, int] = {}
        for row in rows:
            last[row["connection_id"]] = max(row["last_us"], last.get(row["connection_id"], 0))
        streams: dict[Hashable, tuple[str, int]] = {
            row["stream_id"]: (row["source"], last[row["connection_id"]]) for row in rows
        }
        snapshots = [
            Seen(row["stream_id"], _at_us(row), row["received_us"])
            for row in self._rows("orderbook_snapshots", ticker, from_us - _WATCHED_US, until_us + _DELAY_US)
            if row["kind"] == _EXCHANGE
        ]
        gaps = [
            Gap(
                gap["gap_id"],
                tuple(
                    row["stream_id"]
                    for row in rows
                    if row["connection_id"] == gap["connection_id"] and gap["sid"] in {None, row["sid"]}
                ),
                gap["since_us"],
                gap["detected_us"],
            )
            for gap in self._rows("gaps", None, from_us - _WATCHED_US, until_us + _DELAY_US)
            if gap["channel"] in {"orderbook_delta", ""} and (not gap["tickers"] or ticker in gap["tickers"])
        ]
        return coverage_of(snapshots, streams, gaps)

    def tickers(self, from_us: int, until_us: int) -> list[str]:
        """Return the markets of which anything is stored in a stretch of time, sorted."""
        found: set[str] = set()
        for table in ("orderbook_deltas", "orderbook_snapshots", "trades"):
            rows = self._table(table, None, from_us, until_us)
            if rows is not None:
                found.update(pc.unique(rows["ticker"]).to_pylist())
        return sorted(found)

    def changes(self, ticker: str, from_us: int, until_us: int) -> list[KnownChange]:
        """Return a market's changes of a stretch of time, its end exclusive, in no order."""
        rows = self._rows("orderbook_deltas", ticker, from_us, until_us)
        return [_change(row) for row in rows if from_us <= _at_us(row) < until_us]

    def trades(self, ticker: str, from_us: int, until_us: int) -> list[KnownTrade]:
        """Return a market's trades on the book, of a stretch of time, its end exclusive, in no order."""
        return [
            KnownTrade(
                at_us,
                row["trade_id"],
                row["yes_price"],
                row["size"],
                None if row["taker_side"] is None else SIDES[row["taker_side"]],
            )
            for row in self._rows("trades", ticker, from_us, until_us)
            if from_us <= (at_us := _at_us(row)) < until_us and not row["is_block_trade"]
        ]

    def description(self, table: DescribedTable, ticker: str, at_us: int) -> Description | None:
        """Return what a series, an event or a market was at a time; None if it was not described yet."""
        for row in self._rows(table, ticker, 0, _EVER_US):
            since_us, until_us = row["valid_from_us"], row["valid_to_us"]
            if since_us <= at_us and (until_us is None or at_us < until_us):
                return Description(ticker, since_us, until_us, msgspec.json.decode(row["body"]))
        return None

    def _rows(self, table: str, ticker: str | None, from_us: int, until_us: int) -> list[dict[str, Any]]:
        found = self._table(table, ticker, from_us, until_us)
        return [] if found is None else [*found.to_pylist()]

    def _table(self, table: str, ticker: str | None, from_us: int, until_us: int) -> pa.Table | None:
        """Read the hours of a stretch; of rows with one key the one that was exported last."""
        if not self._exists(table):
            return None
        paths = [
            info.path
            for info in self._files.get_file_info(pafs.FileSelector(f"{self._root}/{table}", recursive=True))
            if info.path.endswith(".parquet") and _hour_overlaps(info.path, from_us, until_us)
        ]
        if not paths:
            return None
        dataset = ds.dataset(sorted(paths), filesystem=self._files, format="parquet")
        rows = dataset.to_table(filter=None if ticker is None else pc.field("ticker") == ticker)
        return _last_of_each(rows, _KEYS[table])

    def _exists(self, path: str) -> bool:
        return bool(self._files.get_file_info(f"{self._root}/{path}").type != pafs.FileType.NotFound)


_WATCHED_US: Final = 2 * 86_400_000_000
"""How far back the snapshot that begins a watch is looked for: gatherers take one every half hour."""
_DELAY_US: Final = 3_600_000_000
"""Between the exchange's time and the receipt, at most."""
_EVER_US: Final = 2**62
_AUDIT: Final = 3
_EXCHANGE: Final = 1
_LIVE: Final = 2
_KEYS: Final = {
    "orderbook_deltas": ["ticker", "exchange_us", "side", "price", "change"],
    "orderbook_snapshots": ["ticker", "stream_id", "sequence", "kind"],
    "trades": ["trade_id"],
    "gaps": ["gap_id"],
    "series": ["ticker", "valid_from_us"],
    "events": ["ticker", "valid_from_us"],
    "markets": ["ticker", "valid_from_us"],
}


def _at_us(row: dict[str, Any]) -> int:
    return int(row["received_us"] if row["exchange_us"] is None else row["exchange_us"])


def _change(row: dict[str, Any]) -> KnownChange:
    return KnownChange(
        _at_us(row),
        SIDES[row["side"]],
        row["price"],
        row["change"],
        row["count"],
        tuple(zip(row["streams"], row["sequences"], strict=True)),
    )


def _summed(rows: pa.Table) -> list[Sum]:
    time = pc.coalesce(rows["exchange_us"], rows["received_us"])
    total = pc.multiply(rows["change"], rows["count"].cast(pa.int64()))
    table = pa.table({"side": rows["side"], "price": rows["price"], "change": total, "at": time})
    grouped = table.group_by(["side", "price"]).aggregate([("change", "sum"), ("at", "max")])
    return [
        Sum(SIDES[row["side"]], row["price"], row["change_sum"], row["at_max"]) for row in grouped.to_pylist()
    ]


def _last_of_each(rows: pa.Table, keys: list[str]) -> pa.Table:
    keyed = rows
    if "exchange_us" in keys:
        # Where the exchange's time is missing the first receipt stands in, as in production's own key.
        at_us = pc.coalesce(rows["exchange_us"], rows["received_us"])
        keyed = rows.set_column(rows.schema.get_field_index("exchange_us"), "exchange_us", at_us)
    last = keyed.select([*keys, "ingest"]).group_by(keys).aggregate([("ingest", "max")])
    if last.num_rows == rows.num_rows:
        return rows
    return rows.filter(pc.is_in(rows["ingest"], value_set=last["ingest_max"].combine_chunks()))


def _hour_overlaps(path: str, from_us: int, until_us: int) -> bool:
    parts = dict(part.split("=", 1) for part in path.split("/") if "=" in part)
    start = datetime.fromisoformat(f"{parts['date']}T{parts['hour']}:00:00").replace(tzinfo=UTC)
    start_us = int(start.timestamp()) * 1_000_000
    return start_us <= until_us and from_us < start_us + 3_600_000_000


def _file_system(url: str, options: dict[str, str]) -> tuple[pafs.FileSystem, str]:
    if not url.startswith("s3://"):
        return pafs.LocalFileSystem(), url.rstrip("/")
    endpoint = options.get("endpoint", "")
    files = pafs.S3FileSystem(
        access_key=options.get("access_key_id"),
        secret_key=options.get("secret_access_key"),
        region=options.get("region"),
        endpoint_override=endpoint.removeprefix("http://").removeprefix("https://") or None,
        scheme="http" if endpoint.startswith("http://") else "https",
    )
    return files, url.removeprefix("s3://").rstrip("/")
