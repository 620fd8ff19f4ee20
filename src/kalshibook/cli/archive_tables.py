"""`kalshibook archive migrate`, `status` and `retain`: a database's tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from kalshibook.archive.database import Connection, DatabaseDown, connect
from kalshibook.archive.migrate import Variant
from kalshibook.archive.upkeep import Status, keep_house, prepare, status_of
from kalshibook.cli.logs import configure_logs
from kalshibook.cli.options import Flag, with_settings
from kalshibook.errors import ArchiveError
from kalshibook.settings import Loaded

__all__ = ["DSN_FLAG", "migrate", "opened", "retain", "status"]

DSN_FLAG: Final = Flag("--dsn", "The database: postgresql://user@host/name.", ["archive.dsn"])


@contextmanager
def opened(loaded: Loaded) -> Iterator[Connection]:
    """
    Connect to the archive's database.

    Raises:
        ArchiveError: it cannot be reached or used.
    """
    try:
        with connect(loaded.settings.archive.dsn) as connection:
            yield connection
    except DatabaseDown as error:
        raise ArchiveError(f"the database does not answer: {error}") from None


@click.command()
@click.option(
    "--production", is_flag=True, help="The tables of the database that all gatherers are merged into."
)
@with_settings(DSN_FLAG)
def migrate(loaded: Loaded, *, production: bool) -> None:
    """Make or update the tables of a database, and apply retention and chunk sizes."""
    variant: Variant = "production" if production else "local"
    with opened(loaded) as connection:
        applied = prepare(connection, loaded.settings.archive, variant)
        found = status_of(connection)
    for name in applied:
        click.echo(f"applied {name}")
    click.echo(f"a {found.variant} archive on {found.edition}, {found.migrations} migrations")


@click.command()
@with_settings(DSN_FLAG)
def retain(loaded: Loaded) -> None:
    """Drop what is older than it shall be kept; `archive write` does the same now and then."""
    configure_logs(loaded.settings.log)
    with opened(loaded) as connection:
        status_of(connection)
        dropped = keep_house(connection)
    for name in dropped:
        click.echo(f"dropped {name}")
    click.echo(f"{len(dropped)} chunks dropped")


@click.command()
@with_settings(DSN_FLAG)
def status(loaded: Loaded) -> None:
    """Print what a database is, what it can do, and what it holds."""
    with opened(loaded) as connection:
        found = status_of(connection)
    click.echo(f"{found.edition}")
    missing = f", {found.missing} missing: run `kalshibook archive migrate`" if found.missing else ""
    click.echo(f"{found.variant} archive, {found.migrations} migrations{missing}")
    click.echo(f"sources: {', '.join(found.sources) or 'none yet'}")
    click.echo(f"dead letters: {found.dead_letters}")
    Console().print(_series_table(found))
    if found.aggregates:
        click.echo(f"continuous aggregates: {', '.join(found.aggregates)}")
    for policy in found.policies:
        last = f"last run: {policy.last}" if policy.last else "no run yet"
        click.echo(f"policy {policy.kind} {policy.name}: every {policy.every_s / 60:g} min, {last}")
    for reader, subject, position in found.cursors:
        click.echo(f"cursor {reader} {subject}: {position}")


def _series_table(found: Status) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("table", "rows, about", "MiB", "chunks", "hours each", "days kept"):
        table.add_column(column, justify="left" if column == "table" else "right")
    for one in found.series:
        table.add_row(
            one.name,
            f"{one.rows:,}",
            f"{one.bytes / 2**20:,.1f}",
            str(one.chunks),
            f"{one.chunk_hours:g}",
            "for ever" if one.keep_days is None else f"{one.keep_days:g}",
        )
    return table
