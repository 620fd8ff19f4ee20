import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from kalshibook.simulator import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.simulator.truth import TrueBook, total_checksum
from tests.simulator.signing import Signer
from tests.stream.raw import RawClient

pytestmark = pytest.mark.trio

WS_PATH = "/trade-api/ws/v2"
NEWT = "KXNEWT-26DEC01-T40"


def options(**given: Any) -> SimulatorOptions:
    """Return an open exchange that stands still unless told otherwise."""
    return SimulatorOptions(**({"open": True, "messages_per_second": 0, "markets": 3} | given))


async def say(socket: WebSocketConnection, cmd: str, id: int = 1, **params: Any) -> None:  # noqa: A002
    """Send a command."""
    await socket.send_message(json.dumps({"id": id, "cmd": cmd, "params": params}))


async def hear(socket: WebSocketConnection) -> Any:
    """Return the next frame."""
    with trio.fail_after(20):
        return json.loads(await socket.get_message())


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
async def test_a_signed_handshake_is_let_in(kind: str) -> None:
    """A key that is known opens a socket, and its user is told apart."""
    signer = Signer("key-1", kind)
    async with SimulatedExchange(options(open=False)) as exchange:
        exchange.register_key("key-1", signer.public_pem, user="anna")
        headers = [(name.encode(), value.encode()) for name, value in signer.headers(WS_PATH).items()]
        async with open_websocket_url(exchange.stream_url, extra_headers=headers) as socket:
            await say(socket, "list_subscriptions")
            assert [] == (await hear(socket))["msg"]
            assert ["anna"] == [session.user for session in exchange.venue.sessions.values()]


@asynccontextmanager
async def raw(exchange: SimulatedExchange) -> AsyncIterator[RawClient]:
    """Connect a client that reads when it is told to."""
    address = urlsplit(exchange.stream_url)
    async with await trio.open_tcp_stream(str(address.hostname), address.port or 0) as stream:
        client = RawClient(stream)
        with trio.fail_after(20):
            assert 101 == await client.handshake()
            yield client


async def refused(exchange: SimulatedExchange, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
    """Return status and body of a handshake that fails."""
    address = urlsplit(exchange.stream_url)
    async with await trio.open_tcp_stream(str(address.hostname), address.port or 0) as stream:
        client = RawClient(stream)
        status = await client.handshake(**{name.replace("-", "_"): value for name, value in headers.items()})
        return status, json.loads(await client.read_until(b"}"))


@pytest.mark.parametrize(
    ("change", "code", "details"),
    [
        ({"late_ms": 120_000}, "header_timestamp_expired", None),
        ({"late_ms": -120_000}, "header_timestamp_expired", None),
        ({"method": "POST"}, "authentication_error", "INCORRECT_API_KEY_SIGNATURE"),
        ({"salt": 20}, "authentication_error", "INCORRECT_API_KEY_SIGNATURE"),
    ],
)
async def test_a_wrong_handshake_is_refused(change: dict[str, Any], code: str, details: str | None) -> None:
    """Late, early and wrongly signed requests get 401 and a reason in JSON."""
    signer = Signer("key-1")
    async with SimulatedExchange(options(open=False)) as exchange:
        exchange.register_key("key-1", signer.public_pem)
        status, body = await refused(exchange, signer.headers(WS_PATH, **change))
        assert (401, code, details) == (status, body["code"], body.get("details"))


async def test_strangers_are_refused() -> None:
    """An unknown key, and no key at all, get 401."""
    async with SimulatedExchange(options(open=False)) as exchange:
        status, body = await refused(exchange, Signer("key-2").headers(WS_PATH))
        assert (401, "NOT_FOUND") == (status, body["details"])
        status, body = await refused(exchange, {})
        assert (401, "MISSING_HEADERS") == (status, body["details"])


async def test_connections_are_limited_per_user() -> None:
    """One connection too many is refused with 429; when one has left there is room again."""
    async with SimulatedExchange(options(max_connections=1)) as exchange:
        async with open_websocket_url(exchange.stream_url) as socket:
            await say(socket, "list_subscriptions")
            await hear(socket)
            status, _ = await refused(exchange, {})
            assert 429 == status
        with trio.fail_after(20):
            while exchange.venue.sessions:  # noqa: ASYNC110 - it is the server that has to notice
                await trio.sleep(0.01)
        async with open_websocket_url(exchange.stream_url) as socket:
            await say(socket, "list_subscriptions")
            assert "ok" == (await hear(socket))["type"]


async def test_a_book_over_both_interfaces() -> None:
    """The socket's snapshot and changes, REST and the truth say the same."""
    async with SimulatedExchange(options()) as exchange, httpx.AsyncClient() as client:
        exchange.create(NEWT)
        exchange.change(NEWT, "yes", 4_000, 100)
        async with open_websocket_url(exchange.stream_url) as socket:
            await say(socket, "subscribe", channels=["orderbook_delta", "trade"], market_tickers=[NEWT])
            assert ["subscribed", "subscribed"] == [(await hear(socket))["type"] for _ in range(2)]
            snapshot = await hear(socket)
            assert [["0.4000", "1.00"]] == snapshot["msg"]["yes_dollars_fp"]
            exchange.trade(NEWT, "no", 40)
            delta, trade = await hear(socket), await hear(socket)
            assert "-0.40" == delta["msg"]["delta_fp"]
            assert ("0.40", "no") == (trade["msg"]["count_fp"], trade["msg"]["taker_outcome_side"])
        truth = (await client.get(f"{exchange.control_url}/truth/{NEWT}")).json()
        assert [[4_000, 60]] == truth["yes"]
        assert ((4_000, 60),) == exchange.truth(NEWT).yes


async def test_the_checksum_is_that_of_all_books() -> None:
    """A consumer that has the same books reckons the same number, empty books or not."""
    async with SimulatedExchange(options(quiet_markets=50)) as exchange, httpx.AsyncClient() as client:
        told = (await client.get(f"{exchange.control_url}/truth")).json()["checksum"]
        books = [exchange.truth(ticker) for ticker in exchange.tickers]
        assert total_checksum(books) == told == exchange.checksum().checksum
        exchange.create(NEWT)
        assert told == exchange.checksum().checksum
        exchange.change(NEWT, "yes", 4_000, 1)
        assert told != exchange.checksum().checksum
        mine = TrueBook(NEWT, "", 0, ((4_000, 1),), ())
        assert total_checksum([*books, mine]) == exchange.checksum().checksum


async def test_cut_and_closed() -> None:
    """A connection ends with a close frame or without one, and the record says whose it was."""
    async with SimulatedExchange(options()) as exchange:
        async with raw(exchange) as client:
            (fault,) = exchange.inject("closed")
            assert (1012, "service restart") == (await client.frame()).close
        assert (1, True) == (fault.connection, fault.done_us is not None)
        async with raw(exchange) as client:
            exchange.inject("cut")
            assert b"" == await client.rest()
        assert {"closed": 1, "cut": 1} == exchange.venue.ledger.done


async def test_the_exchange_moves_by_its_clock(autojump_clock: trio.testing.MockClock) -> None:
    """On a virtual clock an hour passes at once, with the changes that belong to it."""
    async with SimulatedExchange(options(messages_per_second=5, short_lived=0.0)) as exchange:
        before = exchange.checksum()
        await trio.sleep(600)
        after = exchange.checksum()
        assert 600_000_000 == pytest.approx(after.at_us - before.at_us, abs=1_000_000)
        assert 0.6 * 3_000 < after.changes - before.changes < 1.4 * 3_000
