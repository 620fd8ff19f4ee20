"""`kalshibook archive`: what the gatherers saw, kept for good."""

import importlib
from typing import Final

import click

__all__ = ["ARCHIVE_COMMANDS", "ArchiveGroup", "archive"]

ARCHIVE_COMMANDS: Final = {
    "migrate": ("kalshibook.cli.archive_tables:migrate", "Make or update the tables of a database."),
    "status": ("kalshibook.cli.archive_tables:status", "Print what a database is and holds."),
    "retain": ("kalshibook.cli.archive_tables:retain", "Drop what is older than it shall be kept."),
    "write": ("kalshibook.cli.archive_write:write", "Store what a Kafka topic carries."),
    "dedup": ("kalshibook.cli.archive_dedup:dedup", "Merge the gatherers' databases into production."),
    "export": ("kalshibook.cli.archive_export:export", "Write what is new in production to Parquet."),
    "check": ("kalshibook.cli.archive_export:check_export", "Compare exported files with their manifests."),
    "gaps": ("kalshibook.cli.archive_reading:gaps", "Tell whether a market is complete, and where not."),
    "completeness": (
        "kalshibook.cli.archive_reading:completeness",
        "Print which share each source saw, hour by hour.",
    ),
    "candles": ("kalshibook.cli.archive_reading:candles", "Print a market's candles."),
    "replay": ("kalshibook.cli.archive_reading:replay", "Print a market's book as it was at a time."),
}
"""Name, where it is, and its line of help."""


class ArchiveGroup(click.Group):
    """A group that imports a subcommand when it is called: not all need what one of them needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of use."""
        return list(ARCHIVE_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import a subcommand, or say which extra it needs."""
        if cmd_name not in ARCHIVE_COMMANDS:
            return None
        module, _, name = ARCHIVE_COMMANDS[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("kalshibook"):
                raise
            raise click.ClickException(
                f"archive {cmd_name} needs {error.name}, which is not installed;"
                " pip install 'kalshibook-live[archive,cli]', or '.[archive,cli]' in a checkout"
            ) from None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in ARCHIVE_COMMANDS.items()])


@click.group(cls=ArchiveGroup)
def archive() -> None:
    """Keep what the gatherers saw: in a database of each, in production, in Parquet."""
