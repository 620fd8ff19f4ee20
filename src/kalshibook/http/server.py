"""
Serve the application with Hypercorn, inside the caller's Trio nursery.

Hypercorn shields its socket writes from cancellation, so that an answer is never cut in the
middle. A client that stops reading would therefore hold its task, and a stop of the whole server,
for as long as it likes. Two things prevent that, both at the socket and not inside Hypercorn:
the kernel ends a connection whose peer takes nothing for a while (``TCP_USER_TIMEOUT``), and a
stop shuts down whatever connections are left after a short grace.
"""

import errno
import logging
import os
import socket
import stat
from contextlib import suppress
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve
from quart_trio import QuartTrio

from kalshibook.errors import SettingsError
from kalshibook.http.options import HttpOptions

__all__ = ["serve"]

_log = logging.getLogger(__name__)

_BACKLOG: Final = 512
_DESCRIPTORS: Final = "/dev/fd"
_WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to

Address = tuple[str, int]


async def serve(
    app: QuartTrio,
    options: HttpOptions,
    *,
    date_header: bool = True,
    names: tuple[str, str] = ("http.host", "http.port"),
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """
    Serve `app` until cancelled; then stop within `drain_ms` and a little.

    ``host, port = await nursery.start(serve, app, options)`` returns once it listens, with the
    port that was bound.

    Args:
        app: what is served.
        options: where, and how patiently.
        date_header: whether answers get a `Date`; an application that sets its own wants none.
        names: the settings that say where, for messages.
        task_status: told the address.

    Raises:
        SettingsError: host and port cannot be bound.
    """
    listener = _bind(options.host, options.port, names)
    address = listener.getsockname()
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Accepted connections inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, options.stuck_client_ms)
    config = _configured(options, listener.detach())
    config.include_date_header = date_header
    stopping, stopped = trio.Event(), trio.Event()

    async def run(task_status: trio.TaskStatus[Any]) -> None:
        # Shielded: a cancellation must reach Hypercorn as its own orderly shutdown, else what is
        # under way is cut at once while what is stuck still is not.
        with trio.CancelScope(shield=True):
            try:
                await hypercorn_serve(
                    _finishing(app), config, shutdown_trigger=stopping.wait, task_status=task_status
                )
            finally:
                stopped.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        task_status.started((address[0], address[1]))
        try:
            await stopped.wait()
        finally:
            stopping.set()
            with trio.CancelScope(shield=True):
                with trio.move_on_after(options.drain_ms / 1_000):
                    await stopped.wait()
                if not stopped.is_set():
                    await trio.lowlevel.checkpoint()
                    cut = _shut_down_connections(address)
                    _log.warning(
                        "%d connections were left %d ms after the stop and are cut", cut, options.drain_ms
                    )


def _finishing(app: QuartTrio) -> Any:
    """
    Let the sending of an answer's end come to its own end.

    When an answer is complete Hypercorn tells the application that the exchange is over, upon which
    Quart-Trio cancels the task that is still inside `send`, and with it Hypercorn's next step: to
    start the connection's idle timer, or to close it during a stop. Such a connection would be
    kept open for ever. What is shielded here is only that step: the write is shielded already.
    """

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        async def send_to_end(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                with trio.CancelScope(shield=True):
                    await send(message)
            else:
                await send(message)

        await app(scope, receive, send_to_end)

    return asgi


def _bind(host: str, port: int, names: tuple[str, str]) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{names[0]} {host!r} is no address of this machine: {error}") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            reason = (
                f"is in use by another program; stop that or choose another {names[1]} (0 takes a free one)"
            )
        else:
            reason = f"cannot be listened on: {error.strerror}"
        raise SettingsError(f"port {port} of {host} {reason}") from None
    return listener


def _configured(options: HttpOptions, descriptor: int) -> Config:
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.backlog = _BACKLOG
    config.errorlog = logging.getLogger("kalshibook.http.hypercorn")
    config.errorlog.setLevel(logging.WARNING)
    config.graceful_timeout = options.drain_ms / 1_000
    config.keep_alive_timeout = options.keep_alive_ms / 1_000
    # Its default ends a connection after 1,000 requests, which a poller reaches within a minute.
    config.keep_alive_max_requests = 2**31
    config.h11_max_incomplete_size = options.max_head_bytes
    config.include_server_header = False
    return config


def _shut_down_connections(address: Any) -> int:
    """
    Shut down every connection that was accepted at `address`, and count them.

    Hypercorn keeps its connections to itself, so they are found where every process has them: among
    its open descriptors. A duplicate is examined, so that a descriptor closed and reused meanwhile
    cannot be mistaken; shutting the duplicate down wakes whoever writes to the original.
    """
    count = 0
    if not os.path.isdir(_DESCRIPTORS):  # noqa: PTH112
        return count
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - a path object per descriptor helps nobody
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as connection:
                    count += _shut_down_if_ours(connection, address)
    return count


def _shut_down_if_ours(connection: socket.socket, address: Any) -> bool:
    if connection.family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    host, port = connection.getsockname()[:2]
    at_ours = port == address[1] and (host == address[0] or address[0] in _WILDCARDS)
    if not at_ours or connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    connection.shutdown(socket.SHUT_RDWR)
    return True
