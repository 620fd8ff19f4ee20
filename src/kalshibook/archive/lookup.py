"""What a writer asks before it writes: numbers of sources and connections, and partitions."""

from typing import Final, final

from kalshibook.archive.database import Connection, run
from kalshibook.archive.splitting import RowRefused
from kalshibook.archive.tables import Numbers

__all__ = ["Lookup"]

_EARLIEST_US: Final = 1_420_070_400_000_000
"""2015: what claims to be older is no market data, and would get a partition of its own."""
_AHEAD_US: Final = 2 * 86_400_000_000
"""How far ahead of our clock a time may be."""

_SOURCE: Final = (
    "SELECT source_id FROM sources WHERE name = %s",
    "INSERT INTO sources (name) VALUES (%s) ON CONFLICT DO NOTHING",
)
_CONNECTION: Final = (
    "SELECT connection_id FROM connections WHERE source_id = %s AND name = %s",
    "INSERT INTO connections (source_id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING",
)


@final
class Lookup:
    """
    Remembers what it found, for as long as one connection lasts.

    It is used outside of transactions: a number that was rolled back must not be remembered, and a
    new partition must not stay locked while a batch is written.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sources: dict[str, int] = {}
        self._numbers: dict[tuple[str, str | None], Numbers] = {}
        self._ranges: dict[str, list[tuple[int, int]]] = {}

    def numbers(self, source: str, connection: str | None) -> Numbers:
        """Return the numbers of a source and of one of its connections, which are made if they are new."""
        found = self._numbers.get((source, connection))
        if found is None:
            source_id = self._sources.get(source)
            if source_id is None:
                source_id = self._sources[source] = self._number(_SOURCE, source)
            connection_id = None if connection is None else self._number(_CONNECTION, source_id, connection)
            found = self._numbers[source, connection] = Numbers(source_id, connection_id)
        return found

    def reach(self, table: str, when_us: int, now_us: int) -> None:
        """
        See to it that a moment has its partition.

        Raises:
            RowRefused: no market data can be of that time.
        """
        if not _EARLIEST_US <= when_us <= now_us + _AHEAD_US:
            raise RowRefused(f"its time, {when_us} us, is not between 2015 and the day after tomorrow")
        ranges = self._ranges.setdefault(table, [])
        for from_us, to_us in reversed(ranges):
            if from_us <= when_us < to_us:
                return
        row = run(
            self._connection,
            "SELECT from_us, to_us FROM archive_ensure_chunk(%s, to_timestamp(%s))",
            [table, when_us // 1_000_000],
        ).fetchone()
        assert row is not None
        ranges.append((row[0], row[1]))

    def forget_partitions(self) -> None:
        """Ask for every partition anew: some have been dropped."""
        self._ranges.clear()

    def _number(self, statements: tuple[str, str], *names: object) -> int:
        select, insert = statements
        # First asked, then made: an insert that conflicts would use up one of 32,767 numbers of sources.
        row = run(self._connection, select, names).fetchone()
        if row is None:
            run(self._connection, insert, names)
            row = run(self._connection, select, names).fetchone()
        assert row is not None
        number: int = row[0]
        return number
