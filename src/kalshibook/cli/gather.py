"""`kalshibook gather`: from the exchange into Kafka."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, final

import click
import msgspec
import structlog
import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kalshibook.cli.descriptors import allow_many_sockets
from kalshibook.cli.logs import configure_logs
from kalshibook.cli.options import BROKER_FLAGS, Flag, with_settings
from kalshibook.cli.parts import PartOptions, part_options
from kalshibook.cli.signals import stopped_by_signals
from kalshibook.collecting import served_collector
from kalshibook.errors import FeedError, SettingsError
from kalshibook.gather.gatherer import Gatherer, GathererHealth
from kalshibook.gather.http import serve_gatherer
from kalshibook.gather.records import SinkCounts
from kalshibook.settings import Loaded, Settings

if TYPE_CHECKING:
    from kalshibook.archive.sink import ArchiveSink

__all__ = ["gather"]

_LOOK_S: Final = 0.5
_LINE_S: Final = 10.0
_LATEST: Final = 6
_FLAGS: Final = (
    Flag("--source", "This gatherer's name; each of several needs its own.", ["gather.source"]),
    Flag("--environment", "Which exchange: prod, demo or custom.", ["gather.environment"]),
    Flag("--rest-url", "With custom: base of the REST addresses.", ["gather.rest_url"]),
    Flag("--stream-url", "With custom: address of the WebSocket.", ["gather.stream_url"]),
    Flag("--key-id", "Id of the API key.", ["gather.key_id"]),
    Flag("--port", "Port of health, metrics and gaps; 0 takes a free one.", ["gather.http_port"]),
    Flag("--key-file", "File with the private key, PEM.", ["gather.private_key_file"]),
    *BROKER_FLAGS,
    Flag("--log-level", "debug, info, warning or error.", ["log.level"]),
)

log = structlog.stdlib.get_logger("kalshibook.gather")


@click.command()
@part_options
@with_settings(*_FLAGS)
def gather(loaded: Loaded, *, part: PartOptions) -> None:
    """
    Gather every order book of the exchange into a Kafka topic, until Ctrl-C or SIGTERM.

    Kalshi needs an API key: its id and its private key, by flag, by setting, or by the environment as
    KALSHIBOOK_GATHER_KEY_ID and KALSHIBOOK_GATHER_PRIVATE_KEY. A simulated exchange (`kalshibook
    simulate`) needs none. Both topics must exist.
    """
    console = Console(stderr=True)
    settings = loaded.settings
    options = settings.log
    if console.is_terminal and loaded.origin("log.level") == "default":
        # The screen shows what the lines would.
        options = msgspec.structs.replace(options, level="error")
    configure_logs(options)
    allow_many_sockets()
    with served_collector() as filled:
        trio.run(partial(_gather, settings, part, console))
        filled()


async def _gather(settings: Settings, part: PartOptions, console: Console) -> None:
    async def served(gatherer: Gatherer) -> None:
        async with trio.open_nursery() as nursery:
            host, port = await nursery.start(serve_gatherer, gatherer)
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            log.info("serving", health=f"{url}/readyz", metrics=f"{url}/metrics")
            part.announce({"source": settings.gather.source, "http_url": url})

    async with _archive(settings) as archive, stopped_by_signals() as nursery:
        gatherer = Gatherer(
            settings.gather,
            settings.kafka,
            store=settings.store,
            sinks=archive,
            gap_listeners=[sink.record_gap for sink in archive],
            attachments=[served],
        )
        nursery.start_soon(part.watch, nursery.cancel_scope)
        async with gatherer:
            await _show(gatherer, console)
    if gatherer.failed_records:
        raise FeedError(
            f"{gatherer.failed_records:,} records were not taken by Kafka within gather.stop_timeout_s"
        )
    log.info("stopped", published=gatherer.health().published.delivered)


@asynccontextmanager
async def _archive(settings: Settings) -> AsyncIterator["list[ArchiveSink[SinkCounts]]"]:
    """Run a writer of the archive's database, if one is asked for; at the end what waits is kept."""
    if not settings.archive.in_gatherer:
        yield []
        return
    try:
        from kalshibook.archive.sink import ArchiveSink  # noqa: PLC0415 - needs what not every gatherer has
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"archive.in_gatherer needs {error.name}, which is not installed;"
            " pip install 'kalshibook-live[archive]', or '.[archive]' in a checkout"
        ) from None
    sink = ArchiveSink(settings.archive, settings.gather.source, SinkCounts)
    sink.start()
    try:
        yield [sink]
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(sink.stop)
        found = sink.statistics()
        log.info("archived", rows=found.rows.stored, journal_bytes=found.journal_bytes, lost=found.dropped)


async def _show(gatherer: Gatherer, console: Console) -> None:
    if not console.is_terminal:
        await _log_lines(gatherer)
        return
    screen = _Screen(gatherer)
    with Live(screen.content(), console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(screen.content(), refresh=True)
            await trio.sleep(_LOOK_S)


async def _log_lines(gatherer: Gatherer) -> None:
    was_ready: bool | None = None
    frames, next_line = 0, trio.current_time() + _LINE_S
    while True:
        await trio.sleep(_LOOK_S)
        health = gatherer.health()
        is_due = trio.current_time() >= next_line
        if health.is_ready is not was_ready or is_due:
            was_ready = health.is_ready
            routed = health.router.routed
            log.info(
                "gathering" if health.is_ready else "not ready",
                markets=health.pool.markets,
                **health.pool.by_state,
                connections=len(health.pool.connections),
                frames_per_second=round((routed - frames) / _LINE_S) if is_due else None,
                published=health.published.delivered,
                gaps=health.gaps.found,
                open_gaps=health.gaps.open,
                reasons=list(health.reasons) or None,
            )
        if is_due:
            frames, next_line = health.router.routed, trio.current_time() + _LINE_S


@final
class _Screen:
    """What a terminal shows."""

    def __init__(self, gatherer: Gatherer) -> None:
        self._gatherer = gatherer
        self._seen = (trio.current_time(), 0)
        self._rate = 0.0

    def content(self) -> RenderableType:
        """Return it as it is now."""
        health = self._gatherer.health()
        now, frames = trio.current_time(), health.router.routed
        before, frames_before = self._seen
        if now - before >= 1:
            self._rate = (frames - frames_before) / (now - before)
            self._seen = (now, frames)
        reasons = [Text(f"  {reason}", style="yellow") for reason in health.reasons]
        return Group(self._headline(health), *reasons, self._table(health), *self._latest())

    def _headline(self, health: GathererHealth) -> Text:
        markets = "  ".join(f"{count:,} {state}" for state, count in sorted(health.pool.by_state.items()))
        text = (
            f"{health.source}: {health.router.routed:,} frames  {self._rate:,.0f}/s  "
            f"{health.published.delivered:,} records in Kafka, {health.published.in_flight:,} on their way  "
            f"{markets or 'no markets yet'}  {health.gaps.found:,} gaps, {health.gaps.open:,} open"
            "   Ctrl-C ends"
        )
        return Text(text, style="bold green" if health.is_ready else "bold yellow")

    def _table(self, health: GathererHealth) -> Table:
        table = Table("connection", "state", "markets", "frames", "opened", box=None)
        for one in health.pool.connections:
            table.add_row(
                f"{one.role}-{one.number}",
                one.state,
                f"{sum(one.markets.values()):,}" if one.markets else "",
                f"{one.frames:,}",
                f"{one.connects:,} times",
            )
        return table

    def _latest(self) -> Sequence[Text]:
        incidents = self._gatherer.incidents.recent(_LATEST)
        return [Text(f"{one.kind}: {one.detail}"[:160], style="dim") for one in incidents]
