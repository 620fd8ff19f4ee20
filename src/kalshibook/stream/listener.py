"""
The WebSocket server: a Trio listener of its own, and a nursery for each client.

It does not run on Hypercorn, whose Trio worker shields socket writes from cancellation: no deadline
fires there for a client that stops reading, and such a client holds up the shutdown.
"""

import errno
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, final
from urllib.parse import urlsplit

import msgspec
import trio

from kalshibook.errors import SettingsError
from kalshibook.store import BookStore, ChangeBatch, FoldedChanges, IncidentKind
from kalshibook.stream.changes import Changes, ChangeStatistics, open_changes
from kalshibook.stream.connection import Cause, Connection, End, now_us
from kalshibook.stream.heartbeat import Heartbeat
from kalshibook.stream.hub import Client, Hub, HubFull, HubStatistics
from kalshibook.stream.options import StreamOptions
from kalshibook.stream.rounds import TimeSlice, WriteRounds
from kalshibook.stream.socket import Handshake, Refusal, ServerSocket, serve_socket

__all__ = ["StreamServer", "StreamStatistics", "refuse"]

logger = logging.getLogger(__name__)

# A feed that catches up makes batches of 65,536 changes, at a few µs each and half a µs for each client
# that has a part in it: so many are handed out between two looks at the clock.
_HANDED_AT_ONCE: Final = 2_000
_LEAST_PART: Final = 10
# What is handed over change by change, deltas above all, is written after so many.
_ROUTED_AT_ONCE: Final = 2_000
# Newest states are written after as many for each client, but at most so many in all: a tenth of a second's,
# and not the markets of an exchange times all clients.
_MOST_WAITING: Final = 200_000

# While the store is behind: how soon it is noticed that it has caught up, how many times as long as
# writing to all clients the pause after it is, which leaves the feed nine tenths of the interpreter
# however many clients there are, and how many changes are folded between two looks at the clock.
_LOOK_S: Final = 0.02
_PAUSES_EACH: Final = 9
_FOLDED_AT_ONCE: Final = 1_000

_QUIET: Final = frozenset({Cause.CLIENT, Cause.STOP})


class StreamStatistics(msgspec.Struct, frozen=True):
    """What the WebSocket server did since its start, and holds now."""

    open: int
    """TCP connections now, those still in the handshake included."""
    accepted: int
    """Handshakes that became a WebSocket."""
    refused: dict[int, int]
    """Handshakes refused, by HTTP status."""
    ended: dict[str, int]
    """Connections that ended, by `Cause`."""
    changes: ChangeStatistics | None
    """The bridge from the store; None before the start."""
    hub: HubStatistics


@final
class StreamServer:
    """
    Serves one store to WebSocket clients; `run` it in a nursery.

    Everything happens on the Trio thread. At the end of `run` every client was told, or dropped
    when it did not listen.
    """

    def __init__(self, store: BookStore, options: StreamOptions | None = None) -> None:
        self._store = store
        self._options = options or StreamOptions()
        self._hub = Hub(store, self._options)
        self._slice = TimeSlice()
        self._rounds = WriteRounds(self._slice)
        self._heartbeat = Heartbeat(self._options.ping_interval_s, self._options.pong_timeout_s)
        self._changes: Changes | None = None
        self._open: set[_Visit] = set()
        self._one_gone = trio.Event()
        self._stopping = False
        self._accepted = 0
        self._refused: Counter[int] = Counter()
        self._ended: Counter[Cause] = Counter()
        self.addresses: tuple[tuple[str, int], ...] = ()
        """Host and port of each listening socket, once `run` has started."""

    async def run(self, *, task_status: trio.TaskStatus["StreamServer"] = trio.TASK_STATUS_IGNORED) -> None:
        """
        Listen and serve until cancelled; for `nursery.start`, which returns this server.

        Raises:
            SettingsError: the address cannot be listened on.
        """
        listeners = await _listen(self._options)
        self.addresses = tuple(listener.socket.getsockname()[:2] for listener in listeners)
        async with (
            open_changes(
                self._store, capacity=self._options.change_capacity, batches=self._options.change_batches
            ) as changes,
            trio.open_nursery() as clients,
        ):
            self._changes = changes
            # From now on it is told when that changes, and nobody is connected yet.
            self._hub.is_behind = not self._store.ready
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._deliver, changes)
                    nursery.start_soon(self._heartbeat.run)
                    serve = partial(trio.serve_listeners, handler_nursery=clients)
                    await nursery.start(serve, self.serve_client, listeners)
                    task_status.started(self)
            finally:
                with trio.CancelScope(shield=True):
                    await self._stop_clients()

    async def serve_client(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one connected stream to its end, whatever that is; it raises nothing."""
        if self._stopping:
            # Accepted in the last moment: `_stop_clients` may have looked already.
            await trio.aclose_forcefully(stream)
            return
        visit = _Visit(_peer(stream))
        self._open.add(visit)
        try:
            # Shielded, so that a cancelled server can still tell its clients; `_stop_clients`,
            # which always runs and has a time limit, takes the place of the cancellation.
            with visit.scope:
                judge, handle = partial(self._judge, visit), partial(self._handle, visit)
                await serve_socket(stream, judge, handle, self._options)
        except Exception:
            # One client's failure, ours or a library's, is not the others'.
            logger.exception("the connection of WebSocket client %s failed", visit.peer)
            visit.end = End(Cause.FAILURE, 1011, "internal error")
        finally:
            self._forget(visit)

    def statistics(self) -> StreamStatistics:
        """Return the counts so far. From another thread they may be of slightly different moments."""
        return StreamStatistics(
            open=len(self._open),
            accepted=self._accepted,
            refused=dict(self._refused),
            ended={cause.value: count for cause, count in dict(self._ended).items()},
            changes=self._changes.statistics() if self._changes else None,
            hub=self._hub.statistics(),
        )

    def counts(self) -> dict[str, int]:
        """Return the counts so far by name, for metrics; from any thread, as `statistics`."""
        statistics = self.statistics()
        counts = {"open": statistics.open, "accepted": statistics.accepted}
        counts |= {f"refused_{status}": count for status, count in statistics.refused.items()}
        counts |= {f"ended_{cause}": count for cause, count in statistics.ended.items()}
        if statistics.changes is not None:
            counts |= {
                f"changes_{name}": count for name, count in msgspec.structs.asdict(statistics.changes).items()
            }
        for name, value in msgspec.structs.asdict(statistics.hub).items():
            if isinstance(value, dict):
                counts |= {f"{name}_{key}": count for key, count in value.items()}
            else:
                counts[name] = value
        return counts

    async def _deliver(self, changes: Changes) -> None:
        pause_s = 0.0
        async for first in changes:
            self._slice.begin()
            # All that waits goes out in one round, however many batches it is.
            await self._send_round((first, *changes.take_waiting()))
            if self._hub.is_behind and self._hub.clients and not self._store.ready:
                pause_s = await self._deliver_folded(changes, pause_s)
            elif self._options.gather_ms:
                await changes.gather(self._options.gather_ms / 1_000)

    async def _deliver_folded(self, changes: Changes, pause_s: float) -> float:
        """
        Let changes gather for long while the store is behind, and fold them.

        Nobody is served by each of a thousand states of the past, and whatever is spent on them
        makes the past last longer. Nothing that cannot be folded is missed: subscriptions to it have
        ended when the store fell behind, and none is opened before it has caught up.

        Args:
            changes: where they gather.
            pause_s: how long, at least.

        Returns:
            How long the next ones should.
        """
        folded = FoldedChanges()
        rest: list[ChangeBatch] = []
        ends = trio.current_time() + max(pause_s, self._options.gather_behind_ms / 1_000)
        while (left := ends - trio.current_time()) > 0:
            await changes.gather(min(_LOOK_S, left))
            self._slice.begin()
            batches = changes.take_waiting()
            # Asked after they were taken: what was taken while the store is behind is from before.
            if self._store.ready:
                rest = batches
                break
            for part in (part for batch in batches for part in _parted(batch, _FOLDED_AT_ONCE)):
                folded.add(part.changes)
                await self._slice.give_way()
        began = trio.current_time()
        await self._send_round((ChangeBatch(folded.notices(), folded.conflated, 0), *rest))
        return (trio.current_time() - began) * _PAUSES_EACH

    async def _send_round(self, batches: Sequence[ChangeBatch]) -> None:
        for batch in batches:
            await self._route(batch)
        self._rounds.begin()
        waiting = 0
        for handed in self._hub.hand_out(_HANDED_AT_ONCE):
            waiting += handed
            if waiting >= min(_ROUTED_AT_ONCE * self._hub.clients, _MOST_WAITING):
                await self._rounds.write()
                waiting = 0
            await self._slice.give_way()
            self._rounds.begin()
        await self._rounds.write()

    async def _route(self, batch: ChangeBatch) -> None:
        routed = 0
        for part in _parted(batch, max(_HANDED_AT_ONCE // max(self._hub.clients, 1), _LEAST_PART)):
            self._rounds.begin()
            self._hub.deliver(part, now_us())
            routed += len(part.changes)
            if routed >= _ROUTED_AT_ONCE:
                await self._rounds.write()
                routed = 0
            await self._slice.give_way()

    async def _stop_clients(self) -> None:
        self._stopping = True
        for visit in self._open:
            if visit.connection is None:
                visit.scope.cancel()
            else:
                visit.connection.stop()
        with trio.move_on_after(self._options.stop_timeout_s):
            while self._open:
                self._one_gone = trio.Event()
                await self._one_gone.wait()
        for visit in self._open:
            visit.scope.cancel()

    def _judge(self, visit: "_Visit", handshake: Handshake) -> Refusal | None:
        refusal = refuse(handshake, self._options)
        if refusal is None:
            try:
                visit.client = self._hub.connect(now_us())
            except HubFull as full:
                refusal = Refusal(503, str(full))
        if refusal is not None:
            self._refused[refusal.status] += 1
            logger.info("WebSocket client %s refused with %d: %s", visit.peer, refusal.status, refusal.reason)
        return refusal

    async def _handle(self, visit: "_Visit", socket: ServerSocket) -> None:
        assert visit.client is not None
        self._accepted += 1
        visit.connection = Connection(socket, visit.client, self._options, self._rounds, self._heartbeat)
        # Stands if `_stop_clients` runs out of patience: nothing else cancels a visit.
        visit.end = End(Cause.STOP, 1001, "the server stops")
        visit.end = await visit.connection.run()
        # Before the close frame, whose answer may take a while: nothing is routed to it any more.
        self._hub.disconnect(visit.client)
        await socket.close(visit.end.code, visit.end.reason)

    def _forget(self, visit: "_Visit") -> None:
        self._open.discard(visit)
        self._one_gone.set()
        if visit.client is not None:
            self._hub.disconnect(visit.client)
        if visit.end is None:
            return
        self._ended[visit.end.cause] += 1
        if visit.end.cause not in _QUIET:
            detail = f"WebSocket client {visit.peer} was cut with {visit.end.code}: {visit.end.reason}"
            self._store.incidents.record(IncidentKind.CLIENT, detail)


@final
class _Visit:
    """One TCP connection, from accept to close."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.scope = trio.CancelScope(shield=True)
        self.client: Client | None = None
        self.connection: Connection | None = None
        self.end: End | None = None


def refuse(handshake: Handshake, options: StreamOptions) -> Refusal | None:
    """Judge a handshake by where it wants to and where it comes from; None finds nothing against it."""
    if handshake.path.partition("?")[0] != options.path:
        return Refusal(404, f"there is nothing here; WebSockets are at {options.path}")
    origin = handshake.origin
    if origin is None or "*" in options.origins or origin in options.origins:
        return None
    page = _hostname(origin)
    if page is not None and page == _hostname(f"//{handshake.host}"):
        return None
    return Refusal(403, f"pages of {origin} may not connect; stream.origins lists those that may")


def _parted(batch: ChangeBatch, size: int) -> Iterator[ChangeBatch]:
    if len(batch.changes) <= size:
        yield batch
        return
    yield ChangeBatch(batch.changes[:size], batch.conflated, batch.lost)
    for start in range(size, len(batch.changes), size):
        yield ChangeBatch(batch.changes[start : start + size], 0, 0)


async def _listen(options: StreamOptions) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(options.port, host=options.host)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = (
                "is in use by another program; stop that or choose another stream.port (0 takes a free one)"
            )
        else:
            reason = f"cannot be listened on: {error.strerror or error}"
        raise SettingsError(f"port {options.port} of {options.host} {reason}") from None


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _peer(stream: trio.abc.Stream) -> str:
    if isinstance(stream, trio.SocketStream):
        with suppress(OSError):
            host, port = stream.socket.getpeername()[:2]
            return f"{host}:{port}"
    return "unknown"
