"""The stream under a WebSocket, in memory."""

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from kalshibook.stream.options import StreamOptions
from kalshibook.stream.transport import Transport

OPTIONS = StreamOptions(send_timeout_s=5, close_timeout_s=1)


@pytest.mark.trio
async def test_writes_take_turns(nursery: trio.Nursery) -> None:
    """A control frame waits for the data frame that is being written."""
    ours, theirs = lockstep_stream_pair()
    transport = Transport(theirs, OPTIONS)

    nursery.start_soon(transport.send_frames, b"data" * 10)
    await wait_all_tasks_blocked()
    nursery.start_soon(transport.send_all, b"\x8a\x00")
    read = b""
    while len(read) < 42:
        read += await ours.receive_some(3)

    assert b"data" * 10 + b"\x8a\x00" == read


@pytest.mark.trio
async def test_no_data_follows_a_close_frame(nursery: trio.Nursery) -> None:
    """A data frame that waits behind a close frame is not written."""
    ours, theirs = lockstep_stream_pair()
    transport = Transport(theirs, OPTIONS)

    refused = trio.Event()

    async def send_data() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await transport.send_frames(b"data")
        refused.set()

    nursery.start_soon(transport.send_all, b"\x88\x02\x03\xe8")
    await wait_all_tasks_blocked()
    nursery.start_soon(send_data)
    await wait_all_tasks_blocked()
    assert not refused.is_set()

    assert b"\x88\x02\x03\xe8" == await ours.receive_some(100)
    with trio.fail_after(5):
        await refused.wait()
    assert transport.close_written.is_set()


@pytest.mark.trio
async def test_a_write_out_of_time_ends_the_stream(autojump_clock: MockClock) -> None:
    """After half a frame nothing more is written, whoever tries."""
    _, theirs = lockstep_stream_pair()
    transport = Transport(theirs, OPTIONS)

    with pytest.raises(trio.BrokenResourceError):
        await transport.send_frames(b"data")
    assert 5.0 == pytest.approx(trio.current_time())
    assert transport.timed_out
    with pytest.raises(trio.ClosedResourceError):
        await transport.send_frames(b"data")
    with pytest.raises(trio.ClosedResourceError):
        await transport.send_all(b"\x88\x00")


@pytest.mark.trio
async def test_a_cancelled_write_ends_the_stream_but_is_no_timeout(autojump_clock: MockClock) -> None:
    """Half a frame is half a frame, whatever cut it."""
    _, theirs = lockstep_stream_pair()
    transport = Transport(theirs, OPTIONS)

    with trio.move_on_after(1):
        await transport.send_frames(b"data")

    assert transport.gone.is_set()
    assert not transport.timed_out
    with pytest.raises(trio.ClosedResourceError):
        await transport.send_all(b"\x88\x00")


@pytest.mark.trio
async def test_hanging_up_waits_for_the_other_side(autojump_clock: MockClock) -> None:
    """What was sent can be read before the stream is closed; unread bytes do not reset it."""
    ours, theirs = memory_stream_pair()
    transport = Transport(theirs, OPTIONS)
    await ours.send_all(b"never read")
    await transport.send_all(b"\x88\x00")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.aclose)
        nursery.start_soon(transport.aclose)
        await wait_all_tasks_blocked()
        assert not transport.gone.is_set()
        assert b"\x88\x00" == await ours.receive_some(100)
        assert b"" == await ours.receive_some(100)
        await ours.aclose()

    assert transport.gone.is_set()
    assert 0.0 == pytest.approx(trio.current_time())


@pytest.mark.trio
async def test_hanging_up_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    """A side that keeps the connection is left after the close timeout."""
    _, theirs = memory_stream_pair()
    transport = Transport(theirs, OPTIONS)

    await transport.aclose()

    assert 1.0 == pytest.approx(trio.current_time())
