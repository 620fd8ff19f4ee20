"""`kalshibook settings`: what is in force, and why."""

import itertools
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kalshibook.cli.options import with_settings
from kalshibook.settings import Loaded

__all__ = ["settings"]

_ANY_WIDTH: Final = 10_000


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--changed", is_flag=True, help="Only what is not the default.")
@with_settings()
def settings(loaded: Loaded, *, as_json: bool, changed: bool) -> None:
    """
    Print every setting, its value and where the value comes from; secrets are masked.

    Later sources win: defaults, the settings file, the environment (KALSHIBOOK_KAFKA_TOPIC), the
    command line (--set kafka.topic=NAME).
    """
    rows = [row for row in loaded.rows() if not (changed and row.origin == "default")]
    if as_json:
        content = {row.path: {"value": row.value, "origin": row.origin} for row in rows}
        click.echo(msgspec.json.format(msgspec.json.encode(content)).decode())
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("origin", style="dim", overflow="fold")
    for _, section in itertools.groupby(rows, lambda row: row.path.partition(".")[0]):
        for row in section:
            # Plain text: a value may hold brackets, which rich would take for its markup.
            table.add_row(*(Text(part) for part in row))
        table.add_row()
    console = Console()
    # In a pipe nobody reads by eye: there a line is a setting, however long its value.
    (console if console.is_terminal else Console(width=_ANY_WIDTH)).print(table)
