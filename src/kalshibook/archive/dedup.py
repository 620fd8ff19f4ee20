"""
The deduplicator: reads the gatherers' databases by commit order, and writes production.

A round reads one batch of every table from every source, all sources side by side, and merges what
came. Rows and cursors move in one transaction, so that a crash anywhere loses nothing and repeats
nothing; and if a cursor were lost, reading everything again would change nothing, because merging
is the union of sets (`kalshibook.archive.merging`).

A source that does not answer is left out of the round, and asked again after a pause.

A source that was put back to an earlier state counts on from there, and would pass the cursor with rows
that were never read. So a *note* of how far it was read stands in the source itself, written after
reading and before merging: a copy of its files that has the note has the rows before it, too, and one
whose note is behind the cursor is older than what was merged. It is read from its beginning.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Self, TypeAlias, final

import msgspec
import psycopg

from kalshibook.archive.database import parsed
from kalshibook.archive.dedup_sql import (
    FIND_STREAMS,
    MERGES,
    NAME_CONNECTIONS,
    NAME_SOURCES,
    SETUP,
    Cursor,
    Merge,
)
from kalshibook.errors import ArchiveError

__all__ = ["DEDUP_LOCK", "Deduplicator", "Merging", "Progress", "Round", "SourceState"]

_log = logging.getLogger(__name__)

DEDUP_LOCK: Final = 0x6B616C73_646564
"""Key of the advisory lock that the deduplicator of a production database holds."""

READER: Final = "dedup"

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

# The last two columns of a row in COPY's binary format, 4 bytes of length and 8 of value each, and
# the trailer after the last row: where a batch ends can be read without decoding it.
_TRAILER: Final = 2
_TAIL: Final = 24
_CONNECTION: Final = {
    "connect_timeout": 5,
    # A host that has vanished must not hold a round for the kernel's quarter of an hour.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "options": "-c statement_timeout=60000 -c lock_timeout=10000",
}


class SourceState(msgspec.Struct):
    """What is known of one source; counts are since the start."""

    name: str
    reachable: bool = False
    error: str | None = None
    """Why it cannot be read, or None."""
    retry_at_s: float = 0.0
    """When it is asked again, on the monotonic clock."""
    failures: int = 0
    """In a row."""
    total_rows: dict[str, int] = {}
    """Rows read, by table."""
    last_received_us: int | None = None
    """Receipt of the latest row merged."""
    behind: bool = False
    """Whether its last batch was full, so that more is waiting."""


class Merging(msgspec.Struct, frozen=True):
    """One table's part of a round."""

    table: str
    rows: int
    """Sightings read, of all sources."""
    new: int
    """Events that nobody had seen before."""
    grown: int
    """Events known already, of which another sighting came."""


class Round(msgspec.Struct, frozen=True):
    """What one round did."""

    merged: tuple[Merging, ...]
    failed: tuple[str, ...]
    """Sources that did not answer."""
    more: bool
    """Whether a batch was full, so that more is waiting."""

    @property
    def rows(self) -> int:
        """Sightings read, of all tables and sources."""
        return sum(one.rows for one in self.merged)


class Progress(msgspec.Struct):
    """Counts since the start, by table."""

    rows: dict[str, int] = {}
    new: dict[str, int] = {}
    grown: dict[str, int] = {}
    rounds: int = 0


class _Batch(msgspec.Struct, frozen=True, gc=False):
    blocks: list[bytes]
    rows: int
    end: Cursor
    connections: list[tuple[int, str, str]]
    sources: list[tuple[int, str]]


@final
class Deduplicator:
    """
    Merges the sources into production; one thread uses it, and one process per production database.

    Args:
        sources: name to address of each gatherer's database; the name is how its cursor is called.
        production: address of the database that all are merged into.
        batch_rows: rows of one table taken from one source in one transaction.
        retry_s: longest pause before a source that did not answer is asked again.
        patience_s: how long to wait for another deduplicator's end; the server may notice that of a
            killed one a moment later.
        on_step: called at each point at which a crash is worth a test.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        production: str,
        *,
        batch_rows: int = 20_000,
        retry_s: float = 30.0,
        patience_s: float = 10.0,
        on_step: Callable[[str], None] = lambda _: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        if not sources:
            raise ArchiveError("there is no source to read; set dedup.source_dsns.<name> to a database")
        self.states: Final = {name: SourceState(name) for name in sources}
        """By name."""
        self.progress: Final = Progress()
        self._addresses = dict(sources)
        self._production_address = production
        self._batch_rows = batch_rows
        self._retry_s = retry_s
        self._patience_s = patience_s
        self._step = on_step
        self._clock_s = clock_s
        self._origins = {name: number for number, name in enumerate(sources)}
        self._readers = {name: _Reader(name, address, on_step) for name, address in sources.items()}
        self._pool = ThreadPoolExecutor(len(sources), thread_name_prefix="source")
        self._production: Connection | None = None
        self._cursors: dict[str, Cursor] = {}

    def __enter__(self) -> Self:
        """
        Take the production database for this process.

        Raises:
            ArchiveError: it is not migrated, or another deduplicator has it.
        """
        self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all databases."""
        for reader in self._readers.values():
            reader.close()
        self._pool.shutdown(wait=True)
        if self._production is not None:
            self._production.close()
            self._production = None

    def run(
        self, stop: threading.Event, *, pause_s: float = 0.5, after_round: Callable[[Round], None]
    ) -> None:
        """
        Merge until `stop` is set.

        Args:
            stop: ends it after the round that runs.
            pause_s: between rounds while nothing more is waiting.
            after_round: told of each round.
        """
        while not stop.is_set():
            try:
                done = self.round()
            except psycopg.OperationalError as error:
                _log.warning("production does not answer, everything is kept at the sources: %s", error)
                stop.wait(min(self._retry_s, 5.0))
                continue
            after_round(done)
            if not done.more:
                stop.wait(pause_s)

    def drain(self) -> None:
        """Merge until no source that answers has more."""
        while self.round().more:
            pass

    def round(self) -> Round:
        """
        Read one batch of every table of every source that answers, and merge it.

        Raises:
            psycopg.OperationalError: production does not answer; the next round tries again.
        """
        self._connect()
        merged: list[Merging] = []
        failed: set[str] = set()
        behind: set[str] = set()
        for reader in self._readers.values():
            reader.begin()
        for merge in MERGES:
            batches = self._read(merge, failed)
            self._step(f"{merge.table}: read")
            if batches:
                merged.append(self._merge(merge, batches))
                behind.update(name for name, batch in batches.items() if batch.rows == self._batch_rows)
            self._step(f"{merge.table}: done")
        self.progress.rounds += 1
        for name, state in self.states.items():
            state.behind = name in behind
        return Round(tuple(merged), tuple(sorted(failed)), bool(behind))

    # Production.

    def _connect(self) -> None:
        if self._production is not None and not self._production.broken and not self._production.closed:
            return
        connection = _open(self._production_address)
        try:
            _claim(connection, self._patience_s)
            for statement in (*SETUP, *(merge.staging for merge in MERGES)):
                _execute(connection, statement)
            self._cursors = {
                str(subject): Cursor(int(transaction_id or 0), int(position))
                for subject, position, transaction_id in connection.execute(
                    "SELECT subject, position, transaction_id FROM cursors WHERE reader = %s", [READER]
                )
            }
        except BaseException:
            connection.close()
            raise
        production = str(_one(connection, _DATABASE))
        # What the sources had named went with the old connection's temporary tables.
        for reader in self._readers.values():
            reader.forget()
            reader.note_as = f"{READER}/{production}"
        self._production = connection

    def _merge(self, merge: Merge, batches: Mapping[str, _Batch]) -> Merging:
        connection = self._production
        assert connection is not None
        try:
            with connection.transaction():
                new, grown, latest = self._merge_within(connection, merge, batches)
            self._step(f"{merge.table}: committed")
        except BaseException:
            for name in batches:
                self._readers[name].forget()
            raise
        rows = 0
        for name, batch in batches.items():
            state = self.states[name]
            latest_us = latest.get(self._origins[name])
            if latest_us is not None:
                state.last_received_us = max(latest_us, state.last_received_us or 0)
            self._cursors[_subject(name, self._readers[name].identity, merge.table)] = batch.end
            self._readers[name].remember(batch.connections, batch.sources)
            totals = self.states[name].total_rows
            totals[merge.table] = totals.get(merge.table, 0) + batch.rows
            rows += batch.rows
        progress = self.progress
        for counts, number in ((progress.rows, rows), (progress.new, new), (progress.grown, grown)):
            counts[merge.table] = counts.get(merge.table, 0) + number
        return Merging(merge.table, rows, new, grown)

    def _merge_within(
        self, connection: Connection, merge: Merge, batches: Mapping[str, _Batch]
    ) -> tuple[int, int, dict[int, int]]:
        columns = ", ".join(("origin", *merge.columns, "xid", "ingest"))
        named = False
        with connection.cursor() as cursor:
            for name, batch in batches.items():
                origin = self._origins[name]
                for local_id, source, label in batch.connections:
                    _execute(cursor, _NAME_CONNECTION, [origin, local_id, source, label])
                for local_id, source in batch.sources:
                    _execute(cursor, _NAME_SOURCE, [origin, local_id, source])
                named = named or bool(batch.connections or batch.sources)
                with cursor.copy(f"COPY {merge.staged} ({columns}) FROM STDIN (FORMAT binary)") as copy:
                    for block in batch.blocks:
                        copy.write(block)
            self._step(f"{merge.table}: staged")
            if named:
                _execute(cursor, NAME_SOURCES)
                _execute(cursor, NAME_CONNECTIONS)
            if merge.ensuring is not None:
                _execute(cursor, merge.ensuring)
                _execute(cursor, FIND_STREAMS.format(staged=merge.staged))
            _execute(cursor, merge.statement)
            counted = cursor.fetchone()
            assert counted is not None
            if merge.tidying is not None and counted[2]:
                _execute(cursor, merge.tidying)
            self._step(f"{merge.table}: merged")
            for name, batch in batches.items():
                subject = _subject(name, self._readers[name].identity, merge.table)
                _execute(cursor, _MOVE, [READER, subject, batch.end.position, batch.end.transaction_id])
            self._step(f"{merge.table}: moved")
            latest = cursor.execute(f"SELECT origin, max(received_us) FROM {merge.staged} GROUP BY origin")
            return int(counted[0]), int(counted[1]), {int(origin): int(us) for origin, us in latest}

    # Sources.

    def _read(self, merge: Merge, failed: set[str]) -> dict[str, _Batch]:
        waiting: dict[str, Future[_Batch | None]] = {}
        now_s = self._clock_s()
        for name, state in self.states.items():
            if name in failed or state.retry_at_s > now_s:
                failed.add(name)
                continue
            waiting[name] = self._pool.submit(
                self._readers[name].read, merge, self._origins[name], self._cursors, self._batch_rows
            )
        batches: dict[str, _Batch] = {}
        for name, future in waiting.items():
            try:
                batch = future.result()
            except (psycopg.Error, ArchiveError) as error:
                failed.add(name)
                self._failed(self.states[name], error)
                continue
            state = self.states[name]
            if not state.reachable:
                _log.info("source %s is read", name)
            state.reachable, state.error, state.failures = True, None, 0
            if batch is not None:
                batches[name] = batch
        return batches

    def _failed(self, state: SourceState, error: Exception) -> None:
        state.failures += 1
        pause_s = min(self._retry_s, 0.5 * 2 ** min(state.failures, 10))
        state.retry_at_s = self._clock_s() + pause_s
        reason = str(error).strip().partition("\n")[0]
        if state.reachable or state.failures == 1:
            _log.warning("source %s is not read, the others go on: %s", state.name, reason)
        state.reachable, state.error = False, reason


class _Reader:
    """One source's database, read by one thread at a time."""

    def __init__(self, name: str, address: str, on_step: Callable[[str], None]) -> None:
        self.name = name
        self.identity = ""
        """Of the database, so that a new one under the same name is read from its beginning."""
        self.note_as = ""
        """Under which name production's notes stand in the source."""
        self._step = on_step
        self._takes_notes = False
        self._address = address
        self._connection: Connection | None = None
        self._horizon: int | None = None
        self._connections_known: set[int] = set()
        self._sources_known: set[int] = set()

    def begin(self) -> None:
        """Begin a round: all its tables are read up to the same transaction."""
        self._horizon = None

    def forget(self) -> None:
        """Name everything again: production has not kept it."""
        self._connections_known.clear()
        self._sources_known.clear()

    def remember(
        self, connections: Sequence[tuple[int, str, str]], sources: Sequence[tuple[int, str]]
    ) -> None:
        """Name these no more: production has committed them."""
        self._connections_known.update(number for number, *_ in connections)
        self._sources_known.update(number for number, _ in sources)

    def read(self, merge: Merge, origin: int, cursors: Mapping[str, Cursor], limit: int) -> _Batch | None:
        """Return the next rows after the cursor, or None when there are none."""
        connection = self._connected()
        cursor = cursors.get(_subject(self.name, self.identity, merge.table), Cursor())
        # One snapshot for all statements: a connection that a row names is there to be read as well.
        with connection.transaction():
            _execute(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            horizon = int(_one(connection, _HORIZON))
            if cursor.transaction_id >= horizon or cursor > self._note(connection, merge.table, cursor):
                _log.error(
                    "source %s was put back to an earlier state: %s is read from its beginning",
                    self.name,
                    merge.table,
                )
                cursor = Cursor()
            if self._horizon is None:
                self._horizon = horizon
            with connection.cursor() as reading:
                query = merge.reading(origin, cursor, limit, self._horizon)
                query = f"COPY ({query}) TO STDOUT (FORMAT binary)"
                with reading.copy(query) as copy:
                    blocks = [bytes(block) for block in copy]
                rows = reading.rowcount
            if not rows:
                return None
            connections = [
                (int(number), str(source), str(label))
                for number, source, label in connection.execute(_CONNECTIONS)
                if number not in self._connections_known
            ]
            sources = [
                (int(number), str(name))
                for number, name in connection.execute("SELECT source_id, name FROM sources")
                if number not in self._sources_known
            ]
        end = _end(blocks)
        if self._takes_notes:
            # After reading: whatever copy of the files has this has what was read as well.
            _execute(connection, _MOVE, [self.note_as, merge.table, end.position, end.transaction_id])
        self._step(f"{merge.table}: noted")
        if rows == limit:
            # What one table has not reached yet, no later one passes: how far a connection was watched is
            # said by whatever came on it last, and must not be said before its changes are there.
            self._horizon = min(self._horizon, end.transaction_id)
        return _Batch(blocks, rows, end, connections, sources)

    def close(self) -> None:
        """Let go of the database."""
        if self._connection is not None:
            self._connection.close()

    def _note(self, connection: Connection, table: str, cursor: Cursor) -> Cursor:
        """Return how far the source says that it was read; where it takes no notes, it agrees with us."""
        if not self._takes_notes:
            return cursor
        found = connection.execute(_NOTE, [self.note_as, table]).fetchone()
        return Cursor() if found is None else Cursor(int(found[0]), int(found[1]))

    def _connected(self) -> Connection:
        connection = self._connection
        if connection is None or connection.broken or connection.closed:
            connection = psycopg.connect(parsed(self._address), autocommit=True, **_CONNECTION)  # type: ignore[arg-type]  # libpq takes numbers too
            self._connection = connection
            if not _one(connection, "SELECT to_regclass('ingest_order') IS NOT NULL"):
                raise ArchiveError(
                    "the database is not migrated; `kalshibook archive migrate` makes it ready"
                )
            self.identity = str(_one(connection, _IDENTITY))
            self._takes_notes = bool(_one(connection, _TAKES_NOTES))
            if not self._takes_notes:
                _log.warning(
                    "source %s lets nothing be written into its table cursors: if it is put back to an"
                    " earlier state and then goes on beyond what was read, rows may be missed",
                    self.name,
                )
            self.begin()
            self.forget()
        return connection


_CONNECTIONS: Final = (
    "SELECT c.connection_id, s.name, c.name FROM connections AS c JOIN sources AS s USING (source_id)"
)
_NAME_CONNECTION: Final = "INSERT INTO origins VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
_NAME_SOURCE: Final = "INSERT INTO origin_sources VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
_MOVE: Final = """
    INSERT INTO cursors (reader, subject, position, transaction_id) VALUES (%s, %s, %s, %s)
    ON CONFLICT (reader, subject) DO UPDATE SET
        position = excluded.position, transaction_id = excluded.transaction_id, updated_at = now()
"""
_NOTE: Final = "SELECT transaction_id, position FROM cursors WHERE reader = %s AND subject = %s"
# A standby, or a role that may only read, is read all the same.
_TAKES_NOTES: Final = """
    SELECT has_table_privilege('cursors', 'INSERT') AND has_table_privilege('cursors', 'UPDATE')
        AND NOT pg_is_in_recovery() AND NOT current_setting('transaction_read_only')::boolean
"""
_HORIZON: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
# The server, its timeline, which is another one after a recovery or a promotion, the database's number,
# and when the first migration ran: another database has others.
_IDENTITY: Final = """
    SELECT concat_ws(
        '.', s.system_identifier, c.timeline_id, d.oid, extract(epoch FROM min(m.applied_at))
    )
    FROM schema_migrations AS m, pg_database AS d, pg_control_system() AS s, pg_control_checkpoint() AS c
    WHERE d.datname = current_database()
    GROUP BY s.system_identifier, c.timeline_id, d.oid
"""


# Without the timeline: a production that was promoted, or put back, finds the notes that it has written.
_DATABASE: Final = """
    SELECT concat_ws('.', s.system_identifier, d.oid, extract(epoch FROM min(m.applied_at)))
    FROM schema_migrations AS m, pg_database AS d, pg_control_system() AS s
    WHERE d.datname = current_database()
    GROUP BY s.system_identifier, d.oid
"""


def _open(address: str) -> Connection:
    return psycopg.connect(parsed(address), autocommit=True, **_CONNECTION)  # type: ignore[arg-type]  # libpq takes numbers too


def _claim(connection: Connection, patience_s: float) -> None:
    if not _one(connection, "SELECT to_regclass('streams') IS NOT NULL"):
        raise ArchiveError(
            "the database is no production archive; `kalshibook archive migrate --production` makes one"
        )
    try:
        with connection.transaction():
            _execute(connection, f"SET LOCAL lock_timeout = {max(1, int(patience_s * 1_000))}")
            _execute(connection, f"SELECT pg_advisory_lock({DEDUP_LOCK})")
    except psycopg.errors.LockNotAvailable:
        raise ArchiveError("another deduplicator writes this production database") from None


def _subject(name: str, identity: str, table: str) -> str:
    return f"{name}/{identity}/{table}"


def _end(blocks: Sequence[bytes]) -> Cursor:
    tail = b"".join(blocks[-3:])[-(_TAIL + _TRAILER) : -_TRAILER]
    return Cursor(int.from_bytes(tail[4:12], "big"), int.from_bytes(tail[16:24], "big"))


def _execute(
    target: Connection | psycopg.Cursor[tuple[Any, ...]],
    text: str,
    parameters: Sequence[object] | None = None,
) -> None:
    target.execute(text, parameters)


def _one(connection: Connection, text: str) -> Any:
    row = connection.execute(text).fetchone()
    return None if row is None else row[0]
