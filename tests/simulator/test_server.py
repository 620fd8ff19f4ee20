import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trio
import trio.testing
from trio_websocket import WebSocketConnection, open_websocket_url

from kalshibook.errors import SettingsError
from kalshibook.simulator import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.simulator.truth import TrueBook, total_checksum
from tests.simulator.signing import Signer
from tests.stream.raw import RawClient, masked

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
async def raw(exchange: SimulatedExchange, *, within_s: float = 20) -> AsyncIterator[RawClient]:
    """Connect a client that reads when it is told to."""
    address = urlsplit(exchange.stream_url)
    async with await trio.open_tcp_stream(str(address.hostname), address.port or 0) as stream:
        client = RawClient(stream)
        with trio.fail_after(within_s):
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


async def subscribed(client: RawClient, **params: Any) -> None:
    """Subscribe to a book, and hear the announcement and the snapshot."""
    await client.command(1, "subscribe", channels=["orderbook_delta"], market_tickers=[NEWT], **params)
    assert "subscribed" == (await client.frame()).json["type"]
    assert "orderbook_snapshot" == (await client.frame()).json["type"]


async def test_pings_come_and_must_be_answered(autojump_clock: trio.testing.MockClock) -> None:
    """A ping with the payload `heartbeat` comes every ten seconds; three without an answer, and it is cut."""
    async with SimulatedExchange(options()) as exchange, raw(exchange, within_s=100) as client:
        times = []
        begun = trio.current_time()
        for _ in range(3):
            frame = await client.frame()
            assert (9, b"heartbeat") == frame
            times.append(round(trio.current_time() - begun))
            await client.stream.send_all(masked(10, b"heartbeat"))
        assert [10, 20, 30] == times
        pings = await client.rest()
        assert 4 * b"\x89\x09heartbeat" >= pings >= 3 * b"\x89\x09heartbeat"
        await trio.testing.wait_all_tasks_blocked()
        assert {} == exchange.venue.sessions


async def test_half_open(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing comes any more, no data and no pong, and nobody hangs up."""
    async with SimulatedExchange(options()) as exchange, raw(exchange, within_s=1_000) as client:
        exchange.create(NEWT)
        await subscribed(client)
        exchange.inject("half_open")
        await trio.sleep(1)
        await client.stream.send_all(masked(9, b"are you there"))
        exchange.change(NEWT, "yes", 4_000, 100)
        await client.stream.send_all(masked(8, (1_000).to_bytes(2, "big")))
        with trio.move_on_after(300) as waiting:
            await client.frame()
        assert waiting.cancelled_caught


async def test_a_stalled_socket_still_pongs(autojump_clock: trio.testing.MockClock) -> None:
    """Data is held back, pings are answered, and then all of it comes in order."""
    async with SimulatedExchange(options()) as exchange, raw(exchange) as client:
        exchange.create(NEWT)
        await subscribed(client)
        exchange.inject("stall", duration_ms=3_000)
        for size in (1, 2):
            exchange.change(NEWT, "yes", 4_000, size)
        await client.stream.send_all(masked(9, b"there?"))
        assert (10, b"there?") == await client.frame()
        begun = trio.current_time()
        assert [2, 3] == [(await client.frame()).json["seq"] for _ in range(2)]
        assert pytest.approx(3, abs=0.1) == trio.current_time() - begun


async def test_a_client_that_does_not_read_harms_itself() -> None:
    """Its subscription ends with error 25 while another client has every change, and it may begin anew."""
    async with (
        SimulatedExchange(options(subscription_buffer=200)) as exchange,
        raw(exchange) as slow,
        raw(exchange) as quick,
    ):
        exchange.create(NEWT)
        await subscribed(slow)
        await subscribed(quick)
        session = exchange.venue.sessions[1]
        number = 1
        while session.subscriptions:
            exchange.change(NEWT, "yes", 4_000, 100)
            number += 1
            assert number == (await quick.frame()).json["seq"]
        frame = (await slow.frame()).json
        while frame["type"] != "error":
            frame = (await slow.frame()).json
        assert (25, 1) == (frame["msg"]["code"], frame["sid"])
        await subscribed(slow)


async def test_a_handshake_can_be_denied_by_fault() -> None:
    """The next handshake is refused with 401, the one after is not."""
    async with SimulatedExchange(options()) as exchange:
        exchange.inject("unauthorized")
        status, _ = await refused(exchange, {})
        assert 401 == status
        async with raw(exchange):
            pass


async def test_during_maintenance_nobody_is_let_in(autojump_clock: trio.testing.MockClock) -> None:
    """Connections are closed, handshakes get 503, and some seconds later all is well."""
    async with SimulatedExchange(options()) as exchange:
        async with raw(exchange) as client:
            exchange.inject("maintenance", duration_ms=5_000)
            assert 1012 == (await client.frame()).close[0]
            status, _ = await refused(exchange, {})
            assert 503 == status
        await trio.sleep(6)
        async with raw(exchange):
            pass


async def test_wrong_paths_and_wrong_commands() -> None:
    """A handshake elsewhere is 404; nonsense is answered with error 1 and the connection lives on."""
    async with SimulatedExchange(options()) as exchange:
        address = urlsplit(exchange.stream_url)
        async with await trio.open_tcp_stream(str(address.hostname), address.port or 0) as stream:
            assert 404 == await RawClient(stream).handshake("/elsewhere")
        async with raw(exchange) as client:
            await client.stream.send_all(masked(1, b"nonsense"))
            assert 1 == (await client.frame()).json["msg"]["code"]
            await client.command(7, "list_subscriptions")
            assert 7 == (await client.frame()).json["id"]


async def test_as_fast_as_it_is_read() -> None:
    """With speed 0 time runs from message to message, and a reader gets each with its number."""
    async with SimulatedExchange(options(speed=0, messages_per_second=100, short_lived=0)) as exchange:
        tickers = exchange.tickers
        async with raw(exchange) as client:
            await client.command(1, "subscribe", channels=["orderbook_delta"], market_tickers=tickers)
            await client.frame()
            begun_us = exchange.venue.now_us
            frames = [await client.frame() for _ in range(5_000)]
            numbers = [frame.json["seq"] for frame in frames if frame.opcode == 1]
            assert list(range(1, len(numbers) + 1)) == numbers
            assert 20_000_000 < exchange.venue.now_us - begun_us


async def test_time_can_be_sped_up(autojump_clock: trio.testing.MockClock) -> None:
    """At a hundred times the speed, a minute of ours is a hundred of the exchange's."""
    async with SimulatedExchange(options(speed=100)) as exchange:
        begun_us, begun_s = exchange.clock_us(), trio.current_time()
        await trio.sleep(60)
        assert 6_000_000_000 == pytest.approx(exchange.clock_us() - begun_us, rel=0.01)
        assert 60 == pytest.approx(trio.current_time() - begun_s, rel=0.01)


async def test_a_busy_port_is_an_error() -> None:
    """Both ports are named when they are taken."""
    async with SimulatedExchange(options()) as exchange:
        for name, url in (("rest_port", exchange.rest_url), ("stream_port", exchange.stream_url)):
            with pytest.raises((SettingsError, BaseExceptionGroup)) as caught:
                async with SimulatedExchange(options(**{name: urlsplit(url).port})):
                    pass
            assert "is in use" in str(getattr(caught.value, "exceptions", [caught.value])[0])


async def test_errors_of_the_block_leave_as_they_are() -> None:
    """What a test raises inside is not wrapped in a group."""
    with pytest.raises(KeyError):
        async with SimulatedExchange(options()) as exchange:
            exchange.truth("KXTYPO")


@pytest.mark.parametrize("speed", [0.0, 1.0])
async def test_so_many_changes_and_no_more(speed: float) -> None:
    """A frozen exchange runs for a number of changes and is frozen again: then all copies can be compared."""
    settings = options(speed=speed, messages_per_second=5_000, short_lived=0, frozen=True)
    async with SimulatedExchange(settings) as exchange, raw(exchange) as client:
        await client.command(1, "subscribe", channels=["orderbook_delta"], market_tickers=exchange.tickers)
        assert "subscribed" == (await client.frame()).json["type"]
        for _ in exchange.tickers:
            assert "orderbook_snapshot" == (await client.frame()).json["type"]
        for _ in range(2):
            before = exchange.checksum().changes
            await exchange.run_changes(1_000)
            after = exchange.checksum()
            assert 1_000 <= after.changes - before < 1_100
            for _ in range(after.changes - before):
                await client.frame()
            await trio.sleep(0.02)
            assert after.checksum == exchange.checksum().checksum
