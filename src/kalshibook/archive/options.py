"""Settings of the archive."""

from typing import Any, Final, Literal

import msgspec

from kalshibook.errors import SettingsError

__all__ = ["ArchiveOptions"]

_TABLES: Final = ("orderbook_deltas", "orderbook_snapshots", "trades", "tickers", "lifecycles", "gaps")
_KEEP_DAYS: Final = {
    "local": {
        "orderbook_deltas": 7,
        "tickers": 7,
        "orderbook_snapshots": 30,
        "trades": 30,
        "lifecycles": 30,
        "gaps": 30,
    },
    "production": {},
}
_CHUNK_HOURS: Final = {
    "local": {"orderbook_deltas": 6, "tickers": 6},
    "production": {},
}
_DAY_HOURS: Final = 24
_AT_LEAST_ONE: Final = (
    "batch_rows",
    "batch_ms",
    "queue_rows",
    "spill_bytes",
    "housekeeping_minutes",
    "compress_days",
)


class ArchiveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    Settings of what is kept for good.

    >>> "hunter2" in repr(ArchiveOptions(dsn="postgresql://me:hunter2@db/kalshi"))
    False
    >>> ArchiveOptions(keep_days={"tickers": 0}).kept_days("local")["tickers"] is None
    True
    """

    dsn: str = ""
    """The database, as libpq takes it: ``postgresql://user:password@host/name``. A secret."""

    timescale: Literal["auto", "never"] = "auto"
    """Whether a new archive is made of hypertables where the server has TimescaleDB loaded (``auto``)."""

    # Writing.

    in_gatherer: bool = False
    """Whether `kalshibook gather` writes the database too, in its own process, beside Kafka."""

    group: str = "kalshibook-archive"
    """Consumer group of `kalshibook archive write`, and the name of its cursors in the database."""

    gaps_topic: str = "market-data-gaps"
    """The topic of the gap ledger, stored beside; empty for none."""

    batch_rows: int = 1_000
    """Rows stored in one transaction, at most."""

    batch_ms: int = 1_000
    """How long a row waits for others to be stored with, at most."""

    queue_rows: int = 20_000
    """
    Messages inside a gatherer that neither its journal nor its database has, at most; then its sockets are
    not read.
    """

    snapshot_interval_s: int = 60
    """How often the live books that changed are stored whole; 0 for never."""

    spill_folder: str = "archive-spill"
    """Where a gatherer keeps the journal of what its database has not stored yet; each needs its own."""

    spill_bytes: int = 4 * 1024**3
    """Most bytes in the journal; then the sockets are not read."""

    # Keeping.

    keep_days: dict[str, int] = {}
    """
    Days by table for which rows are kept, 0 for ever. A gatherer's own database keeps deltas and tickers
    7 days and the rest 30, unless said here; the production database keeps all for ever.
    """

    chunk_hours: dict[str, int] = {}
    """
    Hours by table that one partition spans; 24, but 6 for deltas and tickers of a gatherer's own database.
    """

    compress_days: int = 7
    """Age at which production's deltas are compressed, where TimescaleDB's edition can."""

    housekeeping_minutes: int = 10
    """How often partitions are made ahead and dropped behind."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise SettingsError(f"archive.{name} is {getattr(self, name)}; it must be at least 1")
        if self.snapshot_interval_s < 0:
            raise SettingsError(
                f"archive.snapshot_interval_s is {self.snapshot_interval_s}; 0 stands for never"
            )
        for name in ("group", "spill_folder"):
            if not getattr(self, name).strip():
                raise SettingsError(f"archive.{name} is empty")
        for name, least in (("keep_days", 0), ("chunk_hours", 1)):
            for table, value in getattr(self, name).items():
                if table not in _TABLES:
                    raise SettingsError(f"archive.{name}: no table {table!r}; there are {', '.join(_TABLES)}")
                if value < least:
                    raise SettingsError(f"archive.{name}.{table} is {value}; it must be at least {least}")

    def kept_days(self, variant: Literal["local", "production"]) -> dict[str, int | None]:
        """Return for how many days each table keeps its rows; None is for ever."""
        days = _KEEP_DAYS[variant] | self.keep_days
        return {table: days.get(table) or None for table in _TABLES}

    def chunked_hours(self, variant: Literal["local", "production"]) -> dict[str, int]:
        """Return how many hours a partition of each table spans."""
        hours = _CHUNK_HOURS[variant] | self.chunk_hours
        return {table: hours.get(table, _DAY_HOURS) for table in _TABLES if table != "gaps"}

    # A struct's own representations would put a password into every log line that shows settings.
    def __repr__(self) -> str:
        return f"ArchiveOptions({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        values = msgspec.structs.asdict(self)
        return [(name, "***" if value and "dsn" in name else value) for name, value in values.items()]
