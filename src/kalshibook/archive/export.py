"""
Export to Parquet: what production has taken since the last time, in commit order.

A batch is a range of the commit order. It is planned in the database, then its files are written, then
its manifest, then it is marked as finished; whoever finds one planned does it again, and the same
rows make the same bytes. A row that grows later (another source saw it too) comes again in a later
batch: of rows with one key, that with the greatest `ingest` stands.

    orderbook_deltas/date=2026-11-26/hour=06/000000000042.parquet
    manifests/orderbook_deltas/000000000042.json
    lookups/streams.parquet
"""

import hashlib
import io
import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, final

import msgspec
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kalshibook.archive.database import parsed
from kalshibook.archive.parquet import HOUR_US, LAYOUTS, Layout, hours, read_csv, write
from kalshibook.archive.targets import Target, put
from kalshibook.errors import ArchiveError

__all__ = ["EXPORT_LOCK", "MANIFEST_VERSION", "ExportedFile", "Exporter", "Manifest", "check"]

_log = logging.getLogger(__name__)

EXPORT_LOCK: Final = 0x6B616C73_657870
"""Key of the advisory lock that one exporting process at a time holds."""

MANIFEST_VERSION: Final = 1

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


class ExportedFile(msgspec.Struct, frozen=True):
    """One file of a batch."""

    path: str
    rows: int
    bytes: int
    sha256: str
    exchange_us: tuple[int, int] | None
    """Least and greatest, or None where no row has one."""
    ingest: tuple[int, int] | None
    tickers: tuple[str, str] | None
    """First and last, by text."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch consists of."""

    version: int = MANIFEST_VERSION
    table: str
    batch: int
    after: tuple[int, int]
    """Transaction and ingest, exclusive."""
    until: tuple[int, int]
    """Inclusive."""
    rows: int
    bytes: int
    files: tuple[ExportedFile, ...]


@final
class Exporter:
    """
    Writes what is new to a target.

    Args:
        production: address of the database.
        target: where to.
        batch_rows: most rows of a batch, fewer of a table whose rows are long; they are held in memory.
        settle_s: how old, by receipt, a row must be; sources that lag have seen it too by then.
        patience_s: how long to wait for another exporter's end; the server may notice that of a killed
            one a moment later.
        on_step: called at each point at which a crash is worth a test.
    """

    def __init__(
        self,
        production: str,
        target: Target,
        *,
        batch_rows: int = 500_000,
        settle_s: float = 60.0,
        patience_s: float = 10.0,
        on_step: Callable[[str], None] = lambda _: None,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self._production = production
        self._target = target
        self._batch_rows = batch_rows
        self._patience_s = patience_s
        self._settle_us = int(settle_s * 1_000_000)
        self._step = on_step
        self._clock_us = clock_us

    def run(self) -> list[Manifest]:
        """
        Export everything that has settled, and return what was written.

        Raises:
            ArchiveError: the database is not migrated, another process exports it, or the target holds
                batches that it has not written.
        """
        done: list[Manifest] = []
        with psycopg.connect(parsed(self._production), autocommit=True) as connection:
            _claim(connection, self._patience_s)
            self._refuse_unknown(connection)
            for layout in LAYOUTS.values():
                while (manifest := self._batch(connection, layout)) is not None:
                    done.append(manifest)
            self._lookups(connection)
        return done

    def _refuse_unknown(self, connection: Connection) -> None:
        """Raise when batches lie in the target that this database does not know as they are."""
        unknown: dict[int, str] = {}
        for table in LAYOUTS:
            _last(connection, table)
            known = {int(number): tuple(edges) for number, *edges in connection.execute(_ALL, [table])}
            paths = self._target.paths(f"manifests/{table}")
            there = {int(match[1]): path for path in paths if (match := _MANIFEST.search(path))}
            unknown |= {number: there[number] for number in there.keys() - known.keys()}
            # Were an earlier one another's, so would be the latest: numbers follow the order of ranges.
            latest = max(there.keys() & known.keys(), default=None)
            if latest is not None:
                manifest = msgspec.json.decode(self._target.read(there[latest]) or b"", type=Manifest)
                if (*manifest.after, *manifest.until) != known[latest]:
                    unknown[latest] = there[latest]
        if unknown:
            first = min(unknown)
            raise ArchiveError(
                f"the target holds {unknown[first]}, which this production database has not written so: the"
                " database was put back to an earlier state, or another one exports there. Set export.target"
                f" to an empty place; or take the batches from number {first} on out of this one, files and"
                " manifests of every table: what they held is exported again when it is merged again"
            )

    def _batch(self, connection: Connection, layout: Layout) -> Manifest | None:
        planned = connection.execute(_PLANNED, [layout.table]).fetchone()
        is_new = planned is None
        if planned is None:
            planned = self._plan(connection, layout)
            if planned is None:
                return None
            self._step("planned")
        batch, *edges = map(int, planned)
        manifest = self._write(connection, layout, batch, (edges[0], edges[1]), (edges[2], edges[3]))
        if not is_new:
            manifest = self._emptied(manifest, layout)
        put(self._target, f"manifests/{layout.table}/{batch:012d}.json", _encode(manifest))
        self._step("manifest written")
        connection.execute(_FINISH, [len(manifest.files), manifest.rows, manifest.bytes, batch])
        self._step("finished")
        return manifest

    def _plan(self, connection: Connection, layout: Layout) -> tuple[Any, ...] | None:
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            after = _last(connection, layout.table)
            until = self._until(connection, layout, after)
            if until is None:
                return None
            return connection.execute(_PLAN, [layout.table, *after, *until]).fetchone()

    def _until(
        self, connection: Connection, layout: Layout, after: tuple[int, int]
    ) -> tuple[int, int] | None:
        """Return the last place of the next batch: before anything young, and at most so many rows on."""
        now_us = self._clock_us()
        most = max(1, self._batch_rows // layout.weight)
        # Rows are taken up to the first young one, and not around it: a cursor knows no holes. One that is
        # far ahead of our clock is of a gatherer whose clock is wrong, and must not hold up all others.
        found = connection.execute(
            f"""
            SELECT xid::text::bigint, ingest FROM (
                SELECT t.xid, t.ingest,
                    bool_or({layout.known} > %s AND {layout.known} <= %s) OVER (ORDER BY t.xid, t.ingest)
                        AS is_young
                FROM {layout.table} AS t
                WHERE t.xid < pg_snapshot_xmin(pg_current_snapshot())
                    AND (t.xid, t.ingest) > (%s::text::xid8, %s)
                ORDER BY t.xid, t.ingest
                LIMIT %s
            ) AS ahead
            WHERE NOT is_young ORDER BY xid DESC, ingest DESC LIMIT 1
            """,
            [now_us - self._settle_us, now_us + self._settle_us, *after, most],
        ).fetchone()
        return None if found is None else (int(found[0]), int(found[1]))

    def _write(
        self,
        connection: Connection,
        layout: Layout,
        batch: int,
        after: tuple[int, int],
        until: tuple[int, int],
    ) -> Manifest:
        query = (
            f"COPY (SELECT {layout.selected} FROM {layout.table} AS t"
            f" WHERE (t.xid, t.ingest) > ('{after[0]}'::xid8, {after[1]})"
            f" AND (t.xid, t.ingest) <= ('{until[0]}'::xid8, {until[1]})) TO STDOUT (FORMAT csv)"
        )
        with connection.cursor() as cursor, cursor.copy(query) as copy:
            text = b"".join(copy)
        self._step("read")
        files: list[ExportedFile] = []
        if text:
            for hour, rows in hours(read_csv(text, layout), layout):
                moment = datetime.fromtimestamp(hour * HOUR_US // 1_000_000, UTC)
                path = f"{layout.table}/date={moment:%Y-%m-%d}/hour={moment:%H}/{batch:012d}.parquet"
                data = write(rows, layout)
                put(self._target, path, data)
                files.append(_described(path, rows, data))
                self._step("file written")
        return Manifest(
            table=layout.table,
            batch=batch,
            after=after,
            until=until,
            rows=sum(file.rows for file in files),
            bytes=sum(file.bytes for file in files),
            files=tuple(files),
        )

    def _emptied(self, manifest: Manifest, layout: Layout) -> Manifest:
        """
        Empty what an attempt that died has written and this one has not.

        All rows of that hour have grown since, and come in a later batch.
        """
        named = {file.path for file in manifest.files}
        name = f"/{manifest.batch:012d}.parquet"
        files = [*manifest.files]
        for path in self._target.paths(layout.table):
            if path.endswith(name) and path not in named:
                rows = pa.table({column: pa.array([], kind) for column, kind in layout.columns.items()})
                data = write(rows, layout)
                put(self._target, path, data)
                files.append(_described(path, rows, data))
        return msgspec.structs.replace(manifest, files=tuple(files), bytes=sum(file.bytes for file in files))

    def _lookups(self, connection: Connection) -> None:
        """Write the small tables that numbers in the rows point to, whole, each time."""
        ends: dict[str, object] = {}
        for table in ("orderbook_deltas", "gaps"):
            ends[f"{table}_xid"], ends[f"{table}_ingest"] = _last(connection, table)
        for name, query in _LOOKUPS.items():
            cursor = connection.execute(query, ends)
            assert cursor.description is not None
            rows = cursor.fetchall()
            names = [column.name for column in cursor.description]
            table = pa.table({name: [row[number] for row in rows] for number, name in enumerate(names)})
            with io.BytesIO() as file:
                pq.write_table(table, file, compression="zstd")
                data = file.getvalue()
            if self._target.read(f"lookups/{name}.parquet") != data:
                self._target.replace(f"lookups/{name}.parquet", data)


def check(target: Target) -> list[str]:
    """
    Compare every manifest with its files.

    Returns:
        What differs, one line each; empty when all is as it was written.
    """
    wrong: list[str] = []
    named: set[str] = set()
    for path in target.paths("manifests"):
        manifest = msgspec.json.decode(target.read(path) or b"", type=Manifest)
        for file in manifest.files:
            named.add(file.path)
            data = target.read(file.path)
            if data is None:
                wrong.append(f"{file.path} is missing; {path} names it")
            elif hashlib.sha256(data).hexdigest() != file.sha256:
                wrong.append(f"{file.path} is not what {path} says")
    for table in LAYOUTS:
        # Not an error: an export that died has written it, and the next one finishes it.
        wrong += [f"{path} stands in no manifest yet" for path in target.paths(table) if path not in named]
    return wrong


_MANIFEST: Final = re.compile(r"/(\d{12})\.json$")
_ALL: Final = """
    SELECT export_id, from_transaction, from_ingest, to_transaction, to_ingest FROM exports WHERE series = %s
"""
_PLANNED: Final = """
    SELECT export_id, from_transaction, from_ingest, to_transaction, to_ingest FROM exports
    WHERE series = %s AND finished_at IS NULL ORDER BY export_id LIMIT 1
"""
_LAST: Final = """
    SELECT to_transaction, to_ingest FROM exports WHERE series = %s ORDER BY export_id DESC LIMIT 1
"""
_PLAN: Final = """
    INSERT INTO exports (series, from_transaction, from_ingest, to_transaction, to_ingest)
    VALUES (%s, %s, %s, %s, %s)
    RETURNING export_id, from_transaction, from_ingest, to_transaction, to_ingest
"""
_FINISH: Final = """
    UPDATE exports SET finished_at = now(), files = %s, rows = %s, bytes = %s WHERE export_id = %s
"""
_LOOKUPS: Final = {
    "sources": "SELECT source_id, name FROM sources ORDER BY source_id",
    # A connection was watched up to its first change, or gap, that is not in the files yet.
    "streams": """
        WITH waiting AS (
            SELECT t.connection_id, min(d.received_us) AS since_us
            FROM orderbook_deltas AS d CROSS JOIN unnest(d.streams) AS u (stream_id)
            JOIN streams AS t USING (stream_id)
            WHERE (d.xid, d.ingest) > (%(orderbook_deltas_xid)s::text::xid8, %(orderbook_deltas_ingest)s)
            GROUP BY t.connection_id
            UNION ALL
            SELECT g.connection_id, min(coalesce(g.since_us, g.detected_us - 60000000))
            FROM gaps AS g
            WHERE (g.xid, g.ingest) > (%(gaps_xid)s::text::xid8, %(gaps_ingest)s)
            GROUP BY g.connection_id
        )
        SELECT stream_id, t.sid, t.connection_id, c.name AS connection, c.source_id, s.name AS source,
            t.first_us, least(t.last_us, w.since_us - 1, r.reach_us) AS last_us
        FROM streams AS t JOIN connections AS c USING (connection_id) JOIN sources AS s USING (source_id)
        LEFT JOIN source_reaches AS r USING (source_id)
        LEFT JOIN (
            SELECT connection_id, min(since_us) AS since_us FROM waiting GROUP BY connection_id
        ) AS w USING (connection_id)
        ORDER BY stream_id
    """,
}


def _claim(connection: Connection, patience_s: float) -> None:
    found = connection.execute("SELECT to_regclass('exports') IS NOT NULL").fetchone()
    if found is None or not found[0]:
        raise ArchiveError(
            "the database is no production archive; `kalshibook archive migrate --production` makes one"
        )
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = {max(1, int(patience_s * 1_000))}")
            connection.execute("SELECT pg_advisory_lock(%s)", [EXPORT_LOCK])
    except psycopg.errors.LockNotAvailable:
        raise ArchiveError("another process exports this database") from None


def _last(connection: Connection, table: str) -> tuple[int, int]:
    """Return where the last batch of a table ends."""
    found = connection.execute(_LAST, [table]).fetchone() or (0, 0)
    transaction, ingest = map(int, found)
    horizon = connection.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text").fetchone()
    assert horizon is not None
    if transaction >= int(horizon[0]):
        raise ArchiveError(
            f"{table} was exported up to transaction {transaction}, and the server is at {horizon[0]}: after"
            " a dump and restore, rows and the table exports must be given transaction numbers of this server"
        )
    return transaction, ingest


def _encode(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def _described(path: str, rows: pa.Table, data: bytes) -> ExportedFile:
    return ExportedFile(
        path=path,
        rows=rows.num_rows,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        exchange_us=_range(rows, "exchange_us"),
        ingest=_range(rows, "ingest"),
        tickers=_range(rows, "ticker"),
    )


def _range(rows: pa.Table, name: str) -> tuple[Any, Any] | None:
    if name not in rows.column_names:
        return None
    found = pc.min_max(rows[name]).as_py()
    return None if found["min"] is None else (found["min"], found["max"])
