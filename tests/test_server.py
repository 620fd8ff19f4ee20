"""Both servers together, in a Trio program and in a thread."""

import asyncio
import json
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
import trio
from websockets.asyncio.client import connect as connect_asyncio
from websockets.sync.client import connect

from kalshibook.errors import SettingsError
from kalshibook.feeds.base import FeedHealth, FeedState
from kalshibook.http.options import HttpOptions
from kalshibook.server import BookServer, ServerAddresses, serve_in_thread
from kalshibook.store import BookStore
from kalshibook.stream.options import StreamOptions
from tests.store.builders import TICKER, Script

HTTP, STREAM = HttpOptions(port=0), StreamOptions(port=0)
SUBSCRIBE = json.dumps(
    {"id": 1, "cmd": "subscribe", "params": {"channels": ["top_of_book"], "market_ticker": TICKER}}
)


class Feed:
    """A feed that says one thing."""

    def __init__(self, state: FeedState) -> None:
        self.state = state

    def health(self) -> FeedHealth:
        """Say it."""
        return FeedHealth(name="test", state=self.state, reason="because", since_us=0)


@pytest.fixture
def script() -> Script:
    script = Script(BookStore())
    script.snapshot({4_000: 100}, {5_000: 100})
    return script


@pytest.fixture
def store(script: Script) -> BookStore:
    return script.store


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def _get(url: str | None) -> tuple[int, bytes]:
    assert url is not None
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def _first_top(url: str | None) -> str:
    assert url is not None
    with connect(url) as client:
        client.send(SUBSCRIBE)
        client.recv(timeout=10)
        top: str = json.loads(client.recv(timeout=10))["msg"]["yes_bid_dollars"]
    return top


@pytest.mark.trio
async def test_threads_take_turns_faster_while_it_serves(store: BookStore) -> None:
    """The switch interval is the one that is set, for as long as the server runs."""
    before = sys.getswitchinterval()
    async with BookServer(store, http=HTTP, stream=STREAM, switch_interval_us=700):
        assert 0.0007 == pytest.approx(sys.getswitchinterval())

    assert before == sys.getswitchinterval()


@pytest.mark.trio
async def test_it_serves_in_a_nursery(store: BookStore, nursery: trio.Nursery) -> None:
    """`nursery.start` returns the server when both ports answer."""
    server = await nursery.start(BookServer(store, http=HTTP, stream=STREAM).run)

    status, _ = await trio.to_thread.run_sync(_get, f"{server.addresses.http_url}/v1/books/{TICKER}")
    assert 200 == status
    assert "0.4000" == await trio.to_thread.run_sync(_first_top, server.addresses.stream_url)
    nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_it_serves_during_a_block(store: BookStore) -> None:
    """`async with` starts it, and it is gone afterwards."""
    async with BookServer(store, http=HTTP, stream=STREAM) as server:
        http, stream = server.addresses.http, server.addresses.stream

    for address in (http, stream):
        assert address is not None
        with pytest.raises(ConnectionRefusedError):
            await trio.to_thread.run_sync(socket.create_connection, address)


@pytest.mark.trio
async def test_an_error_in_the_block_comes_out_as_it_is(store: BookStore) -> None:
    """The user's exception is not wrapped into a group of ours."""
    with pytest.raises(ZeroDivisionError):
        async with BookServer(store, http=None, stream=STREAM):
            raise ZeroDivisionError


@pytest.mark.trio
async def test_a_cancelled_block_is_cancelled(store: BookStore) -> None:
    """A deadline around the block works as everywhere in Trio."""
    with trio.move_on_after(0.05) as scope:
        async with BookServer(store, http=None, stream=STREAM):
            await trio.sleep_forever()

    assert scope.cancelled_caught


@pytest.mark.trio
async def test_a_failing_server_ends_the_block(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of ours does not leave the block running without a server."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("kalshibook.stream.hub.Hub.deliver", fail)
    with pytest.raises(BaseExceptionGroup) as failure, trio.fail_after(20):  # noqa: PT012 - nothing else raises
        async with BookServer(script.store, http=None, stream=STREAM):
            script.delta("yes", 4_000, 100)
            await trio.sleep_forever()

    assert failure.group_contains(ZeroDivisionError)


@pytest.mark.trio
@pytest.mark.parametrize("part", ["http", "stream"])
async def test_a_busy_port_is_one_clear_error(store: BookStore, taken_port: int, part: str) -> None:
    """The port that is taken is named, in an error of its own, and nothing is left running."""
    http = HttpOptions(port=taken_port) if part == "http" else HTTP
    stream = StreamOptions(port=taken_port) if part == "stream" else STREAM

    with pytest.raises(SettingsError, match=f"port {taken_port} .* in use .*{part}.port"):
        async with BookServer(store, http=http, stream=stream):
            pass
    async with trio.open_nursery() as nursery:
        with pytest.raises(SettingsError, match=f"port {taken_port} .* in use .*{part}.port"):
            await nursery.start(BookServer(store, http=http, stream=stream).run)
    assert 0 == store.statistics().readers


def test_a_thread_serves_a_plain_program(store: BookStore) -> None:
    """During the block both ports answer; afterwards the thread and the reader are gone."""
    threads = threading.active_count()

    with serve_in_thread(store, http=HTTP, stream=STREAM) as server:
        addresses = server.addresses
        assert 200 == _get(f"{addresses.http_url}/healthz")[0]
        assert "0.4000" == _first_top(addresses.stream_url)

    assert threads == threading.active_count()
    assert 0 == store.statistics().readers


def test_a_thread_serves_an_asyncio_program(script: Script) -> None:
    """An asyncio program reads its own store's changes over our socket."""

    async def main(url: str) -> str:
        async with connect_asyncio(url) as client:
            await client.send(SUBSCRIBE)
            for _ in range(2):
                await client.recv()
            await asyncio.to_thread(script.delta, "yes", 4_100, 100)
            top: str = json.loads(await asyncio.wait_for(client.recv(), 10))["msg"]["yes_bid_dollars"]
        return top

    with serve_in_thread(script.store, http=None, stream=STREAM) as server:
        assert server.addresses.stream_url is not None
        assert "0.4100" == asyncio.run(main(server.addresses.stream_url))


@pytest.mark.parametrize("part", ["http", "stream"])
def test_a_thread_that_cannot_start_says_why(store: BookStore, taken_port: int, part: str) -> None:
    """The error of the thread is raised to the caller, and no thread stays."""
    threads = threading.active_count()
    http = HttpOptions(port=taken_port) if part == "http" else HTTP
    stream = StreamOptions(port=taken_port) if part == "stream" else STREAM

    with (
        pytest.raises(SettingsError, match=f"port {taken_port} .* in use .*{part}.port"),
        serve_in_thread(store, http=http, stream=stream),
    ):
        pass

    assert threads == threading.active_count()


def test_a_thread_that_fails_later_says_so_at_the_end(
    script: Script, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that died is logged when it dies and raised when the block ends."""
    failed = threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise ZeroDivisionError

    monkeypatch.setattr("kalshibook.stream.hub.Hub.deliver", fail)
    server = serve_in_thread(script.store, http=None, stream=STREAM)
    with pytest.raises(ExceptionGroup) as failure, server:  # noqa: PT012 - nothing else raises
        script.delta("yes", 4_000, 100)
        assert failed.wait(10)

    assert failure.group_contains(ZeroDivisionError)
    assert "serves no more" in caplog.text


def test_two_servers_of_one_store(store: BookStore) -> None:
    """Servers in two threads do not know of each other, but for the switch interval they share."""
    before = sys.getswitchinterval()

    with serve_in_thread(store, http=HTTP, stream=None) as rest:
        with serve_in_thread(store, http=None, stream=STREAM) as sockets:
            assert (None, None) == (rest.addresses.stream, sockets.addresses.http)
            assert "0.4000" == _first_top(sockets.addresses.stream_url)
            assert 0.0005 == pytest.approx(sys.getswitchinterval())
        assert 200 == _get(f"{rest.addresses.http_url}/healthz")[0]
        assert 0.0005 == pytest.approx(sys.getswitchinterval())

    assert before == pytest.approx(sys.getswitchinterval())


@pytest.mark.parametrize(("state", "status"), [(FeedState.LIVE, 200), (FeedState.BROKER_DOWN, 503)])
def test_readiness_asks_the_feeds(store: BookStore, state: FeedState, status: int) -> None:
    """A feed that is not well turns `/readyz` red, with its reason."""
    with store.writer() as writer:
        writer.set_ready(True)
    with serve_in_thread(store, http=HTTP, stream=STREAM, feeds=[Feed(state)]) as server:
        answer = _get(f"{server.addresses.http_url}/readyz")

    assert status == answer[0]
    assert (b"feed test is broker_down: because" in answer[1]) is (status == 503)


def test_metrics_count_the_stream_server(store: BookStore) -> None:
    """REST exports the counts of the WebSocket server beside it."""
    with serve_in_thread(store, http=HTTP, stream=STREAM) as server:
        _first_top(server.addresses.stream_url)
        metrics = _get(f"{server.addresses.http_url}/metrics")[1]

    assert b'kalshibook_stream{name="accepted"} 1.0' in metrics


def test_addresses_are_unknown_before_the_start(store: BookStore) -> None:
    """Asking too early is an error, not a wrong port."""
    with pytest.raises(RuntimeError, match="has not started"):
        _ = BookServer(store).addresses


def test_addresses_as_urls() -> None:
    """IPv6 hosts stand in brackets."""
    addresses = ServerAddresses(("::1", 80), ("127.0.0.1", 81), "/trade-api/ws/v2")

    assert ("http://[::1]:80", "ws://127.0.0.1:81/trade-api/ws/v2") == (
        addresses.http_url,
        addresses.stream_url,
    )
