"""
REST and WebSocket together, beside any store: in a Trio program's nursery, or in a thread.

Inside Trio::

    async with BookServer(store) as server:
        print(server.addresses.http_url, server.addresses.stream_url)
        ...

From sync or asyncio code::

    with serve_in_thread(store) as server:
        ...
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager, suppress
from types import TracebackType
from typing import Final, Protocol, Self, final

import msgspec
import trio

from kalshibook.errors import SettingsError
from kalshibook.feeds.base import FeedHealth
from kalshibook.http.app import make_app
from kalshibook.http.options import HttpOptions
from kalshibook.http.server import serve as serve_http
from kalshibook.store import BookStore
from kalshibook.stream.listener import StreamServer
from kalshibook.stream.options import StreamOptions
from kalshibook.switching import short_switch_interval

__all__ = ["BookServer", "HasHealth", "ServerAddresses", "serve_in_thread"]

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_US: Final = 500

# Far beyond what a stop takes: what is stuck for so long is a bug, and hanging would hide it.
_STOP_SECONDS: Final = 10

_HTTP: Final = HttpOptions()
_STREAM: Final = StreamOptions()


class HasHealth(Protocol):
    """What `/readyz` and the metrics report on: a feed."""

    def health(self) -> FeedHealth:
        """Return what it is doing; from any thread, at once."""


class ServerAddresses(msgspec.Struct, frozen=True):
    """Where a running server listens; None is what it does not serve."""

    http: tuple[str, int] | None
    stream: tuple[str, int] | None
    stream_path: str

    @property
    def http_url(self) -> str | None:
        """Base of the REST addresses, such as ``http://127.0.0.1:8000``."""
        return None if self.http is None else f"http://{_netloc(self.http)}"

    @property
    def stream_url(self) -> str | None:
        """Address for WebSocket clients, such as ``ws://127.0.0.1:8001/trade-api/ws/v2``."""
        return None if self.stream is None else f"ws://{_netloc(self.stream)}{self.stream_path}"


@final
class BookServer:
    """
    Serves one store over REST and WebSocket inside a Trio program.

    ``async with BookServer(store) as server`` serves during the block;
    ``await nursery.start(server.run)`` until the nursery is cancelled. It runs once.

    Args:
        store: what is served; who fills it is not this class's business.
        http: settings of REST, or None to serve none.
        stream: settings of WebSocket, or None to serve none.
        feeds: what `/readyz` asks for health.
        switch_interval_us: the interpreter's thread switch interval while serving, in microseconds,
            because at Python's own 5,000 a busy feed thread delays each answer by milliseconds. It
            is restored afterwards; 0 leaves it alone.
    """

    def __init__(
        self,
        store: BookStore,
        *,
        http: HttpOptions | None = _HTTP,
        stream: StreamOptions | None = _STREAM,
        feeds: Sequence[HasHealth] = (),
        switch_interval_us: int = SWITCH_INTERVAL_US,
    ) -> None:
        self._http = http
        self._switch_interval_us = switch_interval_us
        self._stream = None if stream is None else StreamServer(store, stream)
        self._path = "" if stream is None else stream.path
        self._app = None
        if http is not None:
            counts = None if self._stream is None else self._stream.counts
            self._app = make_app(store, http, feeds=[feed.health for feed in feeds], stream_statistics=counts)
        self._addresses: ServerAddresses | None = None
        self._stack = AsyncExitStack()
        self._nursery: trio.Nursery | None = None

    @property
    def addresses(self) -> ServerAddresses:
        """
        Where it listens, with the ports that were bound.

        Raises:
            RuntimeError: it has not started.
        """
        if self._addresses is None:
            raise RuntimeError("the server has not started; its addresses are not known yet")
        return self._addresses

    @property
    def stream(self) -> StreamServer | None:
        """The WebSocket server, for its statistics."""
        return self._stream

    async def run(self, *, task_status: trio.TaskStatus["BookServer"] = trio.TASK_STATUS_IGNORED) -> None:
        """
        Serve until cancelled, then tell the clients and stop within a second.

        Raises:
            SettingsError: an address cannot be listened on, for example because it is in use.
        """
        failure = None
        with short_switch_interval(self._switch_interval_us):
            async with trio.open_nursery() as nursery:
                try:
                    self._addresses = await self._start(nursery)
                except SettingsError as error:
                    # Raised outside the nursery, which would wrap it into a group.
                    failure = error
                    nursery.cancel_scope.cancel()
                else:
                    task_status.started(self)
        if failure is not None:
            raise failure

    async def _start(self, nursery: trio.Nursery) -> ServerAddresses:
        http = stream = None
        if self._stream is not None:
            await nursery.start(self._stream.run)
            stream = self._stream.addresses[0]
        if self._app is not None:
            http = await nursery.start(serve_http, self._app, self._http)
        return ServerAddresses(http, stream, self._path)

    async def __aenter__(self) -> Self:
        """Start it and return it once it listens."""
        nursery = await self._stack.enter_async_context(trio.open_nursery())
        try:
            await nursery.start(self.run)
        except BaseException:
            nursery.cancel_scope.cancel()
            await self._stack.aclose()
            raise
        self._nursery = nursery
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Stop it."""
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        if error is None or _is_cancelled(error):
            return await self._stack.__aexit__(kind, error, trace)
        # The block's own error leaves as it is, not inside the group of a nursery it knows nothing of.
        await self._stack.aclose()
        return None


@contextmanager
def serve_in_thread(
    store: BookStore,
    *,
    http: HttpOptions | None = _HTTP,
    stream: StreamOptions | None = _STREAM,
    feeds: Sequence[HasHealth] = (),
    switch_interval_us: int = SWITCH_INTERVAL_US,
) -> Iterator[BookServer]:
    """
    Serve a store from a thread of its own with a Trio run of its own, during a ``with`` block.

    For programs that are not Trio's. Entering takes as long as binding two ports, leaving at most
    about a second. Arguments are those of `BookServer`.

    Yields:
        The running server, for its addresses.

    Raises:
        SettingsError: on entering, an address cannot be listened on.
    """
    server = BookServer(store, http=http, stream=stream, feeds=feeds, switch_interval_us=switch_interval_us)
    thread = _ServerThread(server)
    thread.start()
    try:
        yield server
    finally:
        thread.stop()


@final
class _ServerThread:
    def __init__(self, server: BookServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=self._run, name="kalshibook-server", daemon=True)
        self._scope = trio.CancelScope()
        self._begun: Future[trio.lowlevel.TrioToken] = Future()
        self._error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()
        error = self._begun.exception()
        if error is not None:
            self._thread.join()
            raise error

    def stop(self) -> None:
        with suppress(trio.RunFinishedError):
            self._begun.result().run_sync_soon(self._scope.cancel)
        self._thread.join(_STOP_SECONDS)
        if self._thread.is_alive():
            raise RuntimeError(f"the server's thread did not end within {_STOP_SECONDS} s")
        if self._error is not None:
            raise self._error

    def started(self, value: BookServer | None = None) -> None:  # noqa: ARG002 - the seam has it
        """Be the task status of the server's run."""
        self._begun.set_result(trio.lowlevel.current_trio_token())

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            if not self._begun.done():
                self._begun.set_exception(error)
                return
            logger.exception("the server in its thread failed; it serves no more")
            self._error = error

    async def _main(self) -> None:
        with self._scope:
            await self._server.run(task_status=self)


def _is_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(trio.Cancelled) is not None
    return isinstance(error, trio.Cancelled)


def _netloc(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
