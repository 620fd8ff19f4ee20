"""A client's tasks, over streams in memory and a clock that jumps: every deadline to the second."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

from kalshibook.store import BookStore, IncidentKind
from kalshibook.stream.hub import Client
from kalshibook.stream.listener import StreamServer
from kalshibook.stream.options import StreamOptions
from tests.store.builders import TICKER, Script
from tests.stream.raw import RawClient, masked

NEVER = 1e6


class Stage:
    """A server without a listener, whose clients are streams in memory."""

    def __init__(self, nursery: trio.Nursery, store: BookStore, server: StreamServer) -> None:
        self.nursery = nursery
        self.store = store
        self.server = server
        self.script = Script(store)

    def client(self, *, lockstep: bool = False) -> RawClient:
        """Connect; in lockstep the server's write lasts until the client has read it."""
        ours, theirs = lockstep_stream_pair() if lockstep else memory_stream_pair()
        self.nursery.start_soon(self.server.serve_client, theirs)
        return RawClient(ours)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[RawClient]:
        """Connect to a real socket, which takes what is written as long as there is room."""
        async with await trio.open_tcp_stream(*self.server.addresses[0]) as stream:
            yield RawClient(stream)

    def ended(self) -> dict[str, int]:
        """Return how connections ended."""
        return self.server.statistics().ended


@asynccontextmanager
async def staged(**options: Any) -> AsyncIterator[Stage]:
    """Serve with these options, and find nothing left at the end."""
    store = BookStore()
    server = StreamServer(store, StreamOptions(port=0, **options))
    async with trio.open_nursery() as nursery:
        stage = Stage(nursery, store, server)
        await nursery.start(server.run)
        yield stage
        nursery.cancel_scope.cancel()
    assert 0 == server.statistics().open
    assert 0 == server.statistics().hub.clients == server.statistics().hub.routes


@pytest.mark.trio
async def test_heartbeats_every_ten_seconds(autojump_clock: MockClock) -> None:
    """A ping with the payload `heartbeat` comes every 10 s as long as it is answered."""
    async with staged() as stage:
        client = stage.client()
        assert 101 == await client.handshake()
        for beat in range(1, 4):
            frame = await client.frame()

            assert (9, b"heartbeat") == frame
            assert 10.0 * beat == pytest.approx(trio.current_time())
            await client.stream.send_all(masked(10, b"heartbeat"))


@pytest.mark.trio
async def test_a_missing_pong_cuts(autojump_clock: MockClock) -> None:
    """A client that does not answer a ping is closed with 1008 when the pong timeout is over."""
    async with staged(ping_interval_s=10, pong_timeout_s=7) as stage:
        client = stage.client()
        await client.handshake()
        await client.frame()

        assert (1008, "no pong within 7 s") == (await client.frame()).close
        assert 17.0 == pytest.approx(trio.current_time())
        await client.hang_up()
        assert {"no_pong": 1} == stage.ended()


@pytest.mark.trio
async def test_a_pong_of_something_else_does_not_count(autojump_clock: MockClock) -> None:
    """An unsolicited pong keeps nothing alive."""
    async with staged(ping_interval_s=10, pong_timeout_s=7) as stage:
        client = stage.client()
        await client.handshake()
        await client.frame()
        await client.stream.send_all(masked(10, b"something else"))

        assert 1008 == (await client.frame()).close[0]


@pytest.mark.trio
async def test_a_client_that_stops_reading_is_cut(autojump_clock: MockClock) -> None:
    """A write that is not taken ends after the send timeout, without a close frame after half a frame."""
    async with staged(send_timeout_s=5, ping_interval_s=NEVER) as stage:
        stage.script.snapshot({4_000: 100}, {5_000: 100})
        client = stage.client(lockstep=True)
        await client.handshake()
        await client.command(1, "subscribe", channels=["top_of_book"], market_tickers=[TICKER])
        begun = trio.current_time()
        await trio.sleep(4.9)
        assert 1 == stage.server.statistics().open
        await trio.sleep(0.2)

        assert 0 == stage.server.statistics().open
        assert {"slow_write": 1} == stage.ended()
        assert b"\x88" not in await client.rest()
        assert trio.current_time() - begun < 6
        assert [IncidentKind.CLIENT] == [incident.kind for incident in stage.store.incidents.recent(10)]


@pytest.mark.trio
async def test_a_client_that_pings_but_does_not_read_is_cut(autojump_clock: MockClock) -> None:
    """The answer to its ping has a deadline too."""
    async with staged(send_timeout_s=5, ping_interval_s=NEVER) as stage:
        client = stage.client(lockstep=True)
        await client.handshake()
        await client.stream.send_all(masked(9, b"are you there"))
        await trio.sleep(5.1)

        assert 0 == stage.server.statistics().open


@pytest.mark.trio
async def test_a_byte_a_second_is_too_slow(autojump_clock: MockClock) -> None:
    """A client that reads on, but by the byte, is cut like one that does not read."""
    async with staged(send_timeout_s=5, ping_interval_s=NEVER) as stage:
        stage.script.snapshot({4_000: 100}, {5_000: 100})
        client = stage.client(lockstep=True)
        await client.handshake()
        await client.command(1, "subscribe", channels=["top_of_book"], market_tickers=[TICKER])
        seconds = 0
        while stage.server.statistics().open:
            assert 1 == len(await client.stream.receive_some(1))
            await trio.sleep(1)
            seconds += 1

        assert 5 <= seconds <= 6
        assert {"slow_write": 1} == stage.ended()


@pytest.mark.trio
async def test_a_backlog_that_is_never_emptied_cuts(autojump_clock: MockClock) -> None:
    """A client that takes every write in time, but never all that waits, is closed with 1008."""
    tickers = [f"KXFROG-{number}" for number in range(20)]
    async with staged(send_timeout_s=5, drain_timeout_s=30, ping_interval_s=NEVER, write_bytes=1) as stage:
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

        assert (1008, "too slow: behind for 30 s") == frame.close
        assert 30 < trio.current_time() - begun <= 40
        await client.hang_up()
        assert {"slow_backlog": 1} == stage.ended()


@pytest.mark.trio
async def test_a_client_is_not_cut_for_the_servers_own_slowness(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that takes each write at once stays, though the server needs longer than it may be behind."""
    tickers = [f"KXFROG-{number}" for number in range(40)]
    take = Client.take

    def busy_take(client: Client, limit_bytes: int, now_us: int) -> bytes:
        mock_clock.jump(1)
        return take(client, limit_bytes, now_us)

    monkeypatch.setattr(Client, "take", busy_take)
    mock_clock.rate = 1.0  # so that what fails ends, too
    async with staged(drain_timeout_s=30, ping_interval_s=NEVER, write_bytes=1) as stage:
        for ticker in tickers:
            stage.script.snapshot({4_000: 100}, {}, ticker=ticker)
        async with stage.connected() as client:
            await client.handshake()
            await client.command(1, "subscribe", channels=["top_of_book"])
            assert "subscribed" == (await client.frame()).json["type"]
            for _ in tickers:
                assert "top_of_book" == (await client.frame()).json["type"]

        assert trio.current_time() > 30


@pytest.mark.trio
async def test_a_slow_client_is_told_what_was_merged(autojump_clock: MockClock) -> None:
    """What it was too slow for reaches it as one frame with the newest state."""
    async with staged(ping_interval_s=NEVER) as stage:
        stage.script.snapshot({4_000: 100}, {5_000: 100})
        client = stage.client(lockstep=True)
        await client.handshake()
        await client.command(1, "subscribe", channels=["top_of_book"], market_tickers=[TICKER])
        await trio.sleep(1)
        for _ in range(50):
            stage.script.delta("yes", 4_000, 100)
        await trio.sleep(1)
        frames = [(await client.frame()).json for _ in range(3)]

    assert ["subscribed", "top_of_book", "top_of_book"] == [frame["type"] for frame in frames]
    assert 50 == frames[2]["msg"]["merged"]
    assert "51.00" == frames[2]["msg"]["yes_bid_size_fp"]


@pytest.mark.trio
async def test_a_client_on_a_busy_stream_is_not_behind(autojump_clock: MockClock) -> None:
    """Whoever takes all that waits at each write stays, however long something waits without a pause."""
    async with staged(send_timeout_s=5, drain_timeout_s=30, ping_interval_s=NEVER) as stage:
        stage.script.snapshot({4_000: 100}, {})
        client = stage.client(lockstep=True)
        await client.handshake()
        await client.command(1, "subscribe", channels=["top_of_book"], market_tickers=[TICKER])
        await client.frame()
        for _ in range(40):
            stage.script.delta("yes", 4_000, 100)
            await trio.sleep(2)
            assert "top_of_book" == (await client.frame()).json["type"]

        assert 1 == stage.server.statistics().open


@pytest.mark.trio
async def test_silence_instead_of_a_handshake_is_cut(autojump_clock: MockClock) -> None:
    """A connection that asks for nothing is held for the handshake timeout only."""
    async with staged(handshake_timeout_s=5, close_timeout_s=1) as stage:
        client = stage.client()
        await client.stream.send_all(b"GET /trade-api/ws/v2 HTT")
        await trio.sleep(6.1)

        assert 0 == stage.server.statistics().open


@pytest.mark.trio
@pytest.mark.parametrize(
    "request_bytes",
    [b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not HTTP\r\n\r\n",
     b"GET /trade-api/ws/v2 HTTP/1.1\r\nHost: \xff\xfe\r\nConnection: \xff\r\n\r\n"],
    ids=["method", "tls", "bytes"],
)  # fmt: skip
async def test_garbage_instead_of_a_handshake_is_survived(
    request_bytes: bytes, autojump_clock: MockClock
) -> None:
    """Whatever comes first, the connection ends and is no failure of ours."""
    async with staged() as stage:
        client = stage.client()
        await client.stream.send_all(request_bytes)
        answer = await client.rest()

        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
        assert {} == stage.ended()


@pytest.mark.trio
async def test_a_connection_that_ends_before_its_handshake_is_gone_at_once(autojump_clock: MockClock) -> None:
    """A port scan is not held for the handshake timeout."""
    async with staged(handshake_timeout_s=3_600) as stage:
        client = stage.client()
        await client.stream.aclose()
        await trio.sleep(0.1)

        assert 0 == stage.server.statistics().open


@pytest.mark.trio
async def test_an_oversize_message_closes_with_1009(autojump_clock: MockClock) -> None:
    """A message over the limit is not read to its end."""
    async with staged(max_message_bytes=2_048) as stage:
        client = stage.client()
        await client.handshake()
        await client.stream.send_all(masked(1, b"x" * 2_049))

        assert 1009 == (await client.frame()).close[0]
        await client.hang_up()
        assert {"session": 1} == stage.ended()


@pytest.mark.trio
@pytest.mark.parametrize(
    ("code", "data"), [(1002, b"\xff\xff"), (1002, b"\x81\x01a"), (1007, masked(1, b"\xff"))]
)
async def test_broken_frames_close_with_their_code(code: int, data: bytes, autojump_clock: MockClock) -> None:
    """Unknown opcodes, frames without a mask and text that is no UTF-8 end the connection."""
    async with staged() as stage:
        client = stage.client()
        await client.handshake()
        await client.stream.send_all(data)

        assert code == (await client.frame()).close[0]
        await client.hang_up()
        assert {"session": 1} == stage.ended()


@pytest.mark.trio
async def test_bad_input_gets_an_error_and_the_connection_lives_on(autojump_clock: MockClock) -> None:
    """What is no command is answered with the protocol's own error."""
    async with staged(ping_interval_s=NEVER) as stage:
        client = stage.client()
        await client.handshake()
        await client.stream.send_all(masked(1, b"not JSON"))
        await client.stream.send_all(masked(2, b"\xff\x00"))
        await client.command(3, "list_subscriptions")
        frames = [(await client.frame()).json for _ in range(3)]

    assert [1, 1] == [frame["msg"]["code"] for frame in frames[:2]]
    assert (3, "ok") == (frames[2]["id"], frames[2]["type"])


@pytest.mark.trio
async def test_commands_without_reading_close_with_1008(autojump_clock: MockClock) -> None:
    """Replies that nobody reads do not pile up without a bound."""
    async with staged(ping_interval_s=NEVER, send_timeout_s=60, reply_backlog_bytes=500) as stage:
        client = stage.client(lockstep=True)
        await client.handshake()
        for number in range(1, 30):
            await client.command(number, "list_subscriptions")
        while (frame := await client.frame()).opcode != 8:
            pass

        assert 1008 == frame.close[0]


@pytest.mark.trio
async def test_a_ping_after_our_close_frame_is_no_failure(autojump_clock: MockClock) -> None:
    """A client may still talk when it has not read our close frame yet."""
    async with staged(max_message_bytes=2_048, ping_interval_s=10, pong_timeout_s=5) as stage:
        client = stage.client()
        await client.handshake()
        await trio.sleep(15.5)
        await client.stream.send_all(masked(9, b"late") + masked(10, b"heartbeat"))
        await client.hang_up()

        assert {"no_pong": 1} == stage.ended()


@pytest.mark.trio
async def test_a_client_that_does_not_answer_the_close_is_dropped(autojump_clock: MockClock) -> None:
    """Close frame and hanging up take two close timeouts at most."""
    async with staged(ping_interval_s=10, pong_timeout_s=5, close_timeout_s=1) as stage:
        client = stage.client()
        await client.handshake()
        await trio.sleep(17.1)

        assert 0 == stage.server.statistics().open


@pytest.mark.trio
async def test_the_clients_close_is_answered(autojump_clock: MockClock) -> None:
    """A close frame comes back with the same code, and everything of the client is gone."""
    async with staged() as stage:
        client = stage.client()
        await client.handshake()
        await client.stream.send_all(masked(8, (1000).to_bytes(2, "big") + b"bye"))

        assert (1000, "bye") == (await client.frame()).close
        await client.hang_up()
        assert {"client": 1} == stage.ended()


@pytest.mark.trio
async def test_a_close_in_the_middle_of_data_is_answered(autojump_clock: MockClock) -> None:
    """A client that closes while much is on its way reads on and finds the answer behind it."""
    async with staged(ping_interval_s=NEVER, write_bytes=1) as stage:
        tickers = [f"KXFROG-{number}" for number in range(20)]
        for ticker in tickers:
            stage.script.snapshot({4_000: 100}, {}, ticker=ticker)
        client = stage.client(lockstep=True)
        await client.handshake()
        await client.command(1, "subscribe", channels=["top_of_book"], market_tickers=tickers)
        await client.frame()
        await client.stream.send_all(masked(8, (1000).to_bytes(2, "big")))
        await trio.sleep(1)
        frames = [await client.frame()]
        await trio.sleep(0.5)
        assert 1 == stage.server.statistics().open
        while frames[-1].opcode != 8:
            frames.append(await client.frame())

        assert 1000 == frames[-1].close[0]
        assert len(frames) < 20
        await client.hang_up()
        assert {"client": 1} == stage.ended()


@pytest.mark.trio
async def test_a_huge_batch_is_delivered_in_slices(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a feed catches up clients are served between parts of a batch; it arrives whole, in order."""
    async with staged(ping_interval_s=NEVER, depth_backlog=100_000, gather_ms=0) as stage:
        stage.script.snapshot({4_000: 100}, {})
        client, other = stage.client(), stage.client()
        await client.handshake()
        await other.handshake()
        await client.command(1, "subscribe", channels=["orderbook_delta"], market_tickers=[TICKER])
        for _ in range(2):
            await client.frame()
        for _ in range(14_500):
            stage.script.delta("yes", 4_000, 100)
        served_after: list[int] = []
        real = Client.receive

        def receive(self: Client, message: str | bytes, now_us: int) -> None:
            served_after.append(stage.server.statistics().hub.routed)
            real(self, message, now_us)

        monkeypatch.setattr(Client, "receive", receive)
        await other.command(1, "list_subscriptions")
        await other.frame()
        frames = [(await client.frame()).json for _ in range(14_500)]

    assert list(range(2, 14_502)) == [frame["seq"] for frame in frames]
    assert 0 < served_after[0] < 14_500


@pytest.mark.trio
async def test_a_failure_of_ours_ends_one_client_only(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error while serving one client is logged and counted; the others are served on."""
    async with staged(ping_interval_s=NEVER) as stage:
        good, bad = stage.client(), stage.client()
        await good.handshake()
        await bad.handshake()

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr("kalshibook.stream.session.Client.receive", fail)
            await bad.command(1, "list_subscriptions")
            await bad.rest()
        await good.command(1, "list_subscriptions")

        assert "ok" == (await good.frame()).json["type"]
        assert {"failure": 1} == stage.ended()
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.trio
async def test_a_ping_that_fails_ends_one_client_only(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error while pinging one client is logged and counted; the others are pinged on."""
    async with staged(ping_interval_s=10) as stage:
        good, bad = stage.client(), stage.client()
        await bad.handshake()
        await trio.sleep(1)
        await good.handshake()

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr("kalshibook.stream.socket.ServerSocket.ping_nowait", fail)
            await bad.rest()

        assert (9, b"heartbeat") == await good.frame()
        assert {"failure": 1} == stage.ended()
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.trio
async def test_a_stop_is_not_held_up(autojump_clock: MockClock) -> None:
    """Clients that read are told 1001; one that does not read is dropped; all within the stop timeout."""
    async with trio.open_nursery() as nursery:
        store = BookStore()
        server = StreamServer(store, StreamOptions(port=0, stop_timeout_s=0.5, send_timeout_s=NEVER))
        running = trio.CancelScope()

        async def run(task_status: trio.TaskStatus[StreamServer]) -> None:
            with running:
                await server.run(task_status=task_status)
            ended.append(trio.current_time())

        ended: list[float] = []
        await nursery.start(run)
        stage = Stage(nursery, store, server)
        stage.script.snapshot({4_000: 100}, {5_000: 100})
        good, stuck, silent = stage.client(), stage.client(lockstep=True), stage.client()
        await good.handshake()
        await stuck.handshake()
        await stuck.command(1, "subscribe", channels=["top_of_book"], market_tickers=[TICKER])
        await silent.stream.send_all(b"GET")
        await trio.sleep(1)
        stopped = trio.current_time()
        running.cancel()

        assert (1001, "the server stops") == (await good.frame()).close
        await good.stream.send_all(masked(8, (1001).to_bytes(2, "big")))
        await trio.sleep(2)

    assert [pytest.approx(stopped + 0.5)] == ended
    assert {"stop": 2} == server.statistics().ended
    assert 0 == server.statistics().open == server.statistics().hub.clients
