"""`kalshibook archive export` and `check`: production into Parquet."""

import logging
from typing import Final

import click

from kalshibook.archive.export import Exporter, check
from kalshibook.archive.targets import Target, open_target
from kalshibook.cli.archive_dedup import production_of
from kalshibook.cli.logs import configure_logs
from kalshibook.cli.options import Flag, with_settings
from kalshibook.cli.signals import set_by_signals
from kalshibook.errors import SettingsError
from kalshibook.settings import Loaded

__all__ = ["check_export", "export"]

_log = logging.getLogger(__name__)

_TO: Final = Flag("--to", "A folder, or s3://bucket/prefix.", ["export.target"])
_PRODUCTION: Final = Flag("--dsn", "The production database: postgresql://user@host/name.", ["archive.dsn"])
_EVERY: Final = Flag("--every", "Seconds before the next export; 0 exports once.", ["export.every_s"])


@click.command()
@with_settings(_TO, _PRODUCTION, _EVERY)
def export(loaded: Loaded) -> None:
    """
    Write what is new in production to Parquet, once or again and again.

    By table, date and hour; what comes late is in follow-up files. Killed at any time, the next run
    finishes what was begun.
    """
    settings = loaded.settings
    configure_logs(settings.log)
    options = settings.export
    exporter = Exporter(
        production_of(settings),
        _target(loaded),
        batch_rows=options.batch_rows,
        settle_s=options.settle_s,
    )
    with set_by_signals() as stop:
        _export_once(exporter)
        while options.every_s and not stop.wait(options.every_s):
            try:
                _export_once(exporter)
            except Exception as error:  # noqa: BLE001 - of a database, a disk or a bucket that is away
                # The first one has shown that all is set right; what is begun is finished the next time.
                _log.warning("the export failed and is tried again: %s: %s", type(error).__name__, error)


def _export_once(exporter: Exporter) -> None:
    for manifest in exporter.run():
        click.echo(
            f"{manifest.table}: {manifest.rows:,} rows in {len(manifest.files)} files,"
            f" {manifest.bytes:,} bytes"
        )


@click.command(name="check")
@with_settings(_TO)
def check_export(loaded: Loaded) -> None:
    """Compare every exported file with its manifest: presence and checksum."""
    wrong = check(_target(loaded))
    for line in wrong:
        click.echo(line)
    if wrong:
        raise click.ClickException(f"{len(wrong)} files are not as they were written")
    click.echo("every file is as its manifest says")


def _target(loaded: Loaded) -> Target:
    options = loaded.settings.export
    if not options.target:
        raise SettingsError("export.target is empty; give --to a folder or s3://bucket/prefix")
    return open_target(options.target, options.s3_credentials)
