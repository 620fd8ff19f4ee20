"""The listener, over real sockets."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from kalshibook.errors import SettingsError
from kalshibook.store import BookStore
from kalshibook.stream import listener
from kalshibook.stream.hub import Client
from kalshibook.stream.listener import StreamServer, refuse
from kalshibook.stream.options import StreamOptions
from kalshibook.stream.socket import Handshake
from tests.store.builders import TICKER, Script
from tests.stream.market import FoldedBook, Market, decimals
from tests.stream.raw import PATH, RawClient, masked

HOUR = 3_600.0


@asynccontextmanager
async def serving(store: BookStore, **options: Any) -> AsyncIterator[StreamServer]:
    """Serve on a free port during the block."""
    server = StreamServer(store, StreamOptions(port=0, **options))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        nursery.cancel_scope.cancel()


class Clients:
    """Clients over TCP, hung up at the end of the test."""

    def __init__(self) -> None:
        self.streams: list[trio.SocketStream] = []

    async def connect(self, server: StreamServer, *, receive_buffer: int | None = None) -> RawClient:
        """Connect, with a receive buffer of a chosen size."""
        sock = trio.socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(server.addresses[0])
        stream = trio.SocketStream(sock)
        self.streams.append(stream)
        return RawClient(stream)

    async def open(self, server: StreamServer, *, receive_buffer: int | None = None) -> RawClient:
        """Connect and shake hands."""
        client = await self.connect(server, receive_buffer=receive_buffer)
        assert 101 == await client.handshake()
        return client


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    """Yield the clients of a test."""
    clients = Clients()
    yield clients
    for stream in clients.streams:
        await trio.aclose_forcefully(stream)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that another side of a socket causes."""
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.002)


async def reset(client: RawClient) -> None:
    """Vanish without a close frame, as a killed process behind a firewall does."""
    assert isinstance(client.stream, trio.SocketStream)
    client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await client.stream.aclose()


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(
    ("status", "path", "origin", "host", "origins"),
    [
        (None, PATH, None, "example.org:8001", ()),
        (None, PATH + "?debug=1", None, "example.org:8001", ()),
        (404, "/", None, "example.org:8001", ()),
        (404, PATH + "/", None, "example.org:8001", ()),
        (404, "/", "http://example.org", "example.org", ("*",)),
        (None, PATH, "http://example.org:8000", "example.org:8001", ()),
        (None, PATH, "https://EXAMPLE.org", "example.org", ()),
        (None, PATH, "http://[::1]:8000", "[::1]:8001", ()),
        (403, PATH, "https://evil.example", "example.org", ()),
        (403, PATH, "null", "example.org", ()),
        (403, PATH, "", "example.org", ()),
        (403, PATH, "http://[broken", "[broken", ()),
        (None, PATH, "https://page.example", "example.org", ("https://page.example",)),
        (403, PATH, "http://page.example", "example.org", ("https://page.example",)),
        (None, PATH, "null", "example.org", ("*",)),
    ],
)
def test_where_a_handshake_may_go_and_come_from(
    status: int | None, path: str, origin: str | None, host: str, origins: tuple[str, ...]
) -> None:
    """One path; pages of the same host, of listed origins, or no page at all."""
    refusal = refuse(Handshake(path, host, origin), StreamOptions(origins=origins))

    assert status == (None if refusal is None else refusal.status)


@pytest.mark.trio
async def test_refusals_are_answered_over_http(clients: Clients) -> None:
    """A wrong path, a wrong origin and one client too many each get their status and a reason."""
    async with serving(BookStore(), max_connections=1) as server:
        lost, page, first, second = [await clients.connect(server) for _ in range(4)]

        assert 404 == await lost.handshake("/elsewhere")
        assert PATH.encode() in await lost.rest()
        assert 403 == await page.handshake(Origin="https://evil.example")
        assert b"stream.origins" in await page.rest()
        assert 101 == await first.handshake(Origin="http://localhost:3000")
        assert 503 == await second.handshake()
        assert b"try again later" in await second.rest()
        await reset(first)
        await eventually(lambda: server.statistics().hub.clients == 0)
        assert 101 == await (await clients.connect(server)).handshake()
        assert {404: 1, 403: 1, 503: 1} == server.statistics().refused


@pytest.mark.trio
async def test_frames_leave_at_once(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepted sockets do not hold small writes back (Nagle), nor many unsent ones."""
    streams: list[trio.SocketStream] = []

    async def look(stream: trio.SocketStream, *_: object) -> None:
        streams.append(stream)
        assert 1 == stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert 16_384 >= int(stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT))

    monkeypatch.setattr(listener, "serve_socket", look)
    async with serving(BookStore()) as server:
        await (await clients.connect(server)).rest()

    assert 1 == len(streams)
    assert {} == server.statistics().ended


@pytest.mark.trio
async def test_a_stuck_client_harms_itself_only(clients: Clients) -> None:
    """Beside a client that stopped reading another one gets every change; what the first misses is merged."""
    store = BookStore()
    tickers = [f"KXFROG-{number}" for number in range(300)]
    script, market, book = Script(store), Market(store), FoldedBook()
    market.snapshot()
    for ticker in tickers:
        script.snapshot({4_000: 100}, {5_000: 100}, ticker=ticker)

    async with serving(store, send_timeout_s=HOUR) as server:
        stuck, good = await clients.open(server, receive_buffer=4_096), await clients.open(server)
        await stuck.command(1, "subscribe", channels=["top_of_book"], market_prefixes=["KXFROG-"])
        await good.command(1, "subscribe", channels=["orderbook_delta"], market_ticker=TICKER)
        assert "subscribed" == (await good.frame()).json["type"]
        numbers = []
        with trio.fail_after(30):
            for step in range(40):
                for ticker in tickers:
                    script.delta("yes", 4_000, 100, ticker=ticker)
                market.moves(5) if step < 39 else market.finish()
                while not book.sides or book.deltas < 5 * min(step + 1, 39):
                    frame = (await good.frame()).json
                    numbers.append(frame["seq"])
                    book.apply(frame)
            while not book.finished:
                book.apply((await good.frame()).json)

        assert list(range(1, 5 * 39 + 2)) == numbers
        assert decimals(store.book(TICKER)) == book.sides
        assert 2 == server.statistics().open
        assert 300 * 20 < server.statistics().hub.conflated
        assert server.statistics().hub.waiting <= 300 + 5


@pytest.mark.trio
async def test_newest_states_are_written_piece_by_piece(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many markets change at once, what waits for a client that reads is a part of them."""
    monkeypatch.setattr(listener, "_ROUTED_AT_ONCE", 50)
    monkeypatch.setattr(listener, "_HANDED_AT_ONCE", 110)
    store = BookStore()
    script = Script(store)
    tickers = [f"KXFROG-{number}" for number in range(1_000)]
    for ticker in tickers:
        script.snapshot({4_000: 100}, {}, ticker=ticker)

    async with serving(store) as server:
        client = await clients.open(server)
        await client.command(1, "subscribe", channels=["top_of_book"])
        for _ in range(1_001):
            await client.frame()
        waiting: list[int] = []
        real = Client.take

        def take(self: Client, limit_bytes: int, now_us: int) -> bytes:
            waiting.append(self.backlog)
            return real(self, limit_bytes, now_us)

        monkeypatch.setattr(Client, "take", take)
        for ticker in tickers:
            script.delta("yes", 4_000, 1, ticker=ticker)
        with trio.fail_after(30):
            heard = [(await client.frame()).json["msg"]["market_ticker"] for _ in tickers]

    assert tickers == heard
    # Eleven markets are a block, at ten for each, and five blocks the first that are fifty.
    assert 55 == max(waiting)


@pytest.mark.trio
async def test_a_stuck_client_is_cut_and_leaves_nothing(clients: Clients) -> None:
    """Over a real socket too the send deadline fires, with the kernel's buffers full."""
    store = BookStore()
    script = Script(store)
    tickers = [f"KXFROG-{number}" for number in range(300)]
    for ticker in tickers:
        script.snapshot({4_000: 100}, {5_000: 100}, ticker=ticker)

    async with serving(store, send_timeout_s=0.2) as server:
        stuck = await clients.open(server, receive_buffer=4_096)
        await stuck.command(1, "subscribe", channels=["top_of_book"], market_prefixes=["KXFROG-"])
        with trio.fail_after(20):
            while server.statistics().open:
                for ticker in tickers:
                    script.delta("yes", 4_000, 100, ticker=ticker)
                await trio.sleep(0.01)

        assert {"slow_write": 1} == server.statistics().ended
        assert 0 == server.statistics().hub.routes == server.statistics().hub.clients
        assert {"client": 1} == {kind: count for kind, count in store.incidents.counts().items() if count}


@pytest.mark.trio
async def test_a_thousand_visits_leave_nothing(clients: Clients) -> None:
    """However clients leave, no task, no route and no descriptor stays behind."""
    store = BookStore()
    Script(store).snapshot({4_000: 100}, {5_000: 100})

    async def visit(server: StreamServer, number: int) -> None:
        client = await clients.connect(server)
        way = number % 5
        if way == 0:
            await client.stream.aclose()
            return
        await client.handshake()
        await client.command(
            1, "subscribe", channels=["top_of_book", "orderbook_delta"], market_tickers=[TICKER]
        )
        await client.frame()
        if way == 1:
            await client.stream.send_all(masked(8, (1000).to_bytes(2, "big")))
            await client.rest()
        elif way == 2:
            await reset(client)
        elif way == 3:
            await client.stream.send_all(b"\xff\xff\xff\xff")
            await client.rest()
        await client.stream.aclose()

    async with serving(store) as server:
        await visit(server, 1)
        await eventually(lambda: server.statistics().open == 0)
        tasks, descriptors = trio.lowlevel.current_statistics().tasks_living, _descriptors()
        for first in range(0, 1_000, 50):
            async with trio.open_nursery() as nursery:
                for number in range(first, first + 50):
                    nursery.start_soon(visit, server, number)
        await eventually(lambda: server.statistics().open == 0)
        hub = server.statistics().hub

        assert 801 == server.statistics().accepted
        assert (0, 0, 0) == (hub.clients, hub.routes, hub.waiting)
        assert {0} == set(hub.subscriptions.values())
        # At the beginning the first visit may have had a task that was still about to end.
        await eventually(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)
        assert _descriptors() <= descriptors


@pytest.mark.trio
async def test_the_reason_arrives_though_bytes_are_left_unread(clients: Clients) -> None:
    """A client that is still sending its oversize message finds the close frame, not a reset."""
    async with serving(BookStore(), max_message_bytes=2_048) as server:
        client = await clients.open(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.stream.send_all, masked(1, b"x" * 4_000_000))

            assert 1009 == (await client.frame()).close[0]
        await client.stream.aclose()
        await eventually(lambda: server.statistics().open == 0)


@pytest.mark.trio
async def test_a_stop_is_not_held_up_by_a_stuck_client(clients: Clients) -> None:
    """With a write that would last an hour under way, the server ends after its stop timeout."""
    store = BookStore()
    script = Script(store)
    tickers = [f"KXFROG-{number}" for number in range(300)]
    for ticker in tickers:
        script.snapshot({4_000: 100}, {5_000: 100}, ticker=ticker)

    with trio.fail_after(20):
        async with serving(store, send_timeout_s=HOUR, close_timeout_s=HOUR, stop_timeout_s=0.3) as server:
            stuck, good = await clients.open(server, receive_buffer=4_096), await clients.open(server)
            await stuck.command(1, "subscribe", channels=["top_of_book"], market_prefixes=["KXFROG-"])
            while server.statistics().hub.waiting == 0:
                for ticker in tickers:
                    script.delta("yes", 4_000, 100, ticker=ticker)
                await trio.sleep(0.01)

    assert (1001, "the server stops") == (await good.frame()).close
    assert {"stop": 2} == server.statistics().ended
    assert 0 == server.statistics().open


@pytest.mark.trio
async def test_a_busy_port_is_one_clear_error() -> None:
    """The second server on a port says which port, and what to do."""
    async with serving(BookStore()) as server:
        port = server.addresses[0][1]

        with pytest.raises(SettingsError, match=f"port {port} of 127.0.0.1 is in use.*stream.port"):
            await StreamServer(BookStore(), StreamOptions(port=port)).run()


@pytest.mark.trio
async def test_an_impossible_host_is_one_clear_error() -> None:
    """An address that is not this machine's is told as such."""
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1 cannot be listened on"):
        await StreamServer(BookStore(), StreamOptions(host="192.0.2.1", port=0)).run()


@pytest.mark.trio
async def test_counts_are_flat_numbers(clients: Clients) -> None:
    """What metrics export is names and integers."""
    async with serving(BookStore()) as server:
        client = await clients.open(server)
        await client.command(1, "nonsense")
        await eventually(lambda: server.statistics().hub.errors != {})
        counts = server.counts()

    assert {int} == {type(count) for count in counts.values()}
    assert (1, 1, 1) == (counts["open"], counts["accepted"], counts["errors_5"])
