"""From an address to a WebSocket: TCP, TLS and the handshake, on a stream that is closed whatever happens."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream
from wsproto.utilities import LocalProtocolError

__all__ = ["BROKEN", "dialed"]

Stream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]

BROKEN: Final = (ConnectionClosed, LocalProtocolError, trio.BrokenResourceError, trio.ClosedResourceError)
"""How trio-websocket says that a socket is no more."""

_RECEIVE_BYTES: Final = 65_536
_QUEUED_MESSAGES: Final = 64
"""Frames between trio-websocket's reader and ours: enough that neither waits for the other each time."""

_GOODBYE_S: Final = 0.05
"""For the close frame to go out. Where all is cancelled nobody reads the answer, so it is not waited for."""
_PORTS: Final = {"ws": 80, "wss": 443}


@asynccontextmanager
async def dialed(
    url: str,
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    max_message_bytes: int,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[WebSocketConnection]:
    """
    Open a WebSocket for the block, and close it however the block ends.

    Args:
        url: such as ``wss://host/path``.
        headers: of the handshake.
        timeout_s: for all of it.
        max_message_bytes: a longer message ends the connection.
        ssl_context: for ``wss``; the system's usual one unless given.

    Raises:
        HandshakeError: the other side does not agree.
        OSError: there is no other side.
        trio.TooSlowError: it does not answer in time.
    """
    stream: Stream | None = None
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(timeout_s):
                stream = await _stream(url, ssl_context)
                socket = await wrap_client_stream(
                    nursery,
                    stream,
                    _host_header(url),
                    _target(url),
                    extra_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
                    message_queue_size=_QUEUED_MESSAGES,
                    max_message_size=max_message_bytes,
                    receive_buffer_size=_RECEIVE_BYTES,
                )
            try:
                yield socket
            finally:
                goodbye = trio.CancelScope(shield=True, deadline=trio.current_time() + _GOODBYE_S)
                with goodbye, suppress(*BROKEN, OSError):
                    await socket.aclose()
                nursery.cancel_scope.cancel()
    finally:
        # trio-websocket leaves it open where the other side hung up without a close frame.
        if stream is not None:
            await trio.aclose_forcefully(stream)


async def _stream(url: str, ssl_context: ssl.SSLContext | None) -> Stream:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    if parts.scheme == "ws":
        return await trio.open_tcp_stream(host, port)
    context = ssl_context or ssl.create_default_context()
    return await trio.open_ssl_over_tcp_stream(host, port, ssl_context=context, https_compatible=True)


def _host_header(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    return host if parts.port in {None, _PORTS[parts.scheme]} else f"{host}:{parts.port}"


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
