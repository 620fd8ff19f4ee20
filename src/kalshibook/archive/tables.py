"""The tables that rows go to: their columns, and a row as COPY takes it, in binary. Pure."""

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from kalshibook.archive.rows import DeltaRow, LifecycleRow, Row, SnapshotRow, TickerRow, TradeRow

__all__ = ["COPY_END", "COPY_START", "TABLES", "TABLE_OF", "Numbers", "Table", "partition_us"]

COPY_START: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
COPY_END: Final = b"\xff\xff"

# PostgreSQL counts time from the year 2000.
_POSTGRES_EPOCH_US: Final = 946_684_800_000_000
_MILLISECOND: Final = 1_000

Values: TypeAlias = tuple[Any, ...]


class Numbers(NamedTuple):
    """What stands for a source and a connection in a row."""

    source_id: int
    connection_id: int | None


class Table(NamedTuple):
    """One time series, as a writer needs it."""

    name: str
    time_column: str
    columns: tuple[str, ...]
    """Those that a writer fills, in the order of `encode`."""
    key: tuple[str, ...]
    encode: Callable[[Any, Numbers], bytes]
    """Turns a row into one tuple of binary COPY."""

    @property
    def column_list(self) -> str:
        """The columns, as SQL wants them."""
        return ", ".join(self.columns)


def partition_us(row: Row) -> int:
    """Return the time by which a row is partitioned, microseconds since the epoch."""
    if type(row) is not TradeRow:
        return row.received_us
    if row.exchange_us is None:
        return row.received_us
    # REST says microseconds where a frame says milliseconds, and both are the same trade.
    return row.exchange_us // _MILLISECOND * _MILLISECOND


# Types of columns, by the letter that packs one; what is not in here has no fixed size.
_SIZES: Final = {"q": 8, "i": 4, "h": 2, "?": 1}


def _packer(letters: str) -> Callable[..., bytes]:
    """
    Return what packs columns of fixed size: their count, then size and value of each.

    The last letter may be ``t``: only the size of that text is packed then.
    """
    sizes = [_SIZES[letter] for letter in letters.rstrip("t")]
    whole = struct.Struct(">h" + "".join(f"i{letter}" for letter in letters.rstrip("t")))
    pack, count = whole.pack, len(letters)
    flat: list[Any] = [count]
    for size in sizes:
        flat += (size, None)

    def pack_all(*values: Any) -> bytes:
        arguments = flat.copy()
        arguments[2::2] = values
        try:
            return pack(*arguments)
        except struct.error:
            if None not in values:
                raise
        parts = [struct.pack(">h", count)]
        for letter, size, value in zip(letters, sizes, values, strict=False):
            parts.append(_NULL if value is None else struct.pack(f">i{letter}", size, value))
        return b"".join(parts)

    return pack_all


_NULL: Final = struct.pack(">i", -1)


def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    data = value.encode()
    return struct.pack(">i", len(data)) + data


def _jsonb(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">ib", len(data) + 1, 1) + data


_INT4_OID: Final = 23
_INT8_OID: Final = 20


def _array(values: tuple[int, ...], oid: int, size: int) -> bytes:
    if not values:
        return struct.pack(">iiii", 12, 0, 0, oid)
    body = struct.pack(
        ">iiiii" + ("iq" if size == 8 else "ii") * len(values),
        1,
        0,
        oid,
        len(values),
        1,
        *(part for value in values for part in (size, value)),
    )
    return struct.pack(">i", len(body)) + body


_DELTA: Final = _packer("qqqqqiiihht")
_SNAPSHOT: Final = _packer("qqqqiihhhttttt")
_TRADE: Final = _packer("qqqqqiiihh??tt")
_TICKER: Final = _packer("qqqqqqqqqiiiht")
_LIFECYCLE: Final = _packer("qqqqiihtttt")


def _delta(row: DeltaRow, numbers: Numbers) -> bytes:
    _, _, sid, sequence, received_us, exchange_us, ticker, side, price, change = row
    return _DELTA(
        received_us - _POSTGRES_EPOCH_US,
        received_us,
        exchange_us,
        sequence,
        change,
        numbers.connection_id,
        sid,
        price,
        numbers.source_id,
        side,
    ) + _text(ticker)


def _snapshot(row: SnapshotRow, numbers: Numbers) -> bytes:
    fixed = _SNAPSHOT(
        row.received_us - _POSTGRES_EPOCH_US,
        row.received_us,
        row.exchange_us,
        row.sequence,
        numbers.connection_id,
        row.sid,
        numbers.source_id,
        row.kind,
        row.condition,
    )
    return b"".join(
        (
            fixed,
            _text(row.ticker),
            _array(row.yes_prices, _INT4_OID, 4),
            _array(row.yes_sizes, _INT8_OID, 8),
            _array(row.no_prices, _INT4_OID, 4),
            _array(row.no_sizes, _INT8_OID, 8),
        )
    )


def _trade(row: TradeRow, numbers: Numbers) -> bytes:
    fixed = _TRADE(
        partition_us(row) - _POSTGRES_EPOCH_US,
        row.exchange_us,
        row.received_us,
        row.sequence,
        row.size,
        numbers.connection_id,
        row.sid,
        row.yes_price,
        numbers.source_id,
        row.taker_side,
        row.is_block_trade,
        row.consistent,
    )
    return fixed + _text(row.trade_id) + _text(row.ticker)


def _ticker(row: TickerRow, numbers: Numbers) -> bytes:
    return _TICKER(
        row.received_us - _POSTGRES_EPOCH_US,
        row.received_us,
        row.exchange_us,
        row.digest,
        row.last_size,
        row.volume,
        row.open_interest,
        row.dollar_volume,
        row.dollar_open_interest,
        numbers.connection_id,
        row.sid,
        row.last_price,
        numbers.source_id,
    ) + _text(row.ticker)


def _lifecycle(row: LifecycleRow, numbers: Numbers) -> bytes:
    fixed = _LIFECYCLE(
        row.received_us - _POSTGRES_EPOCH_US,
        row.received_us,
        row.exchange_us,
        row.sequence,
        numbers.connection_id,
        row.sid,
        numbers.source_id,
    )
    return fixed + _text(row.ticker) + _text(row.channel) + _text(row.kind) + _jsonb(row.body)


_DELTAS: Final = Table(
    "orderbook_deltas",
    "received_at",
    (
        *("received_at", "received_us", "exchange_us", "sequence", "change"),
        *("connection_id", "sid", "price", "source_id", "side", "ticker"),
    ),
    ("connection_id", "sid", "sequence", "received_at"),
    _delta,
)
_SNAPSHOTS: Final = Table(
    "orderbook_snapshots",
    "received_at",
    (
        *("received_at", "received_us", "exchange_us", "sequence", "connection_id", "sid", "source_id"),
        *("kind", "condition", "ticker", "yes_prices", "yes_sizes", "no_prices", "no_sizes"),
    ),
    ("connection_id", "sid", "sequence", "kind", "ticker", "received_at"),
    _snapshot,
)
_TRADES: Final = Table(
    "trades",
    "exchange_at",
    (
        *("exchange_at", "exchange_us", "received_us", "sequence", "size", "connection_id", "sid"),
        *("yes_price", "source_id", "taker_side", "is_block_trade", "consistent", "trade_id", "ticker"),
    ),
    ("trade_id", "exchange_at"),
    _trade,
)
_TICKERS: Final = Table(
    "tickers",
    "received_at",
    (
        *("received_at", "received_us", "exchange_us", "digest", "last_size", "volume", "open_interest"),
        *(
            "dollar_volume",
            "dollar_open_interest",
            "connection_id",
            "sid",
            "last_price",
            "source_id",
            "ticker",
        ),
    ),
    ("connection_id", "sid", "digest", "received_at"),
    _ticker,
)
_LIFECYCLES: Final = Table(
    "lifecycles",
    "received_at",
    (
        *("received_at", "received_us", "exchange_us", "sequence", "connection_id", "sid", "source_id"),
        *("ticker", "channel", "kind", "body"),
    ),
    ("connection_id", "sid", "sequence", "received_at"),
    _lifecycle,
)

TABLE_OF: Final[Mapping[type[Row], Table]] = {
    DeltaRow: _DELTAS,
    SnapshotRow: _SNAPSHOTS,
    TradeRow: _TRADES,
    TickerRow: _TICKERS,
    LifecycleRow: _LIFECYCLES,
}
TABLES: Final[Mapping[str, Table]] = {table.name: table for table in TABLE_OF.values()}
