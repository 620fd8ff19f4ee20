"""
One client that is connected: a reader and a writer around its `Client` of the hub.

The two run in one nursery, and `Heartbeat` pings for them; whichever finds that it is over ends all of
them, and with them all that the client had. Nothing a client does or leaves undone is waited for without
a time limit:

* a write that it does not take: `send_timeout_s`. The frame is then partial, so that no close frame
  can follow: it is cut.
* a backlog of which it only ever takes a part, a byte a second in the worst case:
  `drain_timeout_s`. Looked at between writes, where a close frame still fits. Only the time that
  the socket makes us wait counts: when all clients ask for all markets at once, after a restart of
  ours perhaps, it is the server that takes minutes, and to cut them would begin it anew.
* a ping that it does not answer: `pong_timeout_s`. The ping queues behind all that the kernels
  still hold for the client, so that this also bounds how far behind it may read.
* a close frame that it does not answer: `close_timeout_s`.
"""

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final, final

import msgspec
import trio

from kalshibook.stream.heartbeat import Heartbeat
from kalshibook.stream.hub import Client
from kalshibook.stream.options import StreamOptions
from kalshibook.stream.rounds import WriteRounds
from kalshibook.stream.socket import BREACHES, ServerSocket, SocketClosed, WriteTimeout

__all__ = ["Cause", "Connection", "End", "now_us"]

_GOING_AWAY: Final = 1001
_POLICY: Final = 1008


class Cause(StrEnum):
    """Why a client's connection ended."""

    CLIENT = "client"
    """The client closed, with or without a close frame."""
    SESSION = "session"
    """The client broke a rule of the protocol, or a limit."""
    SLOW_WRITE = "slow_write"
    """The client did not take a write in time."""
    SLOW_BACKLOG = "slow_backlog"
    """The client never took all that waited for it."""
    NO_PONG = "no_pong"
    """The client did not answer a ping."""
    STOP = "stop"
    """The server stops."""
    FAILURE = "failure"
    """Our own error."""


class End(msgspec.Struct, frozen=True):
    """How a connection ended."""

    cause: Cause
    code: int
    """The close code, also where no close frame could be sent."""
    reason: str


def now_us() -> int:
    """Return the time, microseconds since the epoch."""
    return time.time_ns() // 1_000


@final
class Connection:
    """Moves messages between one socket and one client of the hub until either ends."""

    def __init__(
        self,
        socket: ServerSocket,
        client: Client,
        options: StreamOptions,
        rounds: WriteRounds,
        heartbeat: Heartbeat,
    ) -> None:
        self._socket = socket
        self._client = client
        self._options = options
        self._rounds = rounds
        self._heartbeat = heartbeat
        self._failure: Exception | None = None
        self._is_idle = False
        self._pending = trio.Event()
        self._waited_s = 0.0
        self._stopping = False
        self._scope = trio.CancelScope()
        self._end: End | None = None
        client.on_pending = self._on_pending

    async def run(self) -> End:
        """Serve until it is over and say why; the socket is left to be closed."""
        beat = self._heartbeat.start(self)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
        finally:
            beat.stop()
        assert self._end is not None
        return self._end

    def stop(self) -> None:
        """Tell the client that the server goes, after the write that is under way."""
        self._stopping = True
        self._wake_writer()

    def write_nowait(self) -> bool:
        """
        Make one write of what waits, if the socket takes it at once; else the writer task does it.

        Returns:
            Whether the socket took all of it, and more waits.
        """
        if not self._is_idle:
            return False
        client = self._client
        if client.closing is None:
            try:
                frames = client.take(self._options.write_bytes, now_us())
                if self._socket.send_nowait(frames):
                    return client.is_pending
            except Exception as error:  # noqa: BLE001 - raised by the client's own task, see below
                # Here it would end the round, and with it the server and everybody in it.
                self._failure = error
        self._wake_writer()
        return False

    def ping(self, on_pong: Callable[[], None]) -> None:
        """Send a ping; what the socket does not take at once goes out by the writer, with its deadline."""
        try:
            self._socket.ping_nowait(on_pong)
        except Exception as error:  # noqa: BLE001 - raised by the client's own task
            # Here it would end the heartbeat, and with it the server and everybody in it.
            self._failure = error
        if self._socket.has_rest or self._failure is not None:
            self._wake_writer()

    def on_no_pong(self) -> None:
        """End: the last ping was not answered in time."""
        self._finish(Cause.NO_PONG, _POLICY, f"no pong within {self._options.pong_timeout_s:g} s")

    async def _read(self) -> None:
        try:
            while True:
                message = await self._socket.receive()
                self._client.receive(message, now_us())
        except WriteTimeout:
            self._finish_slow()
        except SocketClosed as closed:
            cause = Cause.SESSION if closed.code in BREACHES else Cause.CLIENT
            self._finish(cause, closed.code, closed.reason)

    async def _write(self) -> None:
        limit = self._options.write_bytes
        try:
            while not self._stopping:
                if self._failure is not None:
                    raise self._failure
                frames = self._client.take(limit, now_us())
                if frames or self._socket.has_rest:
                    await self._send(frames)
                    if self._waited_s > self._options.drain_timeout_s:
                        seconds = self._options.drain_timeout_s
                        self._finish(Cause.SLOW_BACKLOG, _POLICY, f"too slow: behind for {seconds:g} s")
                        return
                elif self._client.closing is not None:
                    self._finish(Cause.SESSION, *self._client.closing)
                    return
                else:
                    self._pending = trio.Event()
                    self._is_idle = True
                    await self._pending.wait()
            self._finish(Cause.STOP, _GOING_AWAY, "the server stops")
        except WriteTimeout:
            self._finish_slow()
        except SocketClosed as closed:
            self._finish(Cause.CLIENT, closed.code, closed.reason)

    async def _send(self, frames: bytes) -> None:
        if self._socket.send_nowait(frames):
            await trio.lowlevel.checkpoint()
            return
        begun = trio.current_time()
        await self._socket.send_frames(b"")
        self._waited_s += trio.current_time() - begun

    def _on_pending(self) -> None:
        # Called only when nothing waited before: the backlog begins now.
        self._waited_s = 0.0
        if not self._rounds.add(self):
            self._wake_writer()

    def _wake_writer(self) -> None:
        self._is_idle = False
        self._pending.set()

    def _finish_slow(self) -> None:
        seconds = self._options.send_timeout_s
        self._finish(Cause.SLOW_WRITE, _POLICY, f"too slow: a write took longer than {seconds:g} s")

    def _finish(self, cause: Cause, code: int, reason: str) -> None:
        # The first cause is the cause; what the others notice is its consequence.
        if self._end is None:
            self._end = End(cause, code, reason)
        self._scope.cancel()
