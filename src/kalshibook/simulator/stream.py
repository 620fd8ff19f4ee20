"""
The WebSocket server of the simulated exchange: sockets around the sessions of a `Venue`, on Trio.

Besides what a server does it can fail on purpose: cut a connection without a word, or let it die so
that nobody notices.
"""

import errno
import logging
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from typing import Final, Protocol, final

import msgspec
import trio

from kalshibook.errors import SettingsError
from kalshibook.simulator.auth import KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, Denied
from kalshibook.simulator.session import Order, Session
from kalshibook.simulator.venue import Venue
from kalshibook.stream.options import StreamOptions
from kalshibook.stream.socket import (
    Handshake,
    Refusal,
    ServerSocket,
    SocketClosed,
    WriteTimeout,
    serve_socket,
)

__all__ = ["STREAM_PATH", "Doorkeeper", "ExchangeStream"]

logger = logging.getLogger(__name__)

STREAM_PATH: Final = "/trade-api/ws/v2"
_WRITE_BYTES: Final = 131_072
_JSON: Final = "application/json"
_POLICY_VIOLATION: Final = 1008
# A client that reads nothing is the subscription buffer's business (error 25) and the heartbeat's;
# a deadline for each write would cut it first.
_PATIENCE_S: Final = 3_600.0


class Doorkeeper(Protocol):
    """Who decides about handshakes."""

    @property
    def wall_ms(self) -> int:
        """What the exchange takes for the time of day, Unix milliseconds."""

    def admit(self, key_id: str | None, timestamp: str | None, signature: str | None, text: str) -> str:
        """
        Return the user of a signed request.

        Raises:
            Denied: it is not signed as it should be.
        """

    def turned_away(self) -> Refusal | None:
        """Return why nobody, or not this one, is let in just now."""


class _Mortal(trio.abc.HalfCloseableStream):
    """A TCP stream that can die without a sign: nothing goes in or out, and nobody is told."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._is_dead = False
        self._died = trio.Event()

    def die(self) -> None:
        """Swallow what is written, and what arrives, from now on."""
        self._is_dead = True
        self._died.set()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_dead:
            await trio.lowlevel.checkpoint()
        else:
            await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        while self._is_dead and data:
            data = await self._stream.receive_some(max_bytes)
        return data

    async def send_eof(self) -> None:
        if not self._is_dead:
            await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


@final
class ExchangeStream:
    """Serves a venue to WebSocket clients; `run` it in a nursery."""

    def __init__(self, venue: Venue, doorkeeper: Doorkeeper, tick: Callable[[], None]) -> None:
        """
        Prepare to serve.

        Args:
            venue: what is served.
            doorkeeper: who lets clients in.
            tick: brings the venue's clock up to date; called before each command.
        """
        self._venue = venue
        self._doorkeeper = doorkeeper
        self._tick = tick
        self._options = StreamOptions(
            send_timeout_s=_PATIENCE_S, max_message_bytes=4_194_304, close_timeout_s=0.5
        )
        self.address = ("", 0)
        """Where it listens, once `run` has started."""
        self.accepted = 0
        """Handshakes that became a WebSocket."""
        self.refused = 0
        """Handshakes that did not."""

    async def run(
        self, host: str, port: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """
        Listen and serve until cancelled.

        Raises:
            SettingsError: the address cannot be listened on.
        """
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            reason = f"cannot be listened on: {error.strerror or error}"
            if error.errno == errno.EADDRINUSE:
                reason = "is in use by another program; stop that or choose another stream.port "
                reason += "(0 takes a free one)"
            raise SettingsError(f"port {port} of {host} {reason}") from None
        self.address = listeners[0].socket.getsockname()[:2]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, stream: trio.SocketStream) -> None:
        mortal = _Mortal(stream)
        try:
            peer = "{}:{}".format(*stream.socket.getpeername()[:2])
        except OSError:
            await trio.aclose_forcefully(stream)
            return
        visit = _Visit(self._venue, mortal, peer, self._tick)
        try:
            await serve_socket(
                mortal, partial(self._judge, visit), partial(self._handle, visit), self._options
            )
        except Exception:
            # One client's failure, ours or a library's, is not the others'.
            logger.exception("the connection of %s failed", peer)
        finally:
            if visit.session is not None:
                self._venue.disconnect(visit.session)

    def _judge(self, visit: "_Visit", handshake: Handshake) -> Refusal | None:
        refusal = self._refusal(visit, handshake)
        if refusal is None:
            return None
        self.refused += 1
        date = formatdate(self._doorkeeper.wall_ms / 1_000, usegmt=True)
        return msgspec.structs.replace(refusal, date=date)

    def _refusal(self, visit: "_Visit", handshake: Handshake) -> Refusal | None:
        if handshake.path.partition("?")[0] != STREAM_PATH:
            return _refuse(404, "not_found", "not found")
        refusal = self._doorkeeper.turned_away()
        if refusal is not None:
            return refusal
        headers = handshake.headers
        try:
            user = self._doorkeeper.admit(
                headers.get(KEY_HEADER),
                headers.get(TIMESTAMP_HEADER),
                headers.get(SIGNATURE_HEADER),
                f"GET{STREAM_PATH}",
            )
        except Denied as denied:
            return Refusal(401, denied.body().decode(), _JSON)
        if self._venue.connections_of(user) >= self._venue.options.max_connections:
            return _refuse(429, "too_many_connections", "too many connections")
        self._tick()
        visit.session = self._venue.connect(user=user, peer=visit.peer)
        return None

    async def _handle(self, visit: "_Visit", socket: ServerSocket) -> None:
        self.accepted += 1
        await visit.run(socket)
        assert visit.session is not None
        # Before the close frame, whose answer may take a while: nothing is routed to it any more.
        self._venue.disconnect(visit.session)
        await visit.close(socket)


def _refuse(status: int, code: str, message: str) -> Refusal:
    return Refusal(status, msgspec.json.encode({"code": code, "message": message}).decode(), _JSON)


@final
class _Visit:
    """One connection: a reader, a writer and a heartbeat around its session."""

    def __init__(self, venue: Venue, stream: _Mortal, peer: str, tick: Callable[[], None]) -> None:
        self.peer = peer
        self.session: Session | None = None
        self._venue = venue
        self._stream = stream
        self._tick = tick
        self._pending = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self, socket: ServerSocket) -> None:
        session = self.session
        assert session is not None
        session.on_pending = self._wake
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, socket, session)
                nursery.start_soon(self._beat, socket, session)
                await self._read(socket, session)

    async def close(self, socket: ServerSocket) -> None:
        assert self.session is not None
        if self.session.order in {Order.CUT, Order.FREEZE}:
            await trio.aclose_forcefully(self._stream)
            return
        await socket.close(*self.session.closing)

    def _wake(self) -> None:
        self._pending.set()

    async def _read(self, socket: ServerSocket, session: Session) -> None:
        with suppress(SocketClosed, WriteTimeout):
            while True:
                message = await socket.receive()
                self._tick()
                session.receive(message)
        self._scope.cancel()

    async def _write(self, socket: ServerSocket, session: Session) -> None:
        with suppress(SocketClosed, WriteTimeout):
            while session.order in {None, Order.FREEZE}:
                if session.order is Order.FREEZE:
                    self._stream.die()
                frames = session.take(_WRITE_BYTES)
                if frames:
                    await socket.send_frames(frames)
                else:
                    await self._pending.wait()
                    self._pending = trio.Event()
            if session.order is Order.CUT:
                await trio.aclose_forcefully(self._stream)
        self._scope.cancel()

    async def _beat(self, socket: ServerSocket, session: Session) -> None:
        options = self._venue.options
        missed = 0
        with suppress(SocketClosed, WriteTimeout):
            while missed < options.missed_pongs:
                await trio.sleep(options.ping_interval_s if missed == 0 else 0)
                if session.order is Order.FREEZE:
                    await trio.sleep_forever()
                with trio.move_on_after(options.ping_interval_s) as waiting:
                    answered = trio.Event()
                    socket.ping_nowait(answered.set)
                    if socket.has_rest:
                        await socket.send_frames(b"")
                    await answered.wait()
                missed = missed + 1 if waiting.cancelled_caught else 0
        if missed >= options.missed_pongs:
            # No close frame: who does not answer pings does not read either.
            session.command(Order.CUT)
