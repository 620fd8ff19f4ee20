"""What settings of the WebSocket server change, each away from its default."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kalshibook.errors import SettingsError
from kalshibook.store import BookStore
from kalshibook.stream.listener import refuse
from kalshibook.stream.options import StreamOptions
from kalshibook.stream.socket import Handshake
from tests.stream.stage import T40, Stage
from tests.stream.test_connection import NEVER, staged
from tests.stream.test_listener import serving


def test_path() -> None:
    """Handshakes go to the path that is set, and to no other."""
    options = StreamOptions(path="/books")

    assert refuse(Handshake("/books", "localhost", None), options) is None
    refusal = refuse(Handshake("/trade-api/ws/v2", "localhost", None), options)
    assert refusal is not None
    assert 404 == refusal.status


@pytest.mark.trio
async def test_port() -> None:
    """Port 0 gives each server a free one."""
    async with serving(BookStore()) as one, serving(BookStore()) as other:
        assert one.addresses != other.addresses


def test_max_prefixes() -> None:
    """One prefix more than allowed is refused with 26, at once or added later."""
    user = Stage(max_prefixes=1).connect()

    (both,) = user.ask("subscribe", market_prefixes=["KXFROG-", "KXTOAD-"])
    user.ask("subscribe", market_prefixes=["KXFROG-"])
    (added,) = user.ask("update_subscription", sid=1, action="add_markets", market_prefixes=["KXTOAD-"])

    assert [26, 26] == [both["msg"]["code"], added["msg"]["code"]]


@pytest.mark.parametrize(("capacity_bytes", "is_kept"), [(0, False), (1_000_000, True)])
def test_snapshot_cache_bytes(capacity_bytes: int, is_kept: bool) -> None:
    """What one client was sent is kept for the next, or not."""
    stage = Stage(snapshot_cache_bytes=capacity_bytes)
    stage.script.snapshot({4_000: 100}, {})
    stage.connect().ask("subscribe", channels=["orderbook_delta"], market_ticker=T40)

    assert is_kept == bool(stage.hub._shared.snapshots._size)


@pytest.mark.trio
@pytest.mark.parametrize(("capacity", "conflated"), [(2, 9), (100, 0)])
async def test_change_capacity(capacity: int, conflated: int, autojump_clock: MockClock) -> None:
    """Changes of one market that come faster than they are taken wait one by one up to the limit."""
    async with staged(change_capacity=capacity) as stage:
        for _ in range(10):
            stage.script.snapshot({4_000: 100}, {})
        await trio.sleep(1)
        changes = stage.server.statistics().changes

        assert changes is not None
        assert conflated == changes.conflated


@pytest.mark.trio
@pytest.mark.parametrize(("batches", "is_full"), [(1, True), (8, False)])
async def test_change_batches(batches: int, is_full: bool, autojump_clock: MockClock) -> None:
    """A channel with room for few batches gives back what more come before clients are served."""
    async with staged(change_batches=batches) as stage:
        await trio.sleep(1)
        changes = stage.server._changes
        assert changes is not None
        for _ in range(5):
            stage.script.snapshot({4_000: 100}, {})
            changes._pump()

        assert is_full == bool(changes.statistics().given_back)


@pytest.mark.trio
async def test_handshake_timeout(autojump_clock: MockClock) -> None:
    """A connection without a request is held just so long."""
    async with staged(handshake_timeout_s=2) as stage:
        client = stage.client()
        await client.stream.send_all(b"GET")
        await trio.sleep(1.9)
        assert 1 == stage.server.statistics().open
        await trio.sleep(1.2)

        assert 0 == stage.server.statistics().open


@pytest.mark.trio
async def test_send_timeout(autojump_clock: MockClock) -> None:
    """A write that is not taken ends just then."""
    async with staged(send_timeout_s=2, ping_interval_s=NEVER) as stage:
        client = stage.client(lockstep=True)
        await client.handshake()
        await client.command(1, "list_subscriptions")
        await trio.sleep(1.9)
        assert 1 == stage.server.statistics().open
        await trio.sleep(0.2)

        assert {"slow_write": 1} == stage.ended()


@pytest.mark.trio
async def test_drain_timeout(autojump_clock: MockClock) -> None:
    """A backlog of which a client takes a part every 4 s is borne just so long."""
    tickers = [f"KXFROG-{number}" for number in range(9)]
    async with staged(drain_timeout_s=11, ping_interval_s=NEVER, write_bytes=1) as stage:
        for ticker in tickers:
            stage.script.snapshot({4_000: 100}, {}, ticker=ticker)
        client = stage.client(lockstep=True)
        await client.handshake()
        await client.command(1, "subscribe", channels=["top_of_book"], market_tickers=tickers)
        begun = trio.current_time()
        frame = await client.frame()
        while frame.opcode != 8:
            await trio.sleep(4)
            frame = await client.frame()

        assert 1008 == frame.close[0]
        assert 11 < trio.current_time() - begun <= 20
        await client.hang_up()
        assert {"slow_backlog": 1} == stage.ended()


@pytest.mark.trio
async def test_close_timeout(autojump_clock: MockClock) -> None:
    """A close frame without an answer is waited for just so long, and so is the hanging up."""
    async with staged(ping_interval_s=10, pong_timeout_s=5, close_timeout_s=3) as stage:
        await stage.client().handshake()
        await trio.sleep(17.9)
        assert 1 == stage.server.statistics().open
        await trio.sleep(3.2)

        assert 0 == stage.server.statistics().open


@pytest.mark.trio
async def test_stop_timeout(autojump_clock: MockClock) -> None:
    """A client that does not listen holds up a stop just so long."""
    async with staged(stop_timeout_s=7, send_timeout_s=NEVER, ping_interval_s=NEVER) as stage:
        client = stage.client(lockstep=True)
        await client.handshake()
        await client.command(1, "list_subscriptions")
        await trio.sleep(1)
        stopped = trio.current_time()

    assert 7 == pytest.approx(trio.current_time() - stopped)


@pytest.mark.trio
async def test_reply_backlog_bytes(autojump_clock: MockClock) -> None:
    """Replies that nobody reads wait up to the limit; then the client is told why it is closed."""
    async with staged(ping_interval_s=NEVER, send_timeout_s=60, reply_backlog_bytes=500) as stage:
        client = stage.client(lockstep=True)
        await client.handshake()
        for number in range(1, 30):
            await client.command(number, "list_subscriptions")
        while (frame := await client.frame()).opcode != 8:
            pass

        assert (1008, "commands are sent but replies are not read") == frame.close


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("port", 65_536, "0 to 65535"),
        ("path", "ws", "begins with '/'"),
        ("send_timeout_s", 0, "at least 0.001"),
        ("gather_ms", float("nan"), "at least 0"),
        ("max_connections", 0, "at least 1"),
        ("max_message_bytes", 1_023, "at least 1024"),
        ("snapshot_cache_bytes", -1, "at least 0"),
    ],
)
def test_unfit_values_are_named(name: str, value: Any, words: str) -> None:
    """A value that cannot work is refused with its name and what would."""
    with pytest.raises(SettingsError, match=rf"stream\.{name} is .*{words}"):
        StreamOptions(**{name: value})
