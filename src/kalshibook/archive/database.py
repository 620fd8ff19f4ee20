"""The connection to a database, and what its errors mean for whoever writes."""

import struct
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import psycopg

from kalshibook.archive.splitting import RowRefused
from kalshibook.errors import ArchiveError

__all__ = ["Connection", "DatabaseDown", "PartitionGone", "connect", "judged", "parsed", "run"]

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

# What a row can do wrong: data that do not fit, a constraint, a key that is too long for its index.
_OF_A_ROW: Final = frozenset({"22", "23", "54"})
# What passes: connection, resources, rollback, not in the right state (a lock, a standby), operator, system.
_PASSES: Final = frozenset({"08", "25", "40", "53", "55", "57", "58"})

_CHECK_VIOLATION: Final = "23514"


class DatabaseDown(Exception):  # noqa: N818 - reads as the fact it states
    """The database does not answer, or not now; the same may be tried again."""


class PartitionGone(Exception):  # noqa: N818
    """A partition is gone that was there: retention has dropped it. Make it, and try again."""


def connect(dsn: str, *, name: str = "kalshibook archive") -> Connection:
    """
    Open a connection in autocommit mode; transactions are opened where they are meant.

    Args:
        dsn: as libpq takes it, an address or ``key=value`` pairs.
        name: as the database's own list of sessions shows it.

    Raises:
        DatabaseDown: nobody answers there, or not yet.
        ArchiveError: the address makes no sense, or the database refuses who we are.
    """
    if not dsn:
        raise ArchiveError("archive.dsn is not set; it names the database, as in postgresql://user@host/name")
    defaults = {
        # A server that is gone without a word is noticed in half a minute, not in hours.
        "connect_timeout": "5",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "30000",
        "application_name": name,
    }
    try:
        given = psycopg.conninfo.conninfo_to_dict(parsed(dsn))
        connection = psycopg.connect(
            psycopg.conninfo.make_conninfo("", **(defaults | given)), autocommit=True
        )
        connection.execute("SET TIME ZONE 'UTC'")
    except psycopg.Error as error:
        raise judged(error) from None
    return connection


def parsed(dsn: str) -> str:
    """
    Return an address that libpq can read.

    Raises:
        ArchiveError: it cannot; the address is not repeated, for a password may be anywhere in it.
    """
    try:
        psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise ArchiveError(
            "the address of a database cannot be read; it is postgresql://user:password@host/name, with what"
            " is special in a password percent-encoded, or key=value pairs"
        ) from None
    return dsn


def run(
    connection: Connection, statement: str, parameters: Sequence[object] | None = None
) -> psycopg.Cursor[tuple[Any, ...]]:
    """
    Execute one statement.

    Raises:
        RowRefused: as `judged`.
        PartitionGone: as `judged`.
        DatabaseDown: as `judged`.
        ArchiveError: as `judged`.
    """
    try:
        return connection.execute(statement.encode(), parameters)
    except psycopg.Error as error:
        raise judged(error) from None


def judged(error: Exception) -> Exception:
    """
    Say what an error means: one of the row, of the moment, or of the database as it is.

    That is `RowRefused`, `PartitionGone` and `DatabaseDown`, or `ArchiveError`; any other is returned.

    A statement that can never succeed is an `ArchiveError`: were its rows blamed, all would end as
    dead letters, one by one.
    """
    if isinstance(error, (struct.error, UnicodeError)):
        return RowRefused(f"{type(error).__name__}: {error}")
    if not isinstance(error, psycopg.Error):
        return error
    message = str(error).strip() or type(error).__name__
    kind = (error.sqlstate or "")[:2]
    # A row whose partition is not there breaks a constraint that has no name.
    if error.sqlstate == _CHECK_VIOLATION and error.diag.constraint_name is None:
        return PartitionGone(message)
    if kind in _OF_A_ROW or isinstance(error, psycopg.DataError):
        return RowRefused(f"{error.sqlstate or 'client'}: {message.splitlines()[0]}")
    if kind in _PASSES or (
        not kind and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    ):
        if isinstance(error, psycopg.OperationalError) and "authentication failed" in message:
            return ArchiveError(f"the database refuses us: {message}")
        return DatabaseDown(message)
    return ArchiveError(f"the database cannot do that: {message}")
