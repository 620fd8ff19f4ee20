"""The server over real sockets: where it listens, how it stops, and the client that stops reading."""

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from quart import Response
from quart_trio import QuartTrio

from kalshibook.errors import SettingsError
from kalshibook.http.app import make_app
from kalshibook.http.options import HttpOptions
from kalshibook.http.server import serve
from tests.http.client import LIVE, filled_store

pytestmark = pytest.mark.trio

PATIENT = {"port": 0, "drain_ms": 60_000, "stuck_client_ms": 60_000, "keep_alive_ms": 60_000}
"""Nothing ends by a limit within a test's time, except what the test changes."""


def app_with_huge_answer() -> QuartTrio:
    """Return the application with an answer that no socket buffer takes in."""
    app = make_app(filled_store()[0])

    @app.get("/huge")
    async def huge() -> Response:
        return Response(b"x" * 50_000_000, 200)

    return app


@asynccontextmanager
async def running(app: QuartTrio, **options: int | str) -> AsyncIterator[tuple[str, int]]:
    """Serve `app` for the length of a block; leaving it is a stop, which must end soon."""
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve, app, HttpOptions(**{**PATIENT, **options}))  # type: ignore[arg-type]
        try:
            yield address
        finally:
            nursery.cancel_scope.cancel()
            # Not waited for here: the nursery's end is, under the caller's own time limit.


async def asked(address: tuple[str, int], path: str) -> trio.SocketStream:
    """Open a connection and send one request on it."""
    stream = await trio.open_tcp_stream(*address)
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return stream


async def begun_reading(stream: trio.SocketStream) -> bytes:
    """Wait for the first bytes of an answer."""
    return bytes(await stream.receive_some(64))


async def test_tells_a_websocket_client_that_this_is_the_wrong_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A WebSocket handshake at the REST address is answered with 404 in words, and logs no failure."""
    with trio.fail_after(30):
        async with running(make_app(filled_store()[0])) as address:
            stream = await trio.open_tcp_stream(*address)
            await stream.send_all(
                b"GET /trade-api/ws/v2 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            answer = b""
            while data := await stream.receive_some():
                answer += data
            await stream.aclose()

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"stream.port" in answer
    assert [] == [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_free_port_is_taken_and_answers() -> None:
    """Port 0 gives each server an address of its own, and an ordinary client is answered there."""
    store, _ = filled_store()
    async with (
        running(make_app(store)) as (host, port),
        running(make_app(store)) as (_, another),
        httpx.AsyncClient(base_url=f"http://{host}:{port}") as client,
    ):
        answer = await client.get("/v1/tops", params={"tickers": LIVE})
        head = await client.head("/v1/tops", params={"tickers": LIVE})
        again = await client.get(
            "/v1/tops", params={"tickers": LIVE}, headers={"If-None-Match": answer.headers["ETag"]}
        )

    assert port != another
    assert [LIVE] == [row["ticker"] for row in answer.json()["markets"]]
    assert (200, b"") == (head.status_code, head.content)
    assert (304, b"") == (again.status_code, again.content)


async def test_busy_port_is_one_clear_error() -> None:
    """The start fails with the port and what to do, and leaves nothing behind."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with trio.open_nursery() as nursery:
            with pytest.raises(SettingsError, match=f"port {port} of 127.0.0.1 is in use"):
                await nursery.start(serve, make_app(filled_store()[0]), HttpOptions(port=port))


@pytest.mark.parametrize(
    ("host", "words"), [("h" * 64, "no address"), ("192.0.2.1", "cannot be listened on")]
)
async def test_impossible_address_is_one_clear_error(host: str, words: str) -> None:
    """A host that is none, or not ours, is told apart from a busy port."""
    async with trio.open_nursery() as nursery:
        with pytest.raises(SettingsError, match=words):
            await nursery.start(serve, make_app(filled_store()[0]), HttpOptions(host=host, port=0))


async def test_port_can_be_taken_again_at_once() -> None:
    """A stop gives the port back, also with connections that were open."""
    app = make_app(filled_store()[0])
    with trio.fail_after(20):
        async with running(app) as (host, port), await asked((host, port), "/healthz") as stream:
            await begun_reading(stream)
        async with running(app, port=port) as again:
            assert (host, port) == again


@pytest.mark.parametrize(
    ("max_head_bytes", "count", "status"),
    [(131_072, 3_300, 200), (131_072, 6_000, 431), (524_288, 6_000, 200)],
)
async def test_length_of_a_url(max_head_bytes: int, count: int, status: int) -> None:
    """
    Thousands of tickers fit a URL, which the parser's own default of 16 KiB would refuse.

    Beyond max_head_bytes it is the parser that answers, before any handler. It reads 64 KiB at
    once, so a URL must pass the limit by more than that to be found too long for certain.
    """
    tickers = ",".join(
        f"KXSOMELONGEVENTNAME-26DEC01-NAME-T{number}" for number in range(1_000, 1_000 + count)
    )
    options = {"max_head_bytes": max_head_bytes}
    async with (
        running(make_app(filled_store()[0]), **options) as address,
        await asked(address, f"/v1/tops?tickers={tickers}") as stream,
    ):
        received = await begun_reading(stream)

    assert received.startswith(b"HTTP/1.1 %d" % status)


async def test_idle_connections_do_not_hold_up_a_stop() -> None:
    """Neither one that never asked nor one kept alive is waited for."""
    with trio.fail_after(20):
        async with running(make_app(filled_store()[0])) as address:
            silent = await trio.open_tcp_stream(*address)
            kept = await asked(address, "/healthz")
            await begun_reading(kept)

        async with silent, kept:
            assert b"" == await silent.receive_some()


async def test_stop_lets_an_answer_under_way_finish() -> None:
    """What was asked before the stop is answered whole."""
    app = make_app(filled_store()[0])
    entered, release = trio.Event(), trio.Event()

    @app.get("/slow")
    async def slow() -> Response:
        entered.set()
        await release.wait()
        return Response(b"whole", 200)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery, running(app) as address:
            stream = await asked(address, "/slow")
            await entered.wait()

            async def release_later() -> None:
                # The server no longer listens once it is stopping.
                while True:
                    try:
                        await (await trio.open_tcp_stream(*address)).aclose()
                    except OSError:
                        break
                release.set()

            nursery.start_soon(release_later)
        received = b"".join([chunk async for chunk in stream])
        await stream.aclose()

    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"whole")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
async def test_stuck_client_does_not_hold_up_a_stop(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """A client that reads nothing of a huge answer is cut once the grace is over; half a request too."""
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with trio.fail_after(20):
        async with running(app_with_huge_answer(), host=host, drain_ms=50) as (_, port):
            address = ("127.0.0.1" if host == "0.0.0.0" else host, port)
            stuck = await asked(address, "/huge")
            await begun_reading(stuck)
            half = await trio.open_tcp_stream(*address)
            await half.send_all(b"POST /v1/tops HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")

        await stuck.aclose()
        await half.aclose()

    assert "left 50 ms after the stop" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
async def test_stuck_client_is_disconnected_and_others_are_served() -> None:
    """
    While one client reads nothing others are answered, and the kernel ends the stuck connection.

    The kernel tells the server only; it shows in a stop that would wait a minute for that client.
    """
    with trio.fail_after(8):  # less than the default of stuck_client_ms
        async with running(app_with_huge_answer(), stuck_client_ms=200) as (host, port):
            stuck = await asked((host, port), "/huge")
            await begun_reading(stuck)
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"http://{host}:{port}/healthz")

        await stuck.aclose()

    assert 200 == answer.status_code


async def test_idle_connection_is_closed_in_time() -> None:
    """A connection that asks nothing more is closed after keep_alive_ms."""
    with trio.fail_after(20):
        async with running(make_app(filled_store()[0]), keep_alive_ms=100) as address:
            kept = await asked(address, "/healthz")
            async with kept:
                received = b"".join([chunk async for chunk in kept])

    assert received.startswith(b"HTTP/1.1 200")


async def test_body_that_does_not_arrive_is_given_up() -> None:
    """A client that sends half a body is told so after stuck_client_ms."""
    with trio.fail_after(8):  # less than the default of stuck_client_ms
        app = make_app(filled_store()[0], HttpOptions(stuck_client_ms=200))
        async with running(app) as address:
            stream = await trio.open_tcp_stream(*address)
            async with stream:
                await stream.send_all(b"POST /v1/tops HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
                received = await begun_reading(stream)

    assert received.startswith(b"HTTP/1.1 408")


async def test_server_runs_in_a_thread_of_its_own() -> None:
    """Nothing in it needs the main thread."""

    def in_thread() -> int:
        async def main() -> int:
            async with running(make_app(filled_store()[0])) as (host, port), httpx.AsyncClient() as client:
                return (await client.get(f"http://{host}:{port}/readyz")).status_code
            raise AssertionError

        return trio.run(main)

    assert 503 == await trio.to_thread.run_sync(in_thread)
