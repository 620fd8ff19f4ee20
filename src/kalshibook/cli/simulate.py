"""`kalshibook simulate`: a local Kalshi to develop against."""

import os
from pathlib import Path
from typing import Final

import click
import msgspec
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from rich.console import Console
from rich.live import Live
from rich.table import Table

from kalshibook.cli.descriptors import allow_many_sockets
from kalshibook.cli.invocation import own_command
from kalshibook.cli.logs import configure_logs
from kalshibook.cli.options import Flag, with_settings
from kalshibook.cli.parts import PartOptions, part_options
from kalshibook.cli.signals import stopped_by_signals
from kalshibook.collecting import served_collector
from kalshibook.errors import SettingsError
from kalshibook.feeds.tape import Tape
from kalshibook.settings import Loaded
from kalshibook.simulator import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange

__all__ = ["simulate"]

_LOOK_S: Final = 0.5
_LINE_S: Final = 5.0
_FLAGS: Final = (
    Flag("--host", "Address to listen on; 0.0.0.0 for all.", ["simulator.host"]),
    Flag("--port", "Port of REST; 0 takes a free one.", ["simulator.rest_port"]),
    Flag("--stream-port", "Port of the WebSocket; 0 takes a free one.", ["simulator.stream_port"]),
    Flag("--markets", "How many markets move.", ["simulator.markets"]),
    Flag("--quiet-markets", "How many more are listed and stand still.", ["simulator.quiet_markets"]),
    Flag("--rate", "Messages per second, over all markets.", ["simulator.messages_per_second"]),
    Flag("--speed", "How fast its time passes; 0 as fast as clients read.", ["simulator.speed"]),
    Flag("--seed", "Another seed makes up other markets.", ["simulator.seed"]),
    Flag("--faults", "What goes wrong by itself: none, lively or campaign.", ["simulator.faults"]),
    Flag("--recordings", "List and move these markets too.", ["simulator.recordings"]),
    Flag("--log-level", "debug, info, warning or error.", ["log.level"]),
)


@click.command()
@click.option(
    "--new-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Make a key, write its private half to this file, and take signatures by it.",
)
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), help="End after so many seconds.")
@part_options
@with_settings(*_FLAGS)
def simulate(loaded: Loaded, *, new_key: Path | None, duration: float | None, part: PartOptions) -> None:
    """
    Run a simulated exchange that speaks Kalshi's REST and WebSocket, until Ctrl-C.

    Without a key it takes whatever comes, signed or not. What is true, and what goes wrong, is under
    /simulator: every book, a checksum of all, and a record of every fault.
    """
    log = loaded.settings.log
    quiet = msgspec.structs.replace(log, level="warning")
    configure_logs(quiet if loaded.origin("log.level") == "default" else log)
    options = loaded.settings.simulator
    keys = {key_id: _read(Path(path)) for key_id, path in options.keys.items()}
    if new_key is not None:
        keys[_NEW_KEY_ID] = _make_key(new_key)
    if not keys and loaded.origin("simulator.open") == "default":
        options = msgspec.structs.replace(options, open=True)
    # What cannot be played is found before anything starts.
    tape = Tape(options.recordings, align=True) if options.recordings else None
    allow_many_sockets()
    with served_collector():
        trio.run(_Run(options, keys, new_key, tape, duration, part).main)


_NEW_KEY_ID: Final = "simulator"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"simulator.keys: {path} cannot be read: {error.strerror}") from None


def _make_key(path: Path) -> bytes:
    """Write a new private key to a file, readable by its owner only, and return the public half."""
    private = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise click.ClickException(f"{path} exists already; a key is never written over") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


class _Run:
    def __init__(
        self,
        options: SimulatorOptions,
        keys: dict[str, bytes],
        new_key: Path | None,
        tape: Tape | None,
        duration: float | None,
        part: PartOptions,
    ) -> None:
        self._options = options
        self._keys = keys
        self._new_key = new_key
        self._tape = tape
        self._duration = duration
        self._part = part
        self._console = Console(soft_wrap=True)

    async def main(self) -> None:
        exchange = SimulatedExchange(self._options)
        for key_id, pem in self._keys.items():
            try:
                exchange.register_key(key_id, pem)
            except ValueError as error:
                raise SettingsError(f"simulator.keys: {error}") from None
        async with stopped_by_signals() as nursery, exchange:
            self._greet(exchange)
            nursery.start_soon(self._part.watch, nursery.cancel_scope)
            self._part.announce(
                {
                    "rest_url": exchange.rest_url,
                    "stream_url": exchange.stream_url,
                    "control_url": exchange.control_url,
                }
            )
            if self._tape is not None:
                exchange.play((frame.received_ms, frame.frame) for frame in self._tape)
            with trio.move_on_after(self._duration or float("inf")):
                await self._show(exchange)
        faults = exchange.venue.ledger.done
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items())) or "none"
        self._console.print(f"Stopped after {exchange.venue.lives.steps:,} changes. Faults: {told}.")

    def _greet(self, exchange: SimulatedExchange) -> None:
        options, say = self._options, self._console.print
        markets = len(exchange.venue.model)
        rate = f"{options.messages_per_second:,.0f} messages a second"
        say(f"Simulated exchange: {markets:,} markets, about {rate}, faults: {options.faults}")
        table = Table.grid(padding=(0, 2, 0, 2))
        table.add_row("REST", exchange.rest_url)
        table.add_row("WebSocket", exchange.stream_url)
        table.add_row("truth and faults", exchange.control_url)
        if self._new_key is not None:
            table.add_row("key", f"{_NEW_KEY_ID}, private half in {self._new_key}")
        say(table)
        say("Try, in another terminal:", style="bold")
        gather = f"{own_command()} gather --set gather.environment=custom"
        gather += f" --set gather.rest_url={exchange.rest_url} --set gather.stream_url={exchange.stream_url}"
        held = sorted(exchange.venue.model.held(), key=lambda market: market.close_s or 0)
        for line in (
            f"curl '{exchange.rest_url}/markets?limit=2'",
            f"curl '{exchange.control_url}/truth{f'/{held[-1].ticker}' if held else ''}'",
            f'curl -X POST {exchange.control_url}/faults -d \'{{"kind": "lost"}}\'',
            gather,
        ):
            say(f"  {line}", highlight=False, markup=False)

    async def _show(self, exchange: SimulatedExchange) -> None:
        if not self._console.is_terminal:
            while True:
                await trio.sleep(_LINE_S)
                self._console.print(_status(exchange), highlight=False)
        with Live(_status(exchange), console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                await trio.sleep(_LOOK_S)
                live.update(_status(exchange), refresh=True)


def _status(exchange: SimulatedExchange) -> str:
    venue = exchange.venue
    sessions = venue.sessions.values()
    frames = sum(session.frames for session in sessions)
    return (
        f"{venue.lives.steps:,} changes, {len(venue.model):,} markets, {len(sessions)} connections, "
        f"{frames:,} frames sent to them, {venue.ledger.done.total():,} faults"
    )
