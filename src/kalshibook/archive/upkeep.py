"""
Upkeep of a database: settings applied, partitions made ahead and dropped behind, and its state for people.

On plain PostgreSQL all of it is done here. On TimescaleDB chunks make themselves; dropping is done here
too, by `drop_chunks`, which every edition has, so that one setting means one thing everywhere.
Compression and continuous aggregates are the business of the edition that has them.
"""

import logging
from typing import Any, Final, Literal, NamedTuple

import psycopg
from psycopg import sql

from kalshibook.archive.aggregates import aggregates_of, make_aggregates
from kalshibook.archive.database import Connection, judged, run
from kalshibook.archive.migrate import Variant, applied_migrations, migrate, migrations_of
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.splitting import RowRefused
from kalshibook.errors import ArchiveError

__all__ = [
    "Edition",
    "Policy",
    "SeriesStatus",
    "Status",
    "apply_settings",
    "edition_of",
    "keep_house",
    "prepare",
    "status_of",
]

_log = logging.getLogger(__name__)

_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400


class Edition(NamedTuple):
    """What the server is, and what it can do."""

    postgres: str
    """Its version."""
    timescale: str | None
    """Version of the extension in this database, or None without it."""
    licence: str | None
    """``apache``, or ``timescale`` for the edition with compression, policies and continuous aggregates."""

    @property
    def compresses(self) -> bool:
        """Whether it has compression, policies and continuous aggregates."""
        return self.licence == "timescale"

    def __str__(self) -> str:
        if self.timescale is None:
            return f"PostgreSQL {self.postgres}, native partitions"
        can = "with" if self.compresses else "without"
        return (
            f"PostgreSQL {self.postgres}, TimescaleDB {self.timescale} ({self.licence} edition, {can}"
            " compression, policies and continuous aggregates)"
        )


class SeriesStatus(NamedTuple):
    """One time series."""

    name: str
    rows: int
    """About; as the server's statistics have it."""
    bytes: int
    chunks: int
    chunk_hours: float
    keep_days: float | None
    """None is for ever."""


class Policy(NamedTuple):
    """What a TimescaleDB does by itself."""

    kind: Literal["compression", "refresh"]
    name: str
    """The table that is compressed, or the continuous aggregate that is refreshed."""
    every_s: int
    last: str | None
    """How its last run ended, in the server's word, or None before the first."""


class Status(NamedTuple):
    """What `kalshibook archive status` shows."""

    edition: Edition
    variant: str
    migrations: int
    missing: int
    """Migrations that this release has and the database has not."""
    series: list[SeriesStatus]
    aggregates: list[str]
    """Views that continuous aggregates stand behind."""
    policies: list[Policy]
    dead_letters: int
    sources: list[str]
    cursors: list[tuple[str, str, int]]
    """Reader, subject, position."""


def edition_of(connection: Connection) -> Edition:
    """Return what the server is."""
    (postgres,) = _one(connection, "SHOW server_version")
    (timescale,) = _one(connection, "SELECT max(extversion) FROM pg_extension WHERE extname = 'timescaledb'")
    licence = None
    if timescale is not None:
        (licence,) = _one(connection, "SELECT current_setting('timescaledb.license', true)")
    return Edition(str(postgres).split()[0], timescale, licence)


def prepare(connection: Connection, options: ArchiveOptions, variant: Variant = "local") -> list[str]:
    """
    Migrate a database, apply the settings, and return the names of the migrations that were applied.

    Raises:
        ArchiveError: as `migrate`.
    """
    applied = migrate(connection, variant, timescale=options.timescale == "auto")
    apply_settings(connection, options, variant)
    keep_house(connection)
    return [migration.name for migration in applied]


def apply_settings(connection: Connection, options: ArchiveOptions, variant: Variant) -> None:
    """
    Write chunk sizes and retention, and what the edition can besides: compression, continuous aggregates.

    New chunks follow; those that are there stay as they are.
    """
    edition = edition_of(connection)
    days, hours = options.kept_days(variant), options.chunked_hours(variant)
    for name, series_hours in hours.items():
        keep = days[name]
        run(
            connection,
            "UPDATE time_series SET chunk_s = %s, keep_s = %s WHERE name = %s",
            [series_hours * _HOUR_S, None if keep is None else keep * _DAY_S, name],
        )
        if _is_hypertable(connection, name):
            run(
                connection,
                "SELECT set_chunk_time_interval(%s::regclass, make_interval(hours => %s))",
                [name, series_hours],
            )
    run(
        connection,
        "INSERT INTO archive_settings VALUES ('gaps_keep_days', %s)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [days["gaps"]],
    )
    if variant == "production" and edition.compresses and _is_hypertable(connection, "orderbook_deltas"):
        _compress(connection, options.compress_days)
        make_aggregates(connection)


def keep_house(connection: Connection) -> list[str]:
    """
    Make the partitions of now and of the next span, drop those whose rows are all too old, and name these.

    A partition that is in use just then is left for the next time.

    Raises:
        DatabaseDown: try again.
        ArchiveError: the database cannot be used as it is.
    """
    run(
        connection,
        "SELECT archive_ensure_chunk(name, moment) FROM time_series,"
        " LATERAL (VALUES (now()), (now() + make_interval(secs => chunk_s))) AS moments (moment)",
    )
    dropped: list[str] = []
    kept = run(connection, "SELECT name, keep_s FROM time_series WHERE keep_s IS NOT NULL").fetchall()
    for name, keep_s in kept:
        if _is_hypertable(connection, name):
            found = run(
                connection,
                "SELECT drop_chunks(%s::regclass, older_than => make_interval(secs => %s))",
                [name, keep_s],
            )
            dropped += (str(chunk) for (chunk,) in found.fetchall())
        else:
            dropped += _drop_partitions(connection, name, keep_s)
    run(
        connection,
        "DELETE FROM gaps USING archive_settings s WHERE s.name = 'gaps_keep_days'"
        " AND detected_at < now() - make_interval(days => s.value)",
    )
    if dropped:
        _log.info("dropped %d chunks that were too old: %s", len(dropped), ", ".join(dropped))
    return dropped


def status_of(connection: Connection) -> Status:
    """
    Return the state of a database.

    Raises:
        ArchiveError: it holds no archive.
    """
    applied = applied_migrations(connection)
    if not applied:
        raise ArchiveError("this database holds no archive; run `kalshibook archive migrate`")
    variant: Any = applied[0].variant
    known = {migration.number for migration in migrations_of(variant)}
    rows = run(connection, "SELECT name, chunk_s, keep_s FROM time_series ORDER BY name").fetchall()
    series = [_series(connection, name, chunk_s, keep_s) for name, chunk_s, keep_s in rows]
    (letters,) = _one(connection, "SELECT count(*) FROM dead_letters")
    sources = run(connection, "SELECT name FROM sources ORDER BY source_id").fetchall()
    cursors = run(connection, "SELECT reader, subject, position FROM cursors ORDER BY 1, 2").fetchall()
    edition = edition_of(connection)
    return Status(
        edition,
        variant,
        len(applied),
        len(known - {one.number for one in applied}),
        series,
        aggregates_of(connection),
        _policies(connection) if edition.compresses else [],
        letters,
        [name for (name,) in sources],
        [(reader, subject, position) for reader, subject, position in cursors],
    )


def _compress(connection: Connection, after_days: int) -> None:
    run(
        connection,
        "ALTER TABLE orderbook_deltas SET"
        " (timescaledb.compress, timescaledb.compress_segmentby = 'ticker',"
        " timescaledb.compress_orderby = 'exchange_at, side, price, change')",
    )
    run(connection, "SELECT remove_compression_policy('orderbook_deltas', if_exists => true)")
    run(
        connection,
        "SELECT add_compression_policy('orderbook_deltas', make_interval(days => %s))",
        [after_days],
    )


def _policies(connection: Connection) -> list[Policy]:
    kinds: dict[str, Literal["compression", "refresh"]] = {
        "policy_compression": "compression",
        "policy_refresh_continuous_aggregate": "refresh",
    }
    # The job of a refresh names the table behind the aggregate.
    rows = run(
        connection,
        "SELECT j.proc_name, coalesce(a.view_name, j.hypertable_name),"
        " extract(epoch FROM j.schedule_interval)::integer, s.last_run_status"
        " FROM timescaledb_information.jobs AS j"
        " LEFT JOIN timescaledb_information.job_stats AS s USING (job_id)"
        " LEFT JOIN timescaledb_information.continuous_aggregates AS a"
        " ON a.materialization_hypertable_name = j.hypertable_name"
        " WHERE j.proc_name = ANY (%s) ORDER BY 1, 2",
        [[*kinds]],
    )
    return [Policy(kinds[proc], name, every_s, last) for proc, name, every_s, last in rows.fetchall()]


def _series(connection: Connection, name: str, chunk_s: int, keep_s: int | None) -> SeriesStatus:
    if _is_hypertable(connection, name):
        rows, size, chunks = _one(
            connection,
            "SELECT approximate_row_count(%s::regclass), hypertable_size(%s::regclass),"
            " (SELECT count(*) FROM show_chunks(%s::regclass))",
            [name, name, name],
        )
    else:
        # Of a partition that was never analyzed the number is -1.
        rows, size, chunks = _one(
            connection,
            "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint,"
            " coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint, count(*)"
            " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = %s::regclass",
            [name],
        )
    keep_days = None if keep_s is None else keep_s / _DAY_S
    return SeriesStatus(name, rows, size or 0, chunks, chunk_s / _HOUR_S, keep_days)


def _drop_partitions(connection: Connection, name: str, keep_s: int) -> list[str]:
    dropped = []
    old = run(
        connection,
        "SELECT name FROM chunks WHERE series = %s AND to_at < now() - make_interval(secs => %s)"
        " ORDER BY from_at",
        [name, keep_s],
    ).fetchall()
    for (chunk,) in old:
        try:
            with connection.transaction():
                # Readers of the whole series would be waited for, and everybody behind them; rather later.
                connection.execute("SET LOCAL lock_timeout = '2s'")
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(chunk)))
                connection.execute("DELETE FROM chunks WHERE name = %s", [chunk])
        except psycopg.errors.LockNotAvailable:
            _log.info("%s is in use, and is dropped next time", chunk)
        except psycopg.Error as error:
            found = judged(error)
            raise ArchiveError(str(found)) if isinstance(found, RowRefused) else found from None
        else:
            dropped.append(str(chunk))
    return dropped


def _is_hypertable(connection: Connection, name: str) -> bool:
    (kind,) = _one(connection, "SELECT relkind::text FROM pg_class WHERE oid = %s::regclass", [name])
    return bool(kind == "r")


def _one(connection: Connection, statement: str, parameters: list[object] | None = None) -> tuple[Any, ...]:
    row = run(connection, statement, parameters).fetchone()
    assert row is not None
    return row
