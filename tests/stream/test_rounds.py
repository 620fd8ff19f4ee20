"""Rounds of writing, and the writes without waiting that they consist of."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from socket import SO_SNDBUF, SOL_SOCKET

import pytest
import trio
from trio.testing import MockClock, open_stream_to_socket_listener, wait_all_tasks_blocked

from kalshibook.store import BookStore
from kalshibook.stream.changes import open_changes
from kalshibook.stream.hub import Client
from kalshibook.stream.options import StreamOptions
from kalshibook.stream.rounds import TimeSlice, WriteRounds
from kalshibook.stream.transport import Transport
from tests.store.builders import TICKER, Script, trade
from tests.stream.test_connection import NEVER, Stage, staged

OPTIONS = StreamOptions(send_timeout_s=5, close_timeout_s=1)
BIG = b"x" * 8_000_000


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[trio.SocketStream, Transport]]:
    """Connect two sockets that do not hold all of `BIG`."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    ours = await open_stream_to_socket_listener(listener)
    theirs = await listener.accept()
    theirs.socket.setsockopt(SOL_SOCKET, SO_SNDBUF, 65_536)
    async with listener, ours, theirs:
        yield ours, Transport(theirs, OPTIONS)


async def received(stream: trio.SocketStream, size: int) -> bytes:
    """Read that many bytes."""
    data = bytearray()
    with trio.fail_after(20):
        while len(data) < size:
            data += await stream.receive_some(65_536)
    return bytes(data)


class Writer:
    """Notes when it was asked to write, and asks for more as often as it was told."""

    def __init__(self, name: str, log: list[str], more: int = 0) -> None:
        self.name = name
        self.log = log
        self.more = more

    def write_nowait(self) -> bool:
        """Write."""
        self.log.append(self.name)
        self.more -= 1
        return self.more >= 0


@pytest.mark.trio
async def test_what_fits_is_written_at_once() -> None:
    """A write that the socket takes leaves nothing."""
    async with connected() as (ours, transport):
        assert transport.send_nowait(b"frame")
        assert not transport.has_rest
        assert b"frame" == await received(ours, 5)


@pytest.mark.trio
async def test_no_frame_tears_what_a_socket_did_not_take(nursery: trio.Nursery) -> None:
    """The rest of a write precedes whatever is written next, be it a control frame of another task."""
    async with connected() as (ours, transport):
        assert not transport.send_nowait(BIG)
        assert transport.has_rest
        nursery.start_soon(transport.send_all, b"\x8a\x00")

        assert BIG + b"\x8a\x00" == await received(ours, len(BIG) + 2)
        assert not transport.has_rest


@pytest.mark.trio
async def test_a_rest_goes_out_with_nothing_behind_it(nursery: trio.Nursery) -> None:
    """Sending nothing sends the rest."""
    async with connected() as (ours, transport):
        transport.send_nowait(BIG)
        nursery.start_soon(transport.send_frames, b"")

        assert BIG == await received(ours, len(BIG))


@pytest.mark.trio
async def test_a_write_under_way_is_not_overtaken(nursery: trio.Nursery) -> None:
    """While a task writes, nothing is written without waiting."""
    async with connected() as (ours, transport):
        nursery.start_soon(transport.send_frames, BIG)
        await wait_all_tasks_blocked()

        assert not transport.send_nowait(b"later")
        nursery.start_soon(transport.send_frames, b"")
        assert BIG + b"later" == await received(ours, len(BIG) + 5)


@pytest.mark.trio
async def test_a_rest_that_is_not_taken_ends_the_stream() -> None:
    """The deadline of a write holds for a rest too, and after a closed socket nothing is written."""
    async with connected() as (_, transport):
        short = Transport(transport._stream, StreamOptions(send_timeout_s=0.01))
        short.send_nowait(BIG)
        with pytest.raises(trio.BrokenResourceError):
            await short.send_frames(b"")

        assert short.timed_out
        assert not short.send_nowait(b"frame")


@pytest.mark.trio
async def test_a_broken_socket_is_told_by_the_next_write() -> None:
    """An error is not raised where nobody waits for it, but where somebody does."""
    async with connected() as (_, transport):
        await trio.aclose_forcefully(transport._stream)

        assert not transport.send_nowait(b"frame")
        with pytest.raises(trio.ClosedResourceError):
            await transport.send_frames(b"")


@pytest.mark.trio
async def test_nothing_follows_a_close_frame() -> None:
    """After a close frame a write without waiting writes nothing and keeps nothing."""
    async with connected() as (ours, transport):
        await transport.send_all(b"\x88\x02\x03\xe8")

        assert not transport.send_nowait(b"frame")
        assert not transport.has_rest
        assert b"\x88\x02\x03\xe8" == await received(ours, 4)


@pytest.mark.trio
async def test_a_round_writes_to_those_who_asked_in_order() -> None:
    """Who asks outside a round is not in one."""
    log: list[str] = []
    rounds = WriteRounds(TimeSlice())
    writers = [Writer(f"{number}", log) for number in range(250)]

    assert not rounds.add(writers[0])
    rounds.begin()
    assert all(rounds.add(writer) for writer in writers)
    await rounds.write()
    await rounds.write()

    assert [writer.name for writer in writers] == log
    assert not rounds.add(writers[0])


@pytest.mark.trio
async def test_one_with_much_to_write_takes_turns_with_the_others() -> None:
    """Who has more to write than a write holds comes again behind the others, in the same round."""
    log: list[str] = []
    rounds = WriteRounds(TimeSlice())
    rounds.begin()
    for writer in (Writer("much", log, more=2), Writer("little", log), Writer("some", log, more=1)):
        rounds.add(writer)
    await rounds.write()

    assert ["much", "little", "some", "much", "some", "much"] == log


@pytest.mark.trio
async def test_long_work_gives_way_when_its_slice_is_over() -> None:
    """Others run as soon as half a millisecond was used, and not before."""
    times = [0.0, 0.0002, 0.0004, 0.0006, 0.0008, 0.0010, 0.0012, 0.0014]
    passes: list[float] = []

    class Passes(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            passes.append(times[0])

    work = TimeSlice(clock=lambda: times[0])
    work.begin()
    trio.lowlevel.add_instrument(Passes())
    while len(times) > 1:
        del times[0]
        await work.give_way()

    assert [0.0006, 0.0012] == passes


@pytest.mark.trio
@pytest.mark.parametrize(("gather_behind_ms", "waited", "merged"), [(700, 0.7, 3), (0, 0.0, None)])
async def test_gather_behind_ms(
    gather_behind_ms: float, waited: float, merged: int | None, autojump_clock: MockClock
) -> None:
    """While the store is behind changes gather for longer, folded to one a market."""
    async with staged(gather_ms=0, gather_behind_ms=gather_behind_ms, ping_interval_s=NEVER) as stage:
        stage.script.snapshot({4_000: 100}, {})
        client = stage.client()
        await client.handshake()
        await client.command(1, "subscribe", channels=["top_of_book"], market_tickers=[TICKER])
        for _ in range(2):
            await client.frame()
        set_ready(stage, ready=False)
        assert "readiness" == (await client.frame()).json["type"]
        began = trio.current_time()

        for _ in range(3):
            stage.script.delta("yes", 4_000, 100)
            await wait_all_tasks_blocked()
        frame = (await client.frame()).json["msg"]

        assert waited == pytest.approx(trio.current_time() - began)
        assert merged == frame.get("merged")


@pytest.mark.trio
async def test_what_comes_after_catching_up_is_delivered_one_by_one(autojump_clock: MockClock) -> None:
    """Catching up ends the long pause, and no trade that follows it is folded away."""
    async with staged(gather_ms=0, gather_behind_ms=60_000, ping_interval_s=NEVER) as stage:
        stage.script.snapshot({4_000: 100}, {})
        client = stage.client()
        await client.handshake()
        await client.command(1, "subscribe", channels=["top_of_book"], market_tickers=[TICKER])
        for _ in range(2):
            await client.frame()
        set_ready(stage, ready=False)
        await client.frame()
        for _ in range(2):
            stage.script.delta("yes", 4_000, 100)
        await trio.sleep(1)
        stage.script.delta("yes", 4_000, 100)
        set_ready(stage, ready=True)
        await client.command(2, "subscribe", channels=["trade"], market_tickers=[TICKER])
        await wait_all_tasks_blocked()
        for name in ("t1", "t2"):
            stage.script.apply(trade(name))

        with trio.fail_after(0.2):
            frames = [(await client.frame()).json for _ in range(5)]
        kinds = [frame["type"] for frame in frames]

        assert {"subscribed", "top_of_book", "readiness", "trade"} == {*kinds}
        assert 2 == kinds.count("trade")
        assert [3] == [frame["msg"]["merged"] for frame in frames if frame["type"] == "top_of_book"]


def set_ready(stage: Stage, *, ready: bool) -> None:
    """Let the store fall behind its feed, or catch up."""
    with stage.store.writer() as writer:
        writer.set_ready(ready)


@pytest.mark.trio
async def test_changes_gather_into_one_batch() -> None:
    """What comes during a pause wakes nobody and is one batch after it."""
    store = BookStore()
    async with open_changes(store) as changes:
        script = Script(store)
        # What the store says of itself at the start.
        await wait_all_tasks_blocked(0.01)
        changes.take_waiting()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(changes.gather, 0.01)
            await trio.lowlevel.checkpoint()
            script.snapshot({4_000: 100}, {})
            for _ in range(20):
                script.delta("yes", 4_000, 100)
        with trio.fail_after(5):
            batch = await anext(changes)

        assert 21 == len(batch.changes)
        assert [] == changes.take_waiting()


@pytest.mark.trio
@pytest.mark.parametrize(("gather_ms", "waited", "merged"), [(200, 0.2, 2), (0, 0.0, None)])
async def test_gather_ms(
    gather_ms: float, waited: float, merged: int | None, autojump_clock: MockClock
) -> None:
    """A change goes out at once; those that follow it gather, and share a frame where they can."""
    async with staged(gather_ms=gather_ms, ping_interval_s=NEVER) as stage:
        stage.script.snapshot({4_000: 100}, {})
        client = stage.client()
        await client.handshake()
        await client.command(1, "subscribe", channels=["top_of_book"], market_tickers=[TICKER])
        for _ in range(2):
            await client.frame()
        await trio.sleep(1)
        began = trio.current_time()

        stage.script.delta("yes", 4_000, 100)
        await client.frame()
        assert began == pytest.approx(trio.current_time())
        for _ in range(2):
            stage.script.delta("yes", 4_000, 100)
            await wait_all_tasks_blocked()
        frame = (await client.frame()).json["msg"]

        assert waited == pytest.approx(trio.current_time() - began)
        assert merged == frame.get("merged")


@pytest.mark.trio
async def test_an_error_of_ours_ends_one_client_and_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What fails while a round writes to one client is that client's end; the others are written to."""
    async with staged() as stage:
        first, second = stage.client(), stage.client()
        for client in (first, second):
            assert 101 == await client.handshake()
            await client.command(1, "subscribe", market_tickers=[TICKER])
            assert "subscribed" == (await client.frame()).json["type"]
        take = Client.take
        broken: list[Client] = []

        def breaks_for_one(client: Client, limit_bytes: int, now_us: int) -> bytes:
            if not broken:
                broken.append(client)
                raise ZeroDivisionError
            return take(client, limit_bytes, now_us)

        monkeypatch.setattr(Client, "take", breaks_for_one)
        stage.script.snapshot({4_000: 100}, {})

        with trio.fail_after(5):
            while "top_of_book" != (await second.frame()).json["type"]:
                pass
            await first.rest()
        await wait_all_tasks_blocked()
    assert 1 == stage.ended()["failure"]
    assert "ZeroDivisionError" in caplog.text
