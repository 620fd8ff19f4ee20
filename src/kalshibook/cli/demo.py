"""`kalshibook demo`: everything at once, in one process, with nothing to install or to set."""

import secrets
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import click
import msgspec
import trio
from rich.console import Console
from rich.table import Table

from kalshibook import __version__
from kalshibook.cli.dashboard import Dashboard
from kalshibook.cli.descriptors import allow_many_sockets
from kalshibook.cli.invocation import own_command
from kalshibook.cli.latency import duration_text
from kalshibook.cli.logs import configure_logs
from kalshibook.cli.meter import Meter
from kalshibook.cli.options import SERVER_FLAGS, with_settings
from kalshibook.cli.playing import Playing, made_up_frames
from kalshibook.cli.progress import progress_bar, shown
from kalshibook.cli.signals import stopped_by_signals
from kalshibook.cli.verify import Moments, verify
from kalshibook.collecting import served_collector
from kalshibook.errors import FeedError
from kalshibook.feeds import EmbeddedBroker, FeedState, KafkaFeed, KafkaOptions
from kalshibook.feeds.pacing import parse_speed
from kalshibook.feeds.publisher import Publisher
from kalshibook.feeds.tape import RecordedFrame, Tape
from kalshibook.server import BookServer, ServerAddresses
from kalshibook.settings import Loaded, Settings
from kalshibook.simulator import GeneratorOptions
from kalshibook.store import BookStore

__all__ = ["demo"]

_PARTITIONS: Final = 4
_MOMENTS: Final = 10
_LOOK_S: Final = 0.05
_READY_S: Final = 30.0
_SHOWN_DIFFERENCES: Final = 10
_SOURCE: Final = "demo"


class _Plan(NamedTuple):
    """What is to be played, and for how long."""

    recordings: Path | None
    generator: GeneratorOptions
    speed: float
    broker: str | None
    duration_s: float | None
    exit_when_done: bool
    run: str
    """Distinguishes this playing's connections from those of any other."""

    def tape(self) -> Tape | None:
        """Return the recordings from their start, with the same connections each time."""
        return None if self.recordings is None else Tape(self.recordings, align=True, run=self.run)

    def frames(self) -> Iterable[RecordedFrame]:
        return self.tape() or made_up_frames(self.generator, f"{self.run}.made-up")

    @property
    def ends_by_itself(self) -> bool:
        """At full speed a recording is over in seconds: then the numbers are what was wanted."""
        return self.recordings is not None and (self.exit_when_done or self.speed == float("inf"))


@click.command()
@click.option(
    "--recordings",
    type=click.Path(exists=True, path_type=Path),
    help="Play recordings, <ticker>/<date>.ndjson.gz, instead of made-up markets.",
)
@click.option("--speed", default="1", show_default=True, help="How many times faster than real time, or max.")
@click.option(
    "--markets", type=click.IntRange(min=1), default=100, show_default=True, help="Made-up markets."
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=1_000.0,
    show_default=True,
    help="Made-up messages per second, over all markets, at speed 1.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed makes up other markets.")
@click.option("--bootstrap-servers", "broker", help="Publish to this Kafka instead of an embedded broker.")
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), help="End after so many seconds.")
@click.option("--exit-when-done", is_flag=True, help="End when the recordings are played, at any speed.")
@with_settings(*SERVER_FLAGS)
def demo(
    loaded: Loaded,
    *,
    recordings: Path | None,
    speed: str,
    markets: int,
    rate: float,
    seed: int,
    broker: str | None,
    duration: float | None,
    exit_when_done: bool,
) -> None:
    """
    Serve made-up or recorded markets from an embedded Kafka broker, until Ctrl-C.

    Frames travel the whole way: envelope, Kafka, feed, store, server. At the end the rate and the
    latencies of this run are printed. Recordings are also folded by a plain reference, and the books
    at the end and at ten random moments are compared with it; the exit code is 1 if any differs.
    Recordings at --speed max end by themselves.
    """
    generator = GeneratorOptions(markets=markets, messages_per_second=rate, seed=seed)
    plan = _Plan(
        recordings, generator, parse_speed(speed), broker, duration, exit_when_done, secrets.token_hex(4)
    )
    plan.tape()  # what cannot be played is found before anything starts
    log = loaded.settings.log
    configure_logs(
        msgspec.structs.replace(log, level="warning") if loaded.origin("log.level") == "default" else log
    )
    run = _Demo(plan, loaded)
    allow_many_sockets()
    with served_collector():
        trio.run(run.serve)
    run.report()
    if plan.recordings is not None and run.differs():
        raise click.exceptions.Exit(1)


class _Demo:
    def __init__(self, plan: _Plan, loaded: Loaded) -> None:
        self._plan = plan
        self._settings: Settings = loaded.settings
        self._console = Console()
        self._store = BookStore(self._settings.store)
        self._moments = Moments(self._store, _MOMENTS, plan.generator.seed)
        self._meter = Meter(self._store)
        self._playing: Playing | None = None

    async def serve(self) -> None:
        """Run broker, player, feed and server until a signal, or until it is over."""
        with ExitStack() as stack:
            options = self._kafka(stack)
            feed = KafkaFeed(self._store, options)
            publisher = Publisher(
                options.bootstrap_servers,
                source=_SOURCE,
                topic=options.topic,
                settings=self._producer(options),
            )
            self._playing = playing = Playing(
                self._moments.among(self._plan.frames()),
                publisher,
                speed=self._plan.speed,
                consumed=lambda: self._store.cut().offsets,
            )
            stack.enter_context(self._meter)
            server = BookServer(
                self._store,
                http=self._settings.http,
                stream=self._settings.stream,
                feeds=[feed],
                switch_interval_us=self._settings.server.switch_interval_us,
            )
            async with stopped_by_signals(), server:
                feed.start()
                try:
                    await self._caught_up(feed)
                    self._introduce(options, server.addresses)
                    playing.start()
                    async with Dashboard(self._store, self._meter, self._console).shown():
                        await self._until_over(playing)
                finally:
                    # In a thread, because the server says goodbye to its clients meanwhile.
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(self._stop, playing, feed)
            if playing.error is not None:
                raise playing.error

    def report(self) -> None:
        """Print what the run measured."""
        assert self._playing is not None
        report, meter = self._playing.report, self._meter
        if report is None or not meter.changes:
            self._console.print("Nothing was played.")
            return
        state = "played to the end" if report.complete else "stopped"
        count = len(self._store.cut())
        books = "1 book" if count == 1 else f"{count:,} books"
        self._console.print(
            f"\n[bold]{meter.rate():,.0f} changes per second[/] through Kafka into {books}"
            f" ({report.frames:,} frames, {state})",
            highlight=False,
            soft_wrap=True,
        )
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column("latency")
        for name in ("p50", "p90", "p99", "max"):
            table.add_column(name, justify="right")
        for hop, durations in meter.hops.items():
            shares = (duration_text(durations.percentile_us(share)) for share in (0.5, 0.9, 0.99))
            table.add_row(hop, *shares, duration_text(durations.largest_us))
        self._console.print(table)
        if report.rejected:
            self._console.print(f"{report.rejected:,} frames could not be published", style="yellow")
        if meter.conflated:
            self._console.print(
                f"{meter.conflated:,} changes reached the meter merged with newer ones", style="dim"
            )

    def differs(self) -> bool:
        """Compare the books with the recordings, print the outcome, and tell whether anything differs."""
        assert self._playing is not None
        tape, report = self._plan.tape(), self._playing.report
        if tape is None or report is None:
            return False
        with progress_bar("frames") as progress:
            frames = shown(tape, progress, "comparing with a plain fold of the recordings", report.frames)
            verdict = verify(frames, self._moments.cuts, self._store.cut(), complete=report.complete)
        if not verdict.differences:
            self._console.print(
                f"[green]Equal[/]: {verdict.books} books, at the end and at {len(self._moments.cuts)} random"
                " moments, are those of a plain fold of the recordings.",
                highlight=False,
                soft_wrap=True,
            )
            return False
        self._console.print(f"[bold red]{len(verdict.differences)} differences[/] from a plain fold:")
        for line in verdict.differences[:_SHOWN_DIFFERENCES]:
            self._console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        return True

    def _kafka(self, stack: ExitStack) -> KafkaOptions:
        """Return where to read; only a broker that this command was given is ever written to."""
        if self._plan.broker is not None:
            return msgspec.structs.replace(self._settings.kafka, bootstrap_servers=self._plan.broker)
        topic = KafkaOptions().topic
        embedded = stack.enter_context(EmbeddedBroker({topic: _PARTITIONS}))
        return KafkaOptions(
            bootstrap_servers=str(embedded),
            topic=topic,
            start="beginning",
            extra=dict(EmbeddedBroker.CONSUMER_SETTINGS),
        )

    def _producer(self, options: KafkaOptions) -> dict[str, str | int | bool]:
        return dict(EmbeddedBroker.PRODUCER_SETTINGS) if self._plan.broker is None else options.extra

    async def _caught_up(self, feed: KafkaFeed) -> None:
        """
        Wait for the feed, so that nothing is played past it.

        Raises:
            FeedError: it does not get there.
        """
        with trio.move_on_after(_READY_S):
            while (health := feed.health()).state is not FeedState.LIVE:
                if health.state is FeedState.FAILED:
                    break
                await trio.sleep(_LOOK_S)
        if (health := feed.health()).state is not FeedState.LIVE:
            raise FeedError(f"the feed is {health.state}: {health.reason}")

    async def _until_over(self, playing: Playing) -> None:
        with trio.move_on_after(self._plan.duration_s or float("inf")):
            while not (playing.error or (self._plan.ends_by_itself and playing.arrived)):  # noqa: ASYNC110 - threads
                await trio.sleep(_LOOK_S)

    def _stop(self, playing: Playing, feed: KafkaFeed) -> None:
        """Producer first, then what is in Kafka, then the feed: so that the last book is the last frame's."""
        playing.stop()
        deadline = time.monotonic() + 0.5
        while not playing.arrived and time.monotonic() < deadline:
            time.sleep(_LOOK_S / 10)
        feed.stop()

    def _introduce(self, options: KafkaOptions, addresses: ServerAddresses) -> None:
        rest, stream = addresses.http_url, addresses.stream_url
        recordings, made_up = self._plan.recordings, self._plan.generator.markets
        what = f"{made_up} made-up markets" if recordings is None else f"recordings of {recordings}"
        kind = "embedded" if self._plan.broker is None else "given"
        defaults = Settings()
        usual = (self._settings.http.port, self._settings.stream.port) == (
            defaults.http.port,
            defaults.stream.port,
        )
        at_rest, at_stream = ("", "") if usual else (f" --url {rest}", f" --url {stream}")
        command = own_command()
        lines = [
            f"kalshibook {__version__}: {what}",
            "",
            f"  page       {rest}/",
            f"  REST       {rest}/v1/tops?prefix=KX",
            f"  REST docs  {rest}/docs",
            f"  WebSocket  {stream}",
            f"  Kafka      {options.bootstrap_servers} ({kind})",
            "",
        ]
        if recordings is None or self._plan.speed < float("inf"):  # else it is over before this is typed
            lines += [
                "Try in another terminal:",
                f"  {command} top{at_rest}",
                f"  {command} watch{at_stream}",
                f"  curl '{rest}/v1/tops?prefix=KX&limit=3'",
                "",
            ]
        click.echo("\n".join(lines))
