"""`kalshibook watch`: the best prices of some markets, as they change."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import click
import msgspec
import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, open_websocket_url

from kalshibook.cli.client import stream_url
from kalshibook.cli.options import with_settings
from kalshibook.cli.signals import stopped_by_signals
from kalshibook.cli.tables import TopLine, plain_line, tops_table
from kalshibook.numbers import parse_price, parse_size
from kalshibook.settings import Loaded

__all__ = ["watch"]

_REFRESHES_PER_SECOND: Final = 10
_TIMEOUT_S: Final = 5.0
_LARGEST_MESSAGE: Final = 16 * 1024 * 1024

Take = Callable[[str], None]


@click.command()
@click.argument("tickers", nargs=-1, metavar="[TICKER]...")
@click.option("--prefix", "prefixes", multiple=True, help="Markets whose ticker begins so; may be repeated.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many updates.")
@click.option("--url", help="The server's WebSocket address; from the settings unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print each message as it came.")
@with_settings()
def watch(
    loaded: Loaded,
    *,
    tickers: Sequence[str],
    prefixes: Sequence[str],
    count: int | None,
    url: str | None,
    as_json: bool,
) -> None:
    """
    Follow the best prices of the named markets, or of all, until Ctrl-C.

    A slow terminal misses no state: what changes meanwhile arrives merged into the newest.
    """
    address = url or stream_url(loaded.settings)
    parameters: dict[str, object] = {"channels": ["top_of_book"]}
    if tickers:
        parameters["market_tickers"] = list(tickers)
    if prefixes:
        parameters["market_prefixes"] = list(prefixes)
    console = Console()
    if as_json or not console.is_terminal:
        trio.run(_follow, address, parameters, count, click.echo if as_json else _print_line)
        return
    screen = _Screen(console, address)
    with Live(get_renderable=screen.content, console=console, refresh_per_second=_REFRESHES_PER_SECOND):
        trio.run(_follow, address, parameters, count, screen.take)


async def _follow(address: str, parameters: Mapping[str, object], count: int | None, take: Take) -> None:
    """Give `take` each message until there were `count` updates, or a signal came."""
    command = msgspec.json.encode({"id": 1, "cmd": "subscribe", "params": parameters}).decode()
    left = count
    async with stopped_by_signals():
        try:
            async with open_websocket_url(
                address,
                connect_timeout=_TIMEOUT_S,
                disconnect_timeout=_TIMEOUT_S,
                max_message_size=_LARGEST_MESSAGE,
            ) as socket:
                await socket.send_message(command)
                while left is None or left > 0:
                    message = str(await socket.get_message())  # it is text: the server sends nothing else
                    _refuse_error(message)
                    take(message)
                    if left is not None and '"top_of_book"' in message[:40]:
                        left -= 1
        except (OSError, HandshakeError, ValueError) as error:
            refusal = f"HTTP status {error.status_code}" if isinstance(error, ConnectionRejected) else None
            said = refusal or error.__cause__ or error
            raise click.ClickException(f"no server answers at {address}: {said}") from None
        except ConnectionClosed as error:
            reason = error.reason
            said_on_close = f"{reason.code} {reason.reason or reason.name}" if reason else "without a word"
            raise click.ClickException(f"{address} closed the connection: {said_on_close}") from None


def _refuse_error(message: str) -> None:
    frame = msgspec.json.decode(message)
    if frame.get("type") == "error":
        raise click.ClickException(f"the server refused: {frame['msg']['msg']}")


def _line(frame: Mapping[str, Any], updates: int | None = None) -> TopLine:
    message = frame["msg"]
    prices = (message["yes_bid_dollars"], message["yes_ask_dollars"])
    sizes = (message["yes_bid_size_fp"], message["yes_ask_size_fp"])
    bid, ask = (None if text is None else parse_price(text) for text in prices)
    bid_size, ask_size = (None if text is None else parse_size(text) for text in sizes)
    note = message["stale_reason"] or ("" if updates is None else f"{updates:,}")
    return TopLine(
        message["market_ticker"], bid, bid_size, ask, ask_size, message["condition"], message["status"], note
    )


def _print_line(message: str) -> None:
    frame = msgspec.json.decode(message)
    if frame["type"] == "top_of_book":
        click.echo(plain_line(_line(frame)))


class _Seen(NamedTuple):
    order: int
    frame: Mapping[str, Any]
    updates: int


class _Screen:
    """
    The newest top of each market, as a table of those that changed last.

    `take` runs in the Trio thread, `content` in that of rich, which draws ten times a second however
    much comes: one assignment, or one copy, is all that either does to the dict.
    """

    def __init__(self, console: Console, address: str) -> None:
        self._console = console
        self._address = address
        self._newest: dict[str, _Seen] = {}
        self._connected = False
        self._updates = 0

    def take(self, message: str) -> None:
        frame = msgspec.json.decode(message)
        self._connected = True
        if frame["type"] != "top_of_book":
            return
        ticker = frame["msg"]["market_ticker"]
        merged = frame["msg"].get("merged", 1)
        self._updates += merged
        before = self._newest.get(ticker)
        self._newest[ticker] = _Seen(self._updates, frame, merged + (before.updates if before else 0))

    def content(self) -> RenderableType:
        if not self._newest:
            state = "no such market yet" if self._connected else "connecting"
            return Text(f"{self._address}   {state}   Ctrl-C ends", style="dim")
        room = max(self._console.size.height - 4, 1)
        newest = sorted(self._newest.copy().values(), key=lambda seen: seen.order)
        shown = sorted(_line(seen.frame, seen.updates) for seen in newest[-room:])
        hidden = f", {len(newest) - len(shown):,} not shown" if len(newest) > len(shown) else ""
        footer = (
            f"{self._address}   {len(newest):,} markets{hidden}   {self._updates:,} updates   Ctrl-C ends"
        )
        return Group(tops_table(shown, "updates", self._console.width), Text(footer, style="dim"))
