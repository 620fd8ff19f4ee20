"""One server socket, from handshake to hanging up, in memory."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from kalshibook.stream.options import StreamOptions
from kalshibook.stream.socket import Handshake, Refusal, ServerSocket, SocketClosed, serve_socket
from tests.stream.raw import PATH, RawClient, masked

OPTIONS = StreamOptions(close_timeout_s=1, max_message_bytes=2_048)


def _serve(
    nursery: trio.Nursery,
    handler: Callable[[ServerSocket], Awaitable[None]],
    judge: Callable[[Handshake], Refusal | None] = lambda _: None,
) -> RawClient:
    ours, theirs = memory_stream_pair()
    nursery.start_soon(serve_socket, theirs, judge, handler, OPTIONS)
    return RawClient(ours)


async def _nothing(socket: ServerSocket) -> None:
    pass


@pytest.mark.trio
async def test_the_judge_sees_the_handshake(autojump_clock: MockClock) -> None:
    """Path, host, origin and what it signs with are as the client sent them."""
    seen: list[Handshake] = []
    async with trio.open_nursery() as nursery:

        def judge(handshake: Handshake) -> Refusal | None:
            seen.append(handshake)
            return Refusal(418, "short and stout") if len(seen) == 2 else None

        plain, page = _serve(nursery, _nothing, judge), _serve(nursery, _nothing, judge)
        assert 101 == await plain.handshake(PATH + "?a=1", KALSHI_ACCESS_KEY="k", KALSHI_ACCESS_SIGNATURE="s")
        assert 418 == await page.handshake(host="h:1", Origin="http://p")
        assert b"short and stout" == await page.rest()

    first, second = seen
    assert (PATH + "?a=1", "localhost", None) == (first.path, first.host, first.origin)
    assert {"kalshi-access-key": "k", "kalshi-access-signature": "s"}.items() <= first.headers.items()
    assert (PATH, "h:1", "http://p") == (second.path, second.host, second.origin)


@pytest.mark.trio
async def test_a_handler_that_returns_closes_normally(autojump_clock: MockClock) -> None:
    """The socket is closed with 1000, and the stream when the client has hung up."""
    async with trio.open_nursery() as nursery:
        client = _serve(nursery, _nothing)
        await client.handshake()

        assert (1000, "") == (await client.frame()).close
        await client.stream.send_all(masked(8, (1000).to_bytes(2, "big")))
        await client.hang_up()


@pytest.mark.trio
async def test_a_handler_that_fails_leaves_no_stream_open(autojump_clock: MockClock) -> None:
    """Its error goes to who serves, and the client is hung up on."""
    ours, theirs = memory_stream_pair()
    client = RawClient(ours)

    async def fail(socket: ServerSocket) -> None:
        raise UnicodeError

    async def serve() -> None:
        with pytest.raises(ExceptionGroup) as failure:
            await serve_socket(theirs, lambda _: None, fail, OPTIONS)
        assert failure.group_contains(UnicodeError)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        assert 101 == await client.handshake()
        assert b"" == await client.rest()


@pytest.mark.trio
async def test_messages_of_both_kinds_are_received(autojump_clock: MockClock) -> None:
    """Text comes as text, binary as bytes, and then how it ended."""
    received: list[str | bytes] = []
    ends: list[tuple[int, str]] = []

    async def collect(socket: ServerSocket) -> None:
        try:
            while True:
                received.append(await socket.receive())
        except SocketClosed as closed:
            ends.append((closed.code, closed.reason))
        with pytest.raises(SocketClosed):
            await socket.send_frames(b"\x81\x00")
        socket.ping_nowait(lambda: received.append("a pong"))

    async with trio.open_nursery() as nursery:
        for end in (masked(8, (3_000).to_bytes(2, "big") + b"bye"), masked(8, b""), b"\xff\xff"):
            client = _serve(nursery, collect)
            await client.handshake()
            await client.stream.send_all(masked(1, b"text") + masked(2, b"\x00") + end)
            await client.hang_up()

    assert ["text", b"\x00"] * 3 == received
    assert [(3_000, "bye"), (1005, ""), (1002, "Invalid opcode 0xf")] == ends


@pytest.mark.trio
async def test_frames_leave_in_one_piece(autojump_clock: MockClock) -> None:
    """What is written at once arrives as it is, frame by frame."""

    async def send(socket: ServerSocket) -> None:
        await socket.send_frames(b"\x81\x01a" + b"\x82\x02bc")

    async with trio.open_nursery() as nursery:
        client = _serve(nursery, send)
        await client.handshake()
        assert [(1, b"a"), (2, b"bc")] == [await client.frame(), await client.frame()]
        assert 1000 == (await client.frame()).close[0]
        await client.hang_up()
