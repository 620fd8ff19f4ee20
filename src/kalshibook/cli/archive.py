"""`kalshibook archive`: what the gatherers saw, kept for good."""

import sys
from typing import Any, Final

import click

from kalshibook.cli.lazy import LazyGroup

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


class ArchiveGroup(LazyGroup):
    """What the archive can do."""

    lazy_commands = ARCHIVE_COMMANDS
    extra = "archive,cli"

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand; what the database does not do is said in one line."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Looked up, not imported: not every subcommand needs it.
            psycopg = sys.modules.get("psycopg")
            if psycopg is None or not isinstance(error, psycopg.Error):
                raise
            reason = str(error).strip() or type(error).__name__
            raise click.ClickException(f"the database: {reason}") from None


@click.group(cls=ArchiveGroup)
def archive() -> None:
    """Keep what the gatherers saw: in a database of each, in production, in Parquet."""
