"""Autobahn's cases against the socket adapter that every client of the server gets."""

import asyncio
from contextlib import suppress

import kosoku
import pytest
import trio

from kalshibook.stream.options import StreamOptions
from kalshibook.stream.socket import ServerSocket, SocketClosed, serve_socket

OPTIONS = StreamOptions(max_message_bytes=32 * 1024 * 1024, send_timeout_s=30.0)

# We do not offer compression, so that these have nothing to test.
COMPRESSION = ["12.*", "13.*"]


def _frame(message: str | bytes) -> bytes:
    opcode, body = (0x81, message.encode()) if isinstance(message, str) else (0x82, message)
    size = len(body)
    if size < 126:
        head = bytes([opcode, size])
    elif size < 65_536:
        head = bytes([opcode, 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([opcode, 127]) + size.to_bytes(8, "big")
    return head + body


async def _echo(socket: ServerSocket) -> None:
    with suppress(SocketClosed):
        while True:
            await socket.send_frames(_frame(await socket.receive()))


async def _serve(stream: trio.SocketStream) -> None:
    await serve_socket(stream, lambda _: None, _echo, OPTIONS)


def _fuzz(port: int) -> tuple[int, list[str]]:
    run = kosoku.run_fuzzingclient(f"ws://127.0.0.1:{port}", exclude_cases=COMPRESSION, concurrency=4)
    try:
        results = asyncio.run(run)
    except kosoku.FailureError as failure:
        results = failure.results
    failed = [f"{case.case_id}: {case.result} {case.result_close}" for case in results if not case.passed]
    return len(results), failed


@pytest.mark.trio
async def test_every_case_passes(nursery: trio.Nursery) -> None:
    """The echo endpoint behaves in every case as RFC 6455 asks."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    nursery.start_soon(trio.serve_listeners, _serve, listeners)

    count, failed = await trio.to_thread.run_sync(_fuzz, port)

    assert [] == failed
    assert 301 == count
    nursery.cancel_scope.cancel()
