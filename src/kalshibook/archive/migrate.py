"""
Migrations: plain SQL files, forward only, each in a transaction of its own.

`schema/common` holds what every archive has, `schema/local` the tables of a gatherer's own database and
`schema/production` those of the database that all gatherers are merged into. The files of a variant are
its folder's and the common ones, in the order of their numbers. A file that has been applied is never
changed: its checksum is kept, and a difference stops everything.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Final, Literal, NamedTuple, TypeAlias

import psycopg

from kalshibook.errors import ArchiveError

__all__ = [
    "MIGRATIONS_LOCK",
    "Applied",
    "Migration",
    "Variant",
    "applied_migrations",
    "migrate",
    "migrations_of",
    "pending",
]

Variant: TypeAlias = Literal["local", "production"]

MIGRATIONS_LOCK: Final = 0x6B616C73_686962
"""Key of the advisory lock that one migrating process at a time holds."""

_OLDEST_SERVER: Final = 15_00_00

_VERSIONS: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    variant text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class Migration(NamedTuple):
    """One file of SQL."""

    number: int
    name: str
    """The file's, with its folder."""
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


class Applied(NamedTuple):
    """What the database says of a migration that it has had."""

    number: int
    name: str
    variant: str
    checksum: str


def migrations_of(variant: Variant) -> list[Migration]:
    """Return the migrations of a variant in the order in which they are applied."""
    found = []
    for folder in ("common", variant):
        for file in files("kalshibook.archive").joinpath("schema", folder).iterdir():
            if file.name.endswith(".sql"):
                number = int(file.name.partition("_")[0])
                found.append(Migration(number, f"{folder}/{file.name}", file.read_text(encoding="utf-8")))
    return sorted(found)


def migrate(
    connection: psycopg.Connection[tuple[object, ...]], variant: Variant, *, timescale: bool = True
) -> list[Migration]:
    """
    Apply what is missing, one transaction each, and return it.

    Processes that migrate the same database at the same time do so one after the other.

    Args:
        connection: an idle one; it is used in autocommit mode and given back as it was.
        variant: which set of tables.
        timescale: whether a new archive becomes one of hypertables where the server has TimescaleDB loaded.

    Raises:
        ArchiveError: the server is too old, the database holds the other variant, was migrated by a newer
            release or by files that were changed since, or a migration fails.
    """
    if connection.info.server_version < _OLDEST_SERVER:
        raise ArchiveError(
            f"the database server is PostgreSQL {connection.info.parameter_status('server_version')};"
            " the archive needs 15 or newer"
        )
    with _alone(connection):
        with connection.transaction():
            connection.execute(_VERSIONS)
        applied = applied_migrations(connection)
        missing = pending(applied, migrations_of(variant), variant)
        if timescale and not applied:
            _use_timescale(connection)
        for migration in missing:
            _apply(connection, migration, variant)
    return missing


def applied_migrations(connection: psycopg.Connection[tuple[object, ...]]) -> list[Applied]:
    """Return what the database has had, in order; empty for one that was never migrated."""
    with connection.transaction():
        found = connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL").fetchone()
        if found is None or not found[0]:
            return []
        rows = connection.execute(
            "SELECT number, name, variant, checksum FROM schema_migrations ORDER BY number"
        ).fetchall()
    return [
        Applied(int(str(number)), str(name), str(kind), str(checksum))
        for number, name, kind, checksum in rows
    ]


def pending(applied: Sequence[Applied], known: Sequence[Migration], variant: Variant) -> list[Migration]:
    """
    Return the migrations that a database still needs.

    Raises:
        ArchiveError: what it has had does not fit to what is known here.
    """
    by_number = {migration.number: migration for migration in known}
    for had in applied:
        if had.variant != variant:
            raise ArchiveError(
                f"this database holds a {had.variant} archive, not a {variant} one; use another database"
            )
        migration = by_number.get(had.number)
        if migration is None:
            raise ArchiveError(
                f"the database has migration {had.name}, which this release does not know; use a newer one"
            )
        if migration.checksum != had.checksum:
            raise ArchiveError(
                f"migration {migration.name} was changed after this database had it; an applied migration"
                " stays as it is, and what is to be different goes into a new one"
            )
    done = {had.number for had in applied}
    last = max(done, default=0)
    missing = [migration for migration in known if migration.number not in done]
    for migration in missing:
        if migration.number < last:
            raise ArchiveError(
                f"migration {migration.name} is missing in a database that has had number {last} already"
            )
    return missing


@contextmanager
def _alone(connection: psycopg.Connection[tuple[object, ...]]) -> Iterator[None]:
    before = connection.autocommit
    connection.autocommit = True
    try:
        # For the session, not for a transaction: it spans all of the migrations' own.
        connection.execute("SELECT pg_advisory_lock(%s)", [MIGRATIONS_LOCK])
        try:
            yield
        finally:
            if not connection.broken:
                connection.execute("SELECT pg_advisory_unlock(%s)", [MIGRATIONS_LOCK])
    finally:
        if not connection.broken:
            connection.autocommit = before


def _use_timescale(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    # Installed and not loaded, it would refuse every statement about it.
    found = connection.execute(
        "SELECT FROM pg_available_extensions WHERE name = 'timescaledb'"
        " AND current_setting('shared_preload_libraries') ~ 'timescaledb'"
    ).fetchone()
    if found is not None:
        with connection.transaction():
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")


def _apply(
    connection: psycopg.Connection[tuple[object, ...]], migration: Migration, variant: Variant
) -> None:
    try:
        with connection.transaction():
            connection.execute(migration.sql.encode())
            connection.execute(
                "INSERT INTO schema_migrations (number, name, variant, checksum) VALUES (%s, %s, %s, %s)",
                [migration.number, migration.name, variant, migration.checksum],
            )
    except psycopg.Error as error:
        raise ArchiveError(f"migration {migration.name} failed, nothing of it is kept: {error}") from error
