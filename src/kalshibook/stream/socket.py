"""
One WebSocket of a server: trio-websocket speaks the protocol, this adapter owns the bytes.

trio-websocket does the handshake, answers control frames and closes. Data frames come here ready
made, many in one buffer, and go out in one write. Both write through one `Transport`.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple, TypeAlias, final

import msgspec
import trio
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    wrap_server_stream,
)
from wsproto.frame_protocol import FrameProtocol
from wsproto.utilities import LocalProtocolError

from kalshibook.stream.options import StreamOptions
from kalshibook.stream.transport import Transport

__all__ = [
    "BREACHES",
    "Handler",
    "Handshake",
    "Judge",
    "Refusal",
    "ServerSocket",
    "SocketClosed",
    "WriteTimeout",
    "serve_socket",
]


BREACHES: Final = frozenset({1002, 1007, 1009})
"""Codes of a client that broke the protocol: a broken frame, text that is no UTF-8, too long a message."""


_HEARTBEAT: Final = b"heartbeat"
_PING: Final = bytes(FrameProtocol(client=False, extensions=[]).ping(_HEARTBEAT))


class Handshake(msgspec.Struct, frozen=True):
    """What a client asks for."""

    path: str
    """Target of the request, with its query."""
    host: str
    """The `Host` header."""
    origin: str | None
    """The `Origin` header, which browsers send; None where there is none."""
    headers: dict[str, str] = {}
    """All other headers, names in lower case."""


class Refusal(msgspec.Struct, frozen=True):
    """An answer to a handshake that does not become a WebSocket."""

    status: int
    """The HTTP status."""
    reason: str
    """Sent as the body: one sentence, unless the media type says otherwise."""
    media_type: str = "text/plain; charset=utf-8"
    """Of the body."""
    date: str = ""
    """The `Date` header, by which a client finds out that its clock is off; empty for none."""


class SocketClosed(Exception):  # noqa: N818 - reads as the fact it states
    """
    The socket is closed by either side, or broken.

    Attributes:
        code: the close code; 1006 when there was no close frame.
        reason: the close reason, perhaps empty.
    """

    def __init__(self, close: CloseReason | None) -> None:
        self.code = int(close.code) if close else 1006
        self.reason = (close.reason if close else None) or ""
        super().__init__(f"closed with {self.code} {self.reason}".rstrip())


class WriteTimeout(Exception):  # noqa: N818 - as above
    """The other side did not take what was written in time; the socket is dead."""


@final
class ServerSocket:
    """An open WebSocket, handed to the handler of `serve_socket`."""

    def __init__(self, connection: WebSocketConnection, transport: Transport, options: StreamOptions) -> None:
        self._connection = connection
        self._transport = transport
        self._options = options

    async def receive(self) -> str | bytes:
        """
        Wait for the next message.

        Raises:
            WriteTimeout: there will be none, because a write was not taken in time.
            SocketClosed: there will be none.
        """
        try:
            return await self._connection.get_message()
        except ConnectionClosed:
            raise self._failure() from None

    async def send_frames(self, frames: bytes) -> None:
        """
        Write whole server frames, as many as there are, in one go.

        A cancelled call leaves a partial frame, so it ends the connection.

        Args:
            frames: one or more encoded frames.

        Raises:
            WriteTimeout: it was not written in time; nothing more can be said to this client.
            SocketClosed: the socket is closed.
        """
        if self._connection.closed:
            raise SocketClosed(self._connection.closed)
        try:
            await self._transport.send_frames(frames)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._failure() from None

    @property
    def has_rest(self) -> bool:
        """Whether `send_nowait` left something; it goes out with the next `send_frames`."""
        return self._transport.has_rest

    def send_nowait(self, frames: bytes) -> bool:
        """
        Write whole server frames as far as the socket takes them at once, and tell whether that was all.

        Where it was not, or the socket is closed, `send_frames` goes on, and raises.
        """
        return self._transport.send_nowait(frames)

    def ping_nowait(self, on_pong: Callable[[], None]) -> None:
        """
        Send a ping as far as the socket takes it at once; where `has_rest`, `send_frames` goes on.

        Args:
            on_pong: called when it is answered; not at all when the socket is closed before.
        """
        # trio-websocket's own `ping` waits for the pong, which takes a task and costs four times this. It
        # sets what it finds here when a pong with the payload comes, and passes over any other pong.
        self._connection._pings[_HEARTBEAT] = _Pong(on_pong)  # type: ignore[assignment]  # noqa: SLF001
        self._transport.send_nowait(_PING)

    async def close(self, code: int, reason: str) -> None:
        """
        Send a close frame and wait for its answer, within the close timeout.

        Does nothing where a close frame would not be understood or not be read.
        """
        if self._transport.ended.is_set():
            return
        with trio.move_on_after(self._options.close_timeout_s), suppress(LocalProtocolError):
            if self._connection.closed:
                # trio-websocket answers the other side's close frame, perhaps behind a data
                # frame that is being written; cancelled now, the answer would be lost.
                await self._transport.close_written.wait()
            else:
                await self._connection.aclose(code, reason)

    def _failure(self) -> WriteTimeout | SocketClosed:
        if self._transport.timed_out:
            return WriteTimeout()
        return SocketClosed(self._connection.closed)


class _Pong(NamedTuple):
    """What trio-websocket takes for the event of a ping."""

    set: Callable[[], None]


Judge: TypeAlias = Callable[[Handshake], Refusal | None]
Handler: TypeAlias = Callable[[ServerSocket], Awaitable[None]]


async def serve_socket(
    stream: trio.abc.HalfCloseableStream, judge: Judge, handler: Handler, options: StreamOptions
) -> None:
    """
    Serve one TCP connection as a WebSocket, from handshake to hanging up.

    Whatever happens, the stream is closed and no task is left at the end.

    Args:
        stream: the accepted connection.
        judge: decides about the handshake; a `Refusal` is answered over HTTP.
        handler: runs while the socket is open; when it returns, the socket is closed with 1000
            unless it was closed before.
        options: sizes and times.
    """
    transport = Transport(stream, options)
    try:
        await _converse(transport, judge, handler, options)
        await transport.aclose()
    finally:
        await transport.abort()


async def _converse(transport: Transport, judge: Judge, handler: Handler, options: StreamOptions) -> None:
    try:
        async with trio.open_nursery() as nursery:
            request = await _read_request(nursery, transport, options)
            if request is not None:
                await _answer(request, transport, judge, handler, options)
            if transport.hanging_up:
                await transport.gone.wait()
            nursery.cancel_scope.cancel()
    except* (ConnectionClosed, LocalProtocolError):
        # The other side went away in the handshake; or it pinged after our close frame, which
        # trio-websocket 0.12 answers although nothing may be sent any more.
        pass
    except* UnicodeError:
        # wsproto 1.3 decodes headers before it judges them: not our failure.
        if transport.agreed:
            raise


async def _read_request(
    nursery: trio.Nursery, transport: Transport, options: StreamOptions
) -> WebSocketRequest | None:
    # Without the watcher, a stream that ends before its request would be held until the
    # timeout: trio-websocket goes on waiting.
    request = None
    with trio.move_on_after(options.handshake_timeout_s) as scope:
        async with trio.open_nursery() as race:
            race.start_soon(_cancel_at, transport.ended, scope)
            request = await wrap_server_stream(nursery, transport, max_message_size=options.max_message_bytes)
            race.cancel_scope.cancel()
    return request


async def _cancel_at(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _answer(
    request: WebSocketRequest, transport: Transport, judge: Judge, handler: Handler, options: StreamOptions
) -> None:
    transport.agreed = True
    refusal = judge(_handshake(request))
    if refusal is not None:
        headers = [(b"content-type", refusal.media_type.encode()), (b"connection", b"close")]
        if refusal.date:
            headers.append((b"date", refusal.date.encode()))
        await request.reject(refusal.status, extra_headers=headers, body=refusal.reason.encode())
        return
    connection = await request.accept()
    transport.farewell = partial(_farewell, connection)
    socket = ServerSocket(connection, transport, options)
    await handler(socket)
    await socket.close(1000, "")


def _handshake(request: WebSocketRequest) -> Handshake:
    origin = dict(request.headers).get(b"origin")
    # trio-websocket shows all headers but this one.
    host = request._event.host  # noqa: SLF001
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.headers}
    return Handshake(request.path, host, None if origin is None else origin.decode("latin-1"), headers)


def _farewell(connection: WebSocketConnection) -> bytes:
    # wsproto reports a broken frame as a close with the code that is due, and trio-websocket 0.12
    # takes that for the other side's close: it hangs up without a word.
    closed = connection.closed
    if closed is None or closed.code not in BREACHES:
        return b""
    return bytes(FrameProtocol(client=False, extensions=[]).close(closed.code, closed.reason))
