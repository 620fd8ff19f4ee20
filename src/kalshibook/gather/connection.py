"""
One place in the pool, kept connected: handshake, reading, writing, watching, and again. On Trio.

What frames mean is the session's business; here is what a network adds. A reader runs before anything
is subscribed to, so that the flood of first snapshots meets an open hand. A socket that is gone without
a word (half open) is noticed by pings, one that answers pings and carries nothing by the session.
"""

import ssl
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol, TypeVar, final
from urllib.parse import urlsplit

import msgspec
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, WebSocketConnection

from kalshibook.gather.books import Shared
from kalshibook.gather.clock import explain_unauthorized, skew_s
from kalshibook.gather.dialing import BROKEN, dialed
from kalshibook.gather.effects import Drop, Overfull, Released, Send, Tell, Trouble
from kalshibook.gather.incidents import GatherIncidentKind
from kalshibook.gather.ledger import OpenGap
from kalshibook.gather.records import Notice, Received
from kalshibook.gather.session import Role, Session
from kalshibook.gather.states import CONNECTIONS, ConnectionEvent, ConnectionState
from kalshibook.wire.gaps import GapCause

__all__ = ["Connection", "ConnectionHealth", "Desk", "SignsHandshake"]

_TICK_S: Final = 0.1
_STEADY_US: Final = 10_000_000
"""A connection that held so long was no failed attempt: the next pause is short again."""

_LONG_DOWN_US: Final = 5_000_000
"""A reconnection takes less; until then no other way is looked for."""

_UNAUTHORIZED: Final = 401

E = TypeVar("E", bound=Exception)


class SignsHandshake(Protocol):
    """What proves an identity: `gather.credentials.Credentials`."""

    def headers(self, method: str, path: str, now_ms: int) -> Mapping[str, str]:
        """Return the headers that sign a request."""


class Desk(Protocol):
    """What a connection hands its findings to: the pool."""

    @property
    def is_full(self) -> bool:
        """Whether sockets should not be read now."""

    async def room(self) -> None:
        """Wait until they may."""

    def route(self, role: Role, received: Received) -> None:
        """Take a frame."""

    def tell(self, notice: Notice) -> None:
        """Take a notice."""

    def overfull(self, number: int, tickers: Sequence[str]) -> None:
        """Place markets elsewhere that this connection has no room for."""

    def released(self, number: int, tickers: Sequence[str]) -> None:
        """Know that this connection carries these markets no more."""

    def markets_of(self, number: int) -> Sequence[str]:
        """Return the markets that this connection should carry."""

    def joined(self, connection: str) -> None:
        """Know that a connection begins."""

    def left(self, connection: str) -> None:
        """Know that one has ended, after its last frame and notice."""

    def incident(
        self, kind: GatherIncidentKind, detail: str, connection: str | None, ticker: str | None = None
    ) -> None:
        """Record an incident."""


class ConnectionHealth(msgspec.Struct, frozen=True):
    """How one connection is."""

    role: str
    number: int
    state: str
    connection: str | None
    """Id of its present socket epoch, or None."""
    reason: str
    """Why it is not connected, as far as it is known."""
    failures: int
    """Attempts in a row that came to nothing."""
    connects: int
    """Handshakes that succeeded since the start."""
    frames: int
    """Received since the start."""
    last_frame_us: int | None
    markets: dict[str, int]
    """Markets by state; empty for other roles than books."""


@final
class Connection:
    """
    Keeps one socket up until it is cancelled.

    Args:
        role: what it is for.
        number: its place among those of its role.
        url: of the exchange's WebSocket.
        signer: signs the handshake, or None where none is needed.
        shared: what all sessions have in common.
        desk: where its findings go.
        name_epoch: makes a connection id that is unique for ever.
        clock_us: the time, microseconds since the epoch.
    """

    def __init__(
        self,
        role: Role,
        number: int,
        url: str,
        signer: SignsHandshake | None,
        shared: Shared,
        desk: Desk,
        *,
        name_epoch: Callable[[str], str],
        clock_us: Callable[[], int],
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.role: Final = role
        self.number: Final = number
        self.state = ConnectionState.CONNECTING
        self.session: Session | None = None
        """Of the open socket, or None."""
        self._url = url
        self._path = urlsplit(url).path
        self._signer = signer
        self._shared = shared
        self._options = shared.options
        self._desk = desk
        self._name_epoch = name_epoch
        self._clock_us = clock_us
        self._ssl_context = ssl_context
        self._gaps: list[OpenGap] = []
        self._failures = self._connects = self._frames = 0
        self._reason = ""
        self._down_since_us = clock_us()
        self._last_frame_us: int | None = None
        self._outbox: deque[bytes] = deque()
        self._has_mail = trio.Event()
        self._scope = trio.CancelScope()
        self._lost: tuple[GapCause, str] | None = None
        self._waits_for_room = False

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        try:
            while True:
                await self._once()
                self._turn(ConnectionEvent.LOST)
                await trio.sleep(self._pause_s())
                self._turn(ConnectionEvent.RETRY)
        finally:
            self._turn(ConnectionEvent.STOP)

    # What the pool asks.

    def add(self, tickers: Sequence[str]) -> None:
        """Follow markets; without a socket they are taken from the desk once there is one."""
        if self.session is not None:
            self.session.add(tickers, self._clock_us())
            self._carry_out(self.session)

    def remove(self, tickers: Sequence[str]) -> bool:
        """Follow markets no more; return False where nothing was followed, as there is no socket."""
        if self.session is None:
            return False
        self.session.remove(tickers, self._clock_us())
        self._carry_out(self.session)
        return True

    def request(self, tickers: Sequence[str]) -> int:
        """Ask for snapshots of live markets, for others; return of how many."""
        if self.session is None:
            return 0
        count = self.session.request(tickers, self._clock_us())
        self._carry_out(self.session)
        return count

    def heal(self, tickers: Sequence[str]) -> int:
        """Ask at once for markets whose books cannot be right; return of how many."""
        if self.session is None:
            return 0
        count = self.session.heal(tickers, self._clock_us())
        self._carry_out(self.session)
        return count

    def unhealed(self, now_us: int) -> Iterator[tuple[str, str]]:
        """Yield the markets that this connection cannot make whole at present, each with the reason."""
        session = self.session
        if session is None:
            if now_us - self._down_since_us > _LONG_DOWN_US:
                reason = f"its connection is down: {self._reason or 'it has not been up yet'}"
                yield from ((ticker, reason) for ticker in self._desk.markets_of(self.number))
            return
        yield from (
            (ticker, "the exchange's socket does not answer for it") for ticker in session.books.missing
        )

    def is_unhealed(self, ticker: str, now_us: int) -> bool:
        """Tell whether this connection cannot make one of its markets whole at this moment."""
        if self.session is None:
            return now_us - self._down_since_us > _LONG_DOWN_US
        return self.session.books.is_missing(ticker)

    def drop(self, cause: GapCause, reason: str) -> None:
        """Give the socket up, and open another."""
        if self._lost is None:
            self._lost = (cause, reason)
        # At once, though the socket is closed later: nobody must take it for live meanwhile.
        self._turn(ConnectionEvent.LOST)
        self._scope.cancel()

    def health(self) -> ConnectionHealth:
        """Return how it is."""
        session = self.session
        markets = {} if session is None else session.books.counts()
        return ConnectionHealth(
            self.role.value,
            self.number,
            self.state.value,
            None if session is None else session.connection,
            self._reason,
            self._failures,
            self._connects,
            self._frames + (0 if session is None else session.frames),
            self._last_frame_us if session is None else session.last_frame_us,
            markets,
        )

    # One socket.

    async def _once(self) -> None:
        self._lost = None
        self._scope = trio.CancelScope()
        opened_us: int | None = None
        headers: Mapping[str, str] = {}
        if self._signer is not None:
            # Made for each attempt: a signature holds for seconds.
            headers = self._signer.headers("GET", self._path, self._clock_us() // 1_000)
        # Groups, because trio-websocket's reader is a task beside ours.
        try:
            async with dialed(
                self._url,
                headers,
                timeout_s=self._options.command_timeout_s,
                max_message_bytes=self._options.max_frame_bytes,
                ssl_context=self._ssl_context,
            ) as socket:
                opened_us = self._clock_us()
                await self._converse(socket, opened_us)
        except* ConnectionRejected as group:
            self._refused(self._explained(_first(group, ConnectionRejected)))
        except* trio.TooSlowError:
            self._refused(f"{self._url} has not answered within {self._options.command_timeout_s:g} s")
        except* (HandshakeError, OSError, UnicodeError, *BROKEN) as group:
            error = _first(group, Exception)
            if opened_us is None:
                self._refused(f"{self._url} cannot be reached: {str(error) or type(error).__name__}")
        if opened_us is not None and self._clock_us() - opened_us >= _STEADY_US:
            self._failures = 0
        self._failures += 1

    def _explained(self, rejection: ConnectionRejected) -> str:
        text = (rejection.body or b"").decode(errors="replace")[:200].strip()
        if rejection.status_code != _UNAUTHORIZED:
            return f"{self._url} refuses the handshake with status {rejection.status_code}: {text}"
        fields = {name.lower(): value.decode("latin-1") for name, value in rejection.headers}
        skew = skew_s(fields.get(b"date"), fields.get(b"age"), self._clock_us() // 1_000)
        return explain_unauthorized(text, skew, signed=self._signer is not None)

    def _refused(self, reason: str) -> None:
        self._reason = reason
        self._desk.incident(GatherIncidentKind.REFUSED, reason, None)

    async def _converse(self, socket: WebSocketConnection, now_us: int) -> None:
        connection = self._name_epoch(f"{self.role.value}-{self.number}")
        session = Session(self.role, connection, self._shared, gaps=self._gaps)
        self._gaps = []
        self._outbox.clear()
        self._connects += 1
        self._reason = ""
        self._turn(ConnectionEvent.OPENED)
        self._desk.joined(connection)
        self._desk.incident(GatherIncidentKind.CONNECTED, self._url, connection)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, socket, session)
                    nursery.start_soon(self._write, socket)
                    nursery.start_soon(self._ping, socket)
                    # Only now: what is subscribed to from here on finds a reader.
                    self.session = session
                    if self.role is Role.BOOKS:
                        session.add(self._desk.markets_of(self.number), now_us)
                    session.opened(now_us)
                    self._carry_out(session)
                    await self._keep_time(session)
        finally:
            self.session = None
            self._down_since_us = self._clock_us()
            self._end(session)

    def _end(self, session: Session) -> None:
        cause, reason = self._lost or ("disconnected", "this gatherer has stopped")
        self._reason = reason
        self._frames += session.frames
        self._last_frame_us = session.last_frame_us
        if self._lost is not None:
            self._gaps = session.lost(cause, self._clock_us())
            self._carry_out(session)
            self._desk.incident(GatherIncidentKind.DISCONNECTED, reason, session.connection)
        self._desk.left(session.connection)

    async def _read(self, socket: WebSocketConnection, session: Session) -> None:
        desk, role, clock_us = self._desk, self.role, self._clock_us
        effects = session.effects
        while True:
            try:
                message = await socket.get_message()
            except ConnectionClosed as closed:
                reason = closed.reason
                text = "without a close frame" if reason is None else f"{reason.code} {reason.reason or ''}"
                self.drop("disconnected", f"closed by the exchange: {text.strip()}")
                return
            now_us = clock_us()
            frame = message.encode() if isinstance(message, str) else message
            received = session.receive(frame, now_us)
            if effects:
                self._carry_out(session)
            if received is not None:
                desk.route(role, received)
            if desk.is_full:
                self._waits_for_room = True
                await desk.room()
                self._waits_for_room = False
                session.excuse(clock_us() - now_us)

    async def _write(self, socket: WebSocketConnection) -> None:
        while True:
            while self._outbox:
                try:
                    await socket.send_message(self._outbox.popleft().decode())
                except BROKEN:
                    return  # the reader says why
            self._has_mail = trio.Event()
            await self._has_mail.wait()

    async def _ping(self, socket: WebSocketConnection) -> None:
        interval_s = self._options.ping_interval_s
        while True:
            await trio.sleep(interval_s)
            with trio.move_on_after(interval_s) as scope:
                try:
                    await socket.ping()
                except BROKEN:
                    return  # as above
            # A pong may wait behind frames that we do not read.
            if scope.cancelled_caught and not self._waits_for_room:
                self.drop("disconnected", f"a ping was not answered within {interval_s:g} s")

    async def _keep_time(self, session: Session) -> None:
        before_us = self._clock_us()
        while True:
            await trio.sleep(_TICK_S)
            now_us = self._clock_us()
            if now_us < before_us:
                session.set_back(before_us - now_us)
            before_us = now_us
            if not self._waits_for_room:
                session.tick(now_us)
                self._carry_out(session)
            self._judge(session)

    def _judge(self, session: Session) -> None:
        if session.is_whole:
            self._turn(ConnectionEvent.WHOLE)
        else:
            self._turn(ConnectionEvent.DOUBT)

    def _carry_out(self, session: Session) -> None:
        effects = session.effects
        while effects:
            effect = effects.popleft()
            if isinstance(effect, Send):
                self._outbox.append(effect.command)
                self._has_mail.set()
            elif isinstance(effect, Tell):
                self._desk.tell(effect.notice)
            elif isinstance(effect, Trouble):
                self._desk.incident(effect.kind, effect.detail, session.connection, effect.ticker)
            elif isinstance(effect, Drop):
                self.drop(effect.cause, effect.reason)
            elif isinstance(effect, Overfull):
                self._desk.overfull(self.number, effect.tickers)
            else:
                assert isinstance(effect, Released)
                self._desk.released(self.number, effect.tickers)

    def _pause_s(self) -> float:
        options = self._options
        bound = min(options.backoff_first_s * 2 ** min(self._failures - 1, 30), options.backoff_limit_s)
        # The whole pause at random: after a failure of the exchange nobody comes back in step.
        return self._shared.random.uniform(0, bound)

    def _turn(self, event: ConnectionEvent) -> None:
        self.state = CONNECTIONS[self.state][event]


def _first(group: BaseExceptionGroup[BaseException], kind: type[E]) -> E:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first(error, kind)
        if isinstance(error, kind):
            return error
    raise AssertionError(f"no {kind.__name__} in {group!r}")
