"""
Rows as Parquet: integers as they are stored, zstd, the same bytes for the same rows. Pure.

A file holds the rows of one table and one hour, sorted by market and time: that is how they are
asked for, and how they compress. Numbers that climb are stored as differences, texts by dictionary.
"""

import io
import json
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

__all__ = ["HOUR_US", "LAYOUTS", "Layout", "hours", "read_csv", "write"]

HOUR_US: Final = 3_600_000_000

_INTEGERS: Final = pa.list_(pa.int32())
_LONGS: Final = pa.list_(pa.int64())
_TEXTS: Final = pa.list_(pa.string())


class Layout(NamedTuple):
    """How one table is stored."""

    table: str
    columns: Mapping[str, pa.DataType]
    order: tuple[str, ...]
    """What the rows of a file are sorted by; `ingest` comes last and makes it total."""
    at: str
    """Microseconds by which rows are put into hours, in SQL."""
    computed: Mapping[str, str] = {}
    """Columns that are not stored as such, in SQL."""
    known: str = "t.received_us"
    """Microseconds at which the row came to be as it is, in SQL; what is young waits."""
    weight: int = 1
    """For how many changes of a book one of its rows counts: a batch is held in memory."""

    @property
    def selected(self) -> str:
        """Return the columns as SQL, `at_us` and all; arrays are empty or not, never NULL."""
        names = []
        for name, kind in self.columns.items():
            text = self.computed.get(name, f"t.{name}")
            # The reader of CSV tells NULL from text, and nothing else tells it an empty array. An array of
            # texts is written as JSON, because its own form quotes some of them.
            if kind == _TEXTS:
                names.append(f"nullif(to_json({text})::text, '[]')")
            else:
                names.append(f"nullif({text}, '{{}}')" if pa.types.is_list(kind) else text)
        return ", ".join([*names, f"({self.at})"])


_COMMON: Final = {"exchange_us": pa.int64(), "received_us": pa.int64(), "ingest": pa.int64()}
_SEEN: Final = {"sources": pa.int64()}
_PLACES: Final = {"count": pa.int32(), "streams": _INTEGERS, "sequences": _LONGS}


def _described(table: str, columns: Mapping[str, pa.DataType]) -> Layout:
    """
    Return the layout of what the exchange describes, with its history.

    A row comes twice, when it begins and when it has ended, each time in the hour of that moment: by its
    begin alone, what ends in one export would be scattered over as many files as there are hours.
    """
    last = "coalesce(t.valid_to_us, t.valid_from_us)"
    return Layout(
        table,
        {
            "ticker": pa.string(),
            "ingest": pa.int64(),
            "valid_from_us": pa.int64(),
            "valid_to_us": pa.int64(),
            **columns,
            "body": pa.string(),
        },
        ("ticker", "valid_from_us"),
        last,
        known=last,
        # The exchange's words about a market take some 3 kB.
        weight=20,
    )


LAYOUTS: Final = {
    layout.table: layout
    for layout in (
        Layout(
            "orderbook_deltas",
            {
                "ticker": pa.string(),
                **_COMMON,
                "side": pa.int16(),
                "price": pa.int32(),
                "change": pa.int64(),
                **_SEEN,
                **_PLACES,
            },
            ("ticker", "exchange_us", "received_us"),
            "coalesce(t.exchange_us, t.received_us)",
        ),
        Layout(
            "orderbook_snapshots",
            {
                "ticker": pa.string(),
                **_COMMON,
                "stream_id": pa.int32(),
                "sequence": pa.int64(),
                "source_id": pa.int16(),
                "kind": pa.int16(),
                "condition": pa.int16(),
                "yes_prices": _INTEGERS,
                "yes_sizes": _LONGS,
                "no_prices": _INTEGERS,
                "no_sizes": _LONGS,
            },
            ("ticker", "exchange_us", "received_us"),
            "t.received_us",
            {
                "stream_id": "(SELECT s.stream_id FROM streams AS s"
                " WHERE s.connection_id = t.connection_id AND s.sid = t.sid)"
            },
        ),
        Layout(
            "trades",
            {
                "ticker": pa.string(),
                **_COMMON,
                "trade_id": pa.string(),
                "yes_price": pa.int32(),
                "size": pa.int64(),
                "taker_side": pa.int16(),
                "is_block_trade": pa.bool_(),
                "consistent": pa.bool_(),
                **_SEEN,
            },
            ("ticker", "exchange_us", "trade_id"),
            "coalesce(t.exchange_us, t.received_us)",
        ),
        Layout(
            "tickers",
            {
                "ticker": pa.string(),
                **_COMMON,
                "digest": pa.int64(),
                "last_price": pa.int32(),
                "last_size": pa.int64(),
                "volume": pa.int64(),
                "open_interest": pa.int64(),
                "dollar_volume": pa.int64(),
                "dollar_open_interest": pa.int64(),
                **_SEEN,
            },
            ("ticker", "exchange_us", "digest"),
            "coalesce(t.exchange_us, t.received_us)",
        ),
        Layout(
            "lifecycles",
            {
                "ticker": pa.string(),
                **_COMMON,
                "last_us": pa.int64(),
                "channel": pa.string(),
                "kind": pa.string(),
                "digest": pa.int64(),
                "body": pa.string(),
                **_SEEN,
                **_PLACES,
            },
            ("ticker", "exchange_us", "kind"),
            "coalesce(t.exchange_us, t.received_us)",
        ),
        Layout(
            "gaps",
            {
                "gap_id": pa.string(),
                "ingest": pa.int64(),
                "since_us": pa.int64(),
                "detected_us": pa.int64(),
                "healed_us": pa.int64(),
                "from_sequence": pa.int64(),
                "to_sequence": pa.int64(),
                "connection_id": pa.int32(),
                "sid": pa.int32(),
                "markets": pa.int32(),
                "source_id": pa.int16(),
                "channel": pa.string(),
                "cause": pa.string(),
                "how": pa.string(),
                "tickers": _TEXTS,
                "outcome": pa.string(),
                "lost_tickers": _TEXTS,
                "backfilled_trades": pa.int32(),
            },
            ("detected_us", "gap_id"),
            "t.detected_us",
            known="t.detected_us",
        ),
        _described("series", {"title": pa.string(), "category": pa.string(), "frequency": pa.string()}),
        _described("events", {"series_ticker": pa.string(), "title": pa.string(), "sub_title": pa.string()}),
        _described(
            "markets",
            {
                "event_ticker": pa.string(),
                "title": pa.string(),
                "status": pa.string(),
                "open_us": pa.int64(),
                "close_us": pa.int64(),
                "result": pa.string(),
                "settlement_value": pa.int32(),
                "price_level_structure": pa.string(),
            },
        ),
    )
}
"""Table to layout, in the order in which they are exported."""

# Climbing in a sorted file, or nearly: the differences are small.
_DIFFERENCES: Final = frozenset(
    {"exchange_us", "received_us", "ingest", "sequence", "last_us", "detected_us", "valid_from_us"}
)


def read_csv(data: bytes, layout: Layout) -> pa.Table:
    """Return the rows that COPY wrote as CSV, with `at_us` as the last column."""
    names = [*layout.columns, "at_us"]
    types = {
        name: pa.string() if pa.types.is_list(kind) else kind for name, kind in layout.columns.items()
    } | {"at_us": pa.int64()}
    table = csv.read_csv(
        io.BytesIO(data),
        csv.ReadOptions(column_names=names, block_size=16 << 20),
        csv.ParseOptions(newlines_in_values=True),
        csv.ConvertOptions(
            column_types=types,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
        ),
    )
    for number, (name, kind) in enumerate(layout.columns.items()):
        if pa.types.is_list(kind):
            column = _lists(table.column(number).combine_chunks(), kind)
            table = table.set_column(number, pa.field(name, kind), column)
    return table


def _lists(texts: pa.Array, kind: pa.ListType) -> pa.Array:
    """Read ``{1,2,3}``, or JSON where it is of texts; what is null is an empty list."""
    if kind == _TEXTS:
        return pa.array([json.loads(text or "[]") for text in texts.to_pylist()], kind)
    parts = pc.split_pattern(pc.utf8_trim(texts, "{}"), ",")
    lengths = pc.fill_null(pc.list_value_length(parts), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
    return pa.ListArray.from_arrays(offsets, pc.list_flatten(parts).cast(kind.value_type), type=kind)


def hours(table: pa.Table, layout: Layout) -> Iterator[tuple[int, pa.Table]]:
    """Yield the hour, counted from the epoch, and its rows in their order, without `at_us`."""
    hour = pc.divide(table.column("at_us"), HOUR_US)
    for value in sorted(pc.unique(hour).to_pylist()):
        part = table.filter(pc.equal(hour, value)).drop_columns(["at_us"])
        keys = [(name, "ascending") for name in (*layout.order, "ingest")]
        yield value, part.sort_by(keys)


def write(table: pa.Table, layout: Layout) -> bytes:
    """Return the Parquet file of rows."""
    differences = {name: "DELTA_BINARY_PACKED" for name in layout.columns if name in _DIFFERENCES}
    with io.BytesIO() as file:
        pq.write_table(
            table,
            file,
            compression="zstd",
            compression_level=6,
            version="2.6",
            row_group_size=131_072,
            use_dictionary=[
                _leaf(name, kind) for name, kind in layout.columns.items() if name not in differences
            ],
            column_encoding=differences or None,
            write_statistics=True,
        )
        return file.getvalue()


def _leaf(name: str, kind: pa.DataType) -> str:
    # Within a list the column has another path.
    return f"{name}.list.element" if pa.types.is_list(kind) else name
