"""`kalshibook archive write`: a Kafka topic into a database."""

import click

from kalshibook.archive.consumer import KafkaArchiver
from kalshibook.archive.database import DatabaseDown, connect
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.upkeep import apply_settings, keep_house, status_of
from kalshibook.cli.archive_tables import DSN_FLAG, opened
from kalshibook.cli.logs import configure_logs
from kalshibook.cli.options import BROKER_FLAGS, Flag, with_settings
from kalshibook.cli.signals import set_by_signals
from kalshibook.errors import ArchiveError
from kalshibook.settings import Loaded

__all__ = ["write"]

_LOG = Flag("--log-level", "debug, info, warning or error.", ["log.level"])


@click.command()
@with_settings(*BROKER_FLAGS, DSN_FLAG, _LOG)
def write(loaded: Loaded) -> None:
    """
    Store what a Kafka topic carries, as a member of a consumer group, until Ctrl-C or SIGTERM.

    Start as many as there are partitions; each takes its share.
    """
    settings = loaded.settings
    configure_logs(settings.log)
    with opened(loaded) as connection:
        found = status_of(connection)
        if found.variant != "local":
            raise ArchiveError("this is the production database; `archive dedup` fills it")
        if found.missing:
            raise ArchiveError(f"{found.missing} migrations are missing; run `kalshibook archive migrate`")
        apply_settings(connection, settings.archive, "local")
        keep_house(connection)
    archiver = KafkaArchiver(settings.kafka, settings.archive, upkeep=lambda: _upkeep(settings.archive))
    with set_by_signals(archiver.stopping):
        archiver.run()
    rows = archiver.statistics().rows
    click.echo(
        f"{rows.stored} rows stored, {rows.duplicates} duplicates, {rows.dead_letters} dead letters", err=True
    )


def _upkeep(options: ArchiveOptions) -> None:
    try:
        with connect(options.dsn) as connection:
            keep_house(connection)
    except DatabaseDown:
        # Whoever stores will say so; it is done the next time.
        return
