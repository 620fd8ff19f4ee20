"""`kalshibook demo`: everything at once, with nothing to install or to set."""

from pathlib import Path

import click
import msgspec
import trio

from kalshibook.cli.demo_exchange import ExchangeSource
from kalshibook.cli.demo_recordings import RecordingSource
from kalshibook.cli.demo_stage import Source, Stage
from kalshibook.cli.descriptors import allow_many_sockets
from kalshibook.cli.logs import configure_logs
from kalshibook.cli.options import SERVER_FLAGS, with_settings
from kalshibook.collecting import served_collector
from kalshibook.feeds.pacing import parse_speed
from kalshibook.settings import Loaded

__all__ = ["demo"]


@click.command()
@click.option(
    "--recordings",
    type=click.Path(exists=True, path_type=Path),
    help="Play recordings, <ticker>/<date>.ndjson.gz, instead of a simulated exchange.",
)
@click.option("--speed", default="1", show_default=True, help="How many times faster than real time, or max.")
@click.option(
    "--markets", type=click.IntRange(min=1), default=100, show_default=True, help="Markets of the exchange."
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=1_000.0,
    show_default=True,
    help="The exchange's messages per second, over all markets, at speed 1.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed makes up other markets.")
@click.option(
    "--faults",
    type=click.Choice(["none", "lively"]),
    default="none",
    show_default=True,
    help="What goes wrong on the exchange: nothing, or something every few seconds.",
)
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
    faults: str,
    broker: str | None,
    duration: float | None,
    exit_when_done: bool,
) -> None:
    """
    Run the whole chain until Ctrl-C: exchange, gatherer, Kafka, store, REST and WebSocket.

    The exchange is a simulated one, in a process of its own, and so is the gatherer that listens to it.
    At the end the rate and the latencies of this run are printed, and all books are compared with the
    exchange's own; the exit code is 1 if any differs. With --faults lively the exchange loses frames,
    cuts sockets and worse meanwhile, and what was survived is printed.

    Recordings are published instead of gathered, and their books are compared with a plain fold of
    the same frames, at the end and at ten random moments. At --speed max they end by themselves.
    """
    pace = parse_speed(speed)
    source: Source
    if recordings is None:
        source = ExchangeSource(markets=markets, rate=rate, seed=seed, speed=pace, faults=faults)
    else:
        source = RecordingSource(recordings, speed=pace, seed=seed, exit_when_done=exit_when_done)
    log = loaded.settings.log
    if loaded.origin("log.level") == "default":
        # What goes wrong on purpose is told at the end, in numbers.
        log = msgspec.structs.replace(log, level="error")
    configure_logs(log)
    stage = Stage(source, loaded.settings, broker=broker, duration_s=duration)
    allow_many_sockets()
    with served_collector():
        trio.run(stage.run)
    if not stage.report():
        raise click.exceptions.Exit(1)
