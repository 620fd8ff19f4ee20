"""
One batch into the database, in one transaction: rows, dead letters, and how far the reader has come.

Rows go straight into their tables by COPY, which is the fastest way in and fails when a row is there
already. Then, and for a while after, they go into a staging table and are merged from there, which
takes the new ones only. Duplicates come in bursts, after a restart or a rebalance.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, final

import psycopg

from kalshibook.archive.database import Connection, DatabaseDown, PartitionGone, connect, judged, run
from kalshibook.archive.entries import Counts, Entry
from kalshibook.archive.lookup import Lookup
from kalshibook.archive.rows import GapRow
from kalshibook.archive.splitting import RowRefused, split
from kalshibook.archive.tables import COPY_END, COPY_START, TABLE_OF, TABLES, Table, partition_us

__all__ = ["BatchStore", "CursorKey", "ReachKey"]

_STAGED_BATCHES: Final = 50
"""For how many batches after a duplicate rows are staged at once."""

_STATEMENT_TIMEOUT: Final = "SET statement_timeout = '60s'"
_TRIES: Final = 3

# REST rounds the time of a trade otherwise than the socket does; an id that was seen a moment before or
# after is the same trade.
_UNKNOWN_TRADE: Final = """
WHERE NOT EXISTS (
    SELECT FROM trades known
    WHERE known.trade_id = staged.trade_id
    AND known.exchange_at BETWEEN staged.exchange_at - interval '1 s' AND staged.exchange_at + interval '1 s'
)
"""

_GAP: Final = """
INSERT INTO gaps AS known (
    gap_id, detected_at, detected_us, healed_us, from_sequence, to_sequence, connection_id, sid, markets,
    source_id, channel, cause, how, tickers
) VALUES (
    %s, to_timestamp(%s), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s
)
ON CONFLICT (gap_id) DO UPDATE SET
    healed_us = excluded.healed_us, to_sequence = excluded.to_sequence, markets = excluded.markets,
    how = excluded.how, tickers = excluded.tickers,
    ingest = nextval('ingest_order'), xid = pg_current_xact_id()
WHERE (known.healed_us IS NULL OR excluded.healed_us IS NOT NULL)
AND (known.healed_us, known.to_sequence, known.markets, known.how, known.tickers)
    IS DISTINCT FROM
    (excluded.healed_us, excluded.to_sequence, excluded.markets, excluded.how, excluded.tickers)
"""


_KEEP: Final = """
INSERT INTO dead_letters (digest, place, table_name, reason, payload) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING
"""

_MOVE: Final = """
INSERT INTO cursors AS known (reader, subject, position) VALUES (%s, %s, %s)
ON CONFLICT (reader, subject) DO UPDATE
SET position = excluded.position, updated_at = now() WHERE known.position < excluded.position
"""


_REACH: Final = """
INSERT INTO reaches AS known (reader, subject, source_id, received_us)
SELECT * FROM unnest(%s::text[], %s::text[], %s::smallint[], %s::bigint[])
ON CONFLICT (reader, subject, source_id) DO UPDATE SET
    received_us = excluded.received_us, ingest = nextval('ingest_order'), xid = pg_current_xact_id()
WHERE known.received_us < excluded.received_us
"""


class CursorKey(NamedTuple):
    """A row of `cursors`."""

    reader: str
    subject: str


class ReachKey(NamedTuple):
    """A row of `reaches`."""

    reader: str
    subject: str
    source: str


class _Letter(NamedTuple):
    entry: Entry
    table: str | None
    reason: str


class _Batch(NamedTuple):
    """A batch, encoded: what can be refused without the tables is refused already."""

    taken: int
    parts: dict[str, list[tuple[Any, Entry]]]
    """By table: the encoded row, and the message it is of."""
    letters: list[_Letter]
    reaches: list[tuple[str, str, int, int]]


@final
class BatchStore:
    """
    Stores batches, for one thread. It connects when it is first used, and again after a failure.

    Args:
        dsn: the database.
        clock_us: for judging times, microseconds since the epoch.
    """

    def __init__(self, dsn: str, *, clock_us: Callable[[], int] = lambda: time.time_ns() // 1_000) -> None:
        self._dsn = dsn
        self._clock_us = clock_us
        self._session: tuple[Connection, Lookup] | None = None
        # What was sent before a crash may be stored.
        self._stage_for = _STAGED_BATCHES

    def store(
        self,
        entries: Sequence[Entry],
        cursors: Mapping[CursorKey, int] | None = None,
        reaches: Mapping[ReachKey, int] | None = None,
    ) -> Counts:
        """
        Store a batch: all of it, in one transaction, or nothing.

        Args:
            entries: in their order.
            cursors: positions that move with it; they never move back.
            reaches: up to when it is known what a source has received; neither do these.

        Raises:
            DatabaseDown: nothing is stored; try again.
            ArchiveError: the database cannot be used as it is.
        """
        for _ in range(_TRIES):
            connection, lookup = self._open()
            try:
                batch = self._prepared(entries, lookup, reaches or {})
                with connection.transaction():
                    counts = self._store(connection, batch, cursors or {})
            except PartitionGone:
                lookup.forget_partitions()
            except DatabaseDown:
                self.close()
                raise
            except psycopg.Error as error:
                # Of BEGIN or COMMIT: whether it was stored is not known, and storing it again finds out.
                self.close()
                found = judged(error)
                raise found if not isinstance(found, RowRefused) else DatabaseDown(str(found)) from None
            else:
                self._learn(counts)
                return counts
        raise DatabaseDown("partitions are dropped faster than they are made")

    def positions(self, reader: str) -> dict[str, int]:
        """
        Return how far a reader has come, by subject.

        Raises:
            DatabaseDown: try again.
            ArchiveError: the database cannot be used as it is.
        """
        rows = self._asked("SELECT subject, position FROM cursors WHERE reader = %s", [reader])
        return {str(subject): int(position) for subject, position in rows}

    def rewind(self, key: CursorKey, position: int) -> None:
        """
        Move a cursor to wherever it shall be, also back: its subject has begun anew.

        Raises:
            DatabaseDown: try again.
            ArchiveError: the database cannot be used as it is.
        """
        self._asked(
            "UPDATE cursors SET position = %s, updated_at = now() WHERE reader = %s AND subject = %s"
            " RETURNING 1",
            [position, *key],
        )

    def close(self) -> None:
        """Disconnect; a later call connects again, and learns anew what it knew of the database."""
        session, self._session = self._session, None
        self._stage_for = _STAGED_BATCHES
        if session is not None:
            session[0].close()

    def _open(self) -> tuple[Connection, Lookup]:
        if self._session is None or self._session[0].closed:
            self.close()
            connection = connect(self._dsn, name="kalshibook archive writer")
            run(connection, _STATEMENT_TIMEOUT)
            self._session = connection, Lookup(connection)
        return self._session

    def _asked(self, statement: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            return run(self._open()[0], statement, parameters).fetchall()
        except DatabaseDown:
            self.close()
            raise

    def _prepared(self, entries: Sequence[Entry], lookup: Lookup, reaches: Mapping[ReachKey, int]) -> _Batch:
        now_us, taken = self._clock_us(), 0
        batch = _Batch(0, {}, [], [])
        # In one order, as cursors.
        for (reader, subject, source), reached_us in sorted(reaches.items()):
            source_id, _ = lookup.numbers(source, None)
            batch.reaches.append((reader, subject, source_id, reached_us))
        for entry in entries:
            if entry.refused is not None:
                taken += 1
                batch.letters.append(_Letter(entry, None, entry.refused))
            for row in entry.rows:
                taken += 1
                name = "gaps" if isinstance(row, GapRow) else TABLE_OF[type(row)].name
                try:
                    numbers = lookup.numbers(row.source, row.connection)
                    data: Any = (row, numbers)
                    if not isinstance(row, GapRow):
                        lookup.reach(name, partition_us(row), now_us)
                        data = TABLES[name].encode(row, numbers)
                except Exception as error:
                    found = judged(error)
                    if not isinstance(found, RowRefused):
                        raise
                    batch.letters.append(_Letter(entry, name, str(found)))
                else:
                    batch.parts.setdefault(name, []).append((data, entry))
        return batch._replace(taken=taken)

    def _store(self, connection: Connection, batch: _Batch, cursors: Mapping[CursorKey, int]) -> Counts:
        stored, letters = 0, list(batch.letters)
        # Always in the same order: two writers that wait for each other's keys would wait for ever.
        for name, pairs in sorted(batch.parts.items()):

            def attempt(part: Sequence[Any], name: str = name) -> int:
                # A savepoint: what fails is undone, and what the batch has stored so far is not.
                with connection.transaction():
                    if name == "gaps":
                        return self._put_gaps(connection, part)
                    return self._put(connection, TABLES[name], part)

            done = split([data for data, _ in pairs], attempt)
            stored += done.stored
            letters += (_Letter(pairs[bad.place][1], name, bad.reason) for bad in done.bad)
        kept = sum(_keep(connection, letter) for letter in letters)
        for key, position in sorted(cursors.items()):
            run(connection, _MOVE, [*key, position])
        if batch.reaches:
            run(connection, _REACH, [list(column) for column in zip(*batch.reaches, strict=True)])
        return Counts(batch.taken, stored, batch.taken - stored - kept, kept)

    def _learn(self, counts: Counts) -> None:
        self._stage_for = _STAGED_BATCHES if counts.duplicates else max(self._stage_for - 1, 0)

    def _put(self, connection: Connection, table: Table, rows: Sequence[bytes]) -> int:
        is_trade = table.name == "trades"
        if not self._stage_for and not is_trade:
            try:
                with connection.transaction():
                    _copy(connection, table, table.name, rows)
            except psycopg.errors.UniqueViolation:
                self._stage_for = 1
            else:
                return len(rows)
        staging = f"staged_{table.name}"
        # Without the keys: two of the same may come in one batch.
        run(
            connection,
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {staging} ON COMMIT DELETE ROWS AS"
            f" SELECT {table.column_list} FROM {table.name} WITH NO DATA",
        )
        _copy(connection, table, staging, rows)
        merged = run(
            connection,
            f"INSERT INTO {table.name} ({table.column_list})"
            f" SELECT {table.column_list} FROM {staging} staged"
            f" {_UNKNOWN_TRADE if is_trade else ''} ON CONFLICT DO NOTHING",
        ).rowcount
        run(connection, f"TRUNCATE {staging}")
        return merged

    @staticmethod
    def _put_gaps(connection: Connection, parts: Sequence[tuple[GapRow, tuple[int, int | None]]]) -> int:
        changed = 0
        for row, (source_id, connection_id) in parts:
            changed += run(
                connection,
                _GAP,
                [
                    *(row.gap_id, row.detected_us / 1e6, row.detected_us, row.healed_us),
                    *(row.from_sequence, row.to_sequence, connection_id, row.sid, row.markets, source_id),
                    *(row.channel, row.cause, row.how, list(row.tickers)),
                ],
            ).rowcount
        return changed


def _copy(connection: Connection, table: Table, into: str, rows: Sequence[bytes]) -> None:
    statement = f"COPY {into} ({table.column_list}) FROM STDIN (FORMAT BINARY)"
    try:
        with connection.cursor().copy(statement.encode()) as copy:
            copy.write(COPY_START + b"".join(rows) + COPY_END)
    except psycopg.errors.UniqueViolation:
        raise
    except psycopg.Error as error:
        raise judged(error) from None


def _keep(connection: Connection, letter: _Letter) -> int:
    """Write a dead letter, and return 1, or 0 where it has been written before."""
    entry, table, reason = letter
    parts = (entry.place.encode(errors="replace"), (table or "").encode(), entry.payload)
    digest = hashlib.blake2b(b"\0".join(parts), digest_size=16).digest()
    # What stands in a row that is refused may be what text columns refuse.
    place, reason = (
        text.encode(errors="replace").decode().replace("\0", "\\0") for text in (entry.place, reason)
    )
    return run(connection, _KEEP, [digest, place, table, reason, entry.payload]).rowcount
