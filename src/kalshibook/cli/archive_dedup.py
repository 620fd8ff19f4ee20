"""`kalshibook archive dedup`: the gatherers' databases into production."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click
from prometheus_client import start_http_server

from kalshibook.archive.chores import Chores
from kalshibook.archive.dedup import Deduplicator, Round
from kalshibook.archive.dedup_metrics import DedupCollector, registry_of
from kalshibook.archive.exchange import Exchange
from kalshibook.cli.logs import configure_logs
from kalshibook.cli.options import Flag, with_settings
from kalshibook.cli.signals import set_by_signals
from kalshibook.errors import SettingsError
from kalshibook.settings import Loaded, Settings

__all__ = ["dedup", "production_of"]

_log = logging.getLogger(__name__)

_FLAGS: Final = (
    Flag("--dsn", "The production database: postgresql://user@host/name.", ["archive.dsn"]),
    Flag("--metrics-port", "Port of /metrics; 0 takes a free one.", ["dedup.metrics_port"]),
)


@click.command()
@click.option("--once", is_flag=True, help="End when no source that answers has more.")
@with_settings(*_FLAGS)
def dedup(loaded: Loaded, *, once: bool) -> None:
    """
    Merge the gatherers' databases into production, until Ctrl-C or SIGTERM.

    Sources are named by settings: dedup.source_dsns.NAME=postgresql://… A source that does not answer is
    asked again; the others go on. May be killed at any time.
    """
    settings = loaded.settings
    configure_logs(settings.log)
    production = production_of(settings)
    options = settings.dedup
    with (
        set_by_signals() as stop,
        Deduplicator(
            options.source_dsns, production, batch_rows=options.batch_rows, retry_s=options.retry_s
        ) as deduplicator,
    ):
        chores = Chores(production, _exchange(settings), refresh_s=options.refresh_s)
        if once:
            deduplicator.drain()
            chores.once()
        else:
            collector = DedupCollector(deduplicator.states.values(), deduplicator.progress, chores.counts)
            with _served(options.metrics_port, collector), _beside(chores.run, stop):
                click.echo(f"merging {', '.join(options.source_dsns)}, Ctrl-C ends")
                deduplicator.run(stop, pause_s=options.pause_ms / 1_000, after_round=_report)
        progress = deduplicator.progress
        down = [state for state in deduplicator.states.values() if not state.reachable]
    for table, rows in progress.rows.items():
        new, late = progress.new.get(table, 0), progress.grown.get(table, 0)
        click.echo(f"{table}: {rows:,} rows, {new:,} new, {late:,} late")
    if once and down:
        reasons = "; ".join(f"{state.name}: {state.error}" for state in down)
        raise click.ClickException(f"not all sources were read: {reasons}")


def production_of(settings: Settings) -> str:
    """
    Return the address of the production database.

    Raises:
        SettingsError: it is not set.
    """
    if not settings.archive.dsn:
        raise SettingsError("archive.dsn is empty; it names the production database here")
    return settings.archive.dsn


def _exchange(settings: Settings) -> Callable[[], Exchange]:
    url = settings.gather.endpoints().rest_url
    rate = settings.dedup.requests_per_second
    return lambda: Exchange(url, requests_per_second=rate)


def _report(done: Round) -> None:
    if done.rows:
        _log.debug("merged %d rows", done.rows)


@contextmanager
def _served(port: int | None, collector: DedupCollector) -> Iterator[None]:
    if port is None:
        yield
        return
    server, thread = start_http_server(port, "127.0.0.1", registry_of(collector))
    click.echo(f"metrics at http://127.0.0.1:{server.server_port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _beside(work: Callable[[threading.Event], None], stop: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=work, args=(stop,), name="chores")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
