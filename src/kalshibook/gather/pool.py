"""
All connections to the exchange, by role, and which market is on which. On Trio.

One connection's loss is its own: it reconnects and fills again, while nothing is said on the others.
"""

import itertools
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, final

import msgspec
import trio

from kalshibook.gather import commands
from kalshibook.gather.books import Shared
from kalshibook.gather.connection import Connection, ConnectionHealth, SignsHandshake
from kalshibook.gather.incidents import GatherIncidentKind, GatherIncidents
from kalshibook.gather.placement import Placement
from kalshibook.gather.records import Notice, Received
from kalshibook.gather.router import Router
from kalshibook.gather.session import Role
from kalshibook.gather.states import ConnectionState
from kalshibook.gather.twins import Twins

__all__ = ["Pool", "PoolHealth"]

_MAINTAIN_S: Final = 1.0
_MOVES: Final = 200
"""Markets that change their connection at once, to even out the load; each costs a snapshot."""

_MOVE_PATIENCE: Final = 10
"""Rounds after which a moved market is followed by its new connection, whatever the old one says."""


class PoolHealth(msgspec.Struct, frozen=True):
    """How the connections are."""

    connections: tuple[ConnectionHealth, ...]
    markets: int
    """Markets that should be followed."""
    homeless: int
    """Markets that no connection has room for."""
    imbalance: float
    by_state: dict[str, int]
    """Markets by state; those on a connection that is down are `wanted`."""

    @property
    def down(self) -> list[str]:
        """Return the connections that are not open, with their reasons."""
        shut = {ConnectionState.CONNECTING.value, ConnectionState.WAITING.value}
        return [f"{one.role}-{one.number}: {one.reason}" for one in self.connections if one.state in shut]


@final
class Pool:
    """
    Keeps connections up and markets on them. Its methods are called on Trio's thread.

    Args:
        url: of the exchange's WebSocket.
        signer: signs handshakes.
        shared: what sessions have in common.
        router: where frames go.
        incidents: where troubles go.
        on_left: told of each socket epoch that has ended, after its last frame.
        on_frame: told of each frame that is handed on, for who follows the lives of markets.
        clock_us: the time, microseconds since the epoch.
        run_id: makes connection ids of this run unlike those of any other.
    """

    def __init__(
        self,
        url: str,
        signer: SignsHandshake | None,
        shared: Shared,
        router: Router,
        incidents: GatherIncidents,
        *,
        run_id: str,
        clock_us: Callable[[], int],
        on_left: Callable[[str], None] = lambda _: None,
        on_frame: Callable[[Received], None] = lambda _: None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        options = shared.options
        self._url = url
        self._signer = signer
        self._shared = shared
        self._router = router
        self._incidents = incidents
        self._on_left = on_left
        self._on_frame = on_frame
        self._clock_us = clock_us
        self._ssl_context = ssl_context
        self._run_id = run_id
        self._epochs = itertools.count(1)
        self._twins = Twins()
        self.placement: Final = Placement(
            shared.limits,
            connections=min(options.book_connections, options.max_connections),
            most=options.max_connections,
        )
        self._books: list[Connection] = []
        self._others = [
            *(self._connection(Role.LIFECYCLE, number) for number in range(options.lifecycle_connections)),
            *(self._connection(Role.TRADES, number) for number in range(options.trade_connections)),
        ]
        self._nursery: trio.Nursery | None = None
        self._moving: dict[str, int] = {}
        self._rounds = 0
        self._unhealed: dict[str, str] = {}
        self._unhealed_round = -1

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, and keep everything up, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for connection in self._others:
                nursery.start_soon(connection.run)
            self._open_more()
            task_status.started()
            while True:
                await trio.sleep(_MAINTAIN_S)
                self._maintain()

    async def add(self, tickers: Iterable[str]) -> None:
        """Follow the books of markets; gives way to other tasks when there are many."""
        for batch in _batched(tickers):
            self._place(self.placement.add(batch))
            await trio.lowlevel.checkpoint()

    async def remove(self, tickers: Iterable[str]) -> None:
        """Follow the books of markets no more, and tell readers."""
        for batch in _batched(tickers):
            for number, removed in self.placement.remove(batch).items():
                if number < len(self._books):
                    self._books[number].remove(removed)
                for ticker in removed:
                    self._moving.pop(ticker, None)
                    self._router.tell(Notice("ended", "removed", "", market_ticker=ticker))
            await trio.lowlevel.checkpoint()

    def request(self, tickers: Iterable[str] | None) -> int:
        """Ask for snapshots, for the sake of others: of these markets, or of all; return of how many."""
        if tickers is None:
            return sum(
                connection.request(list(self.placement.on(connection.number))) for connection in self._books
            )
        return sum(self._books[number].request(batch) for number, batch in self._by_home(tickers).items())

    def heal(self, tickers: Iterable[str]) -> int:
        """Ask at once for markets whose books cannot be right; return of how many."""
        return sum(self._books[number].heal(batch) for number, batch in self._by_home(tickers).items())

    def unhealed(self) -> Mapping[str, str]:
        """Return the markets that no socket can make whole at present, with reasons; a second old at most."""
        if self._unhealed_round != self._rounds:
            self._unhealed_round = self._rounds
            now_us = self._clock_us()
            self._unhealed = {
                ticker: reason for connection in self._books for ticker, reason in connection.unhealed(now_us)
            }
        return self._unhealed

    def is_unhealed(self, ticker: str) -> bool:
        """Tell whether that is so of a market at this moment."""
        number = self.placement.home(ticker)
        if number is None or number >= len(self._books):
            return False
        return self._books[number].is_unhealed(ticker, self._clock_us())

    @property
    def connections(self) -> Sequence[Connection]:
        """All connections, those for books first."""
        return (*self._books, *self._others)

    @property
    def is_live(self) -> bool:
        """Whether every connection is open and whole."""
        return bool(self._books) and all(one.state is ConnectionState.LIVE for one in self.connections)

    def has_twin(self, connection: str) -> bool:
        """Tell whether another connection for lifecycle messages is live, beside this socket epoch."""
        return any(
            one.role is Role.LIFECYCLE
            and one.state is ConnectionState.LIVE
            and one.session is not None
            and one.session.connection != connection
            for one in self._others
        )

    @property
    def twins_dropped(self) -> int:
        """Lifecycle messages that had come on another connection before."""
        return self._twins.dropped

    def health(self) -> PoolHealth:
        """Return how the connections are."""
        connections = tuple(connection.health() for connection in self.connections)
        by_state: dict[str, int] = {}
        for one in connections:
            for state, count in one.markets.items():
                by_state[state] = by_state.get(state, 0) + count
        markets = len(self.placement)
        known = sum(by_state.values())
        if markets > known:
            by_state["wanted"] = by_state.get("wanted", 0) + markets - known
        return PoolHealth(
            connections, markets, len(self.placement.homeless), self.placement.imbalance, by_state
        )

    # The desk.

    @property
    def is_full(self) -> bool:
        """Whether sockets should not be read now."""
        return self._router.is_full

    async def room(self) -> None:
        """Wait until they may."""
        detail = "sockets are not read until Kafka has taken some of what waits"
        self._incidents.record(GatherIncidentKind.BACKPRESSURE, detail)
        await self._router.room()

    def route(self, role: Role, received: Received) -> None:
        """Hand a frame on, unless its twin was."""
        if role is Role.LIFECYCLE and received.sequence is not None:
            body = bytes(commands.decode_head(received.frame).msg)
            if not self._twins.passes(received.connection, body, now_us=received.received_us):
                return
        self._on_frame(received)
        self._router.route(received)

    def tell(self, notice: Notice) -> None:
        """Hand a notice on."""
        self._router.tell(notice)

    def overfull(self, number: int, tickers: Sequence[str]) -> None:
        """Place markets elsewhere that a connection has no room for."""
        self._place(self.placement.overfull(number, tickers))

    def released(self, number: int, tickers: Sequence[str]) -> None:
        """Let moved markets be followed by their new connection: nothing of the old one comes any more."""
        moved = [ticker for ticker in tickers if self._moving.pop(ticker, None) is not None]
        for ticker in moved:
            # Between the two nobody follows it.
            self._router.tell(Notice("stale", "moved", f"from connection {number}", market_ticker=ticker))
        self._follow(moved)

    def markets_of(self, number: int) -> Sequence[str]:
        """Return the markets that a connection should carry, but for those that another still lets go."""
        return [ticker for ticker in self.placement.on(number) if ticker not in self._moving]

    def joined(self, connection: str) -> None:
        """Note that a socket epoch begins."""
        self._twins.joined(connection)

    def left(self, connection: str) -> None:
        """Note that one has ended."""
        self._twins.forget(connection)
        self._on_left(connection)

    def incident(
        self, kind: GatherIncidentKind, detail: str, connection: str | None, ticker: str | None = None
    ) -> None:
        """Record an incident."""
        self._incidents.record(kind, detail, connection=connection, ticker=ticker)

    # Placing.

    def _by_home(self, tickers: Iterable[str]) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for ticker in tickers:
            number = self.placement.home(ticker)
            if number is not None and number < len(self._books):
                found.setdefault(number, []).append(ticker)
        return found

    def _connection(self, role: Role, number: int) -> Connection:
        return Connection(
            role,
            number,
            self._url,
            self._signer,
            self._shared,
            self,
            name_epoch=self._name_epoch,
            clock_us=self._clock_us,
            ssl_context=self._ssl_context,
        )

    def _name_epoch(self, place: str) -> str:
        return f"{place}-{self._run_id}-{next(self._epochs)}"

    def _open_more(self) -> None:
        while len(self._books) < self.placement.connections:
            connection = self._connection(Role.BOOKS, len(self._books))
            self._books.append(connection)
            assert self._nursery is not None
            self._nursery.start_soon(connection.run)

    def _place(self, placed: dict[int, list[str]]) -> None:
        if self._nursery is not None:
            self._open_more()
        for number, tickers in placed.items():
            # Without a socket, or before the start, it takes them from the placement later.
            if number < len(self._books):
                self._books[number].add(tickers)

    def _follow(self, tickers: Iterable[str]) -> None:
        by_number: dict[int, list[str]] = {}
        for ticker in tickers:
            number = self.placement.home(ticker)
            if number is not None:
                by_number.setdefault(number, []).append(ticker)
        self._place(by_number)

    def _maintain(self) -> None:
        self._rounds += 1
        self._place(self.placement.settle())
        if self.placement.homeless:
            detail = f"{len(self.placement.homeless):,} markets have no connection"
            self._incidents.record(GatherIncidentKind.HOMELESS, detail)
        late = [ticker for ticker, since in self._moving.items() if self._rounds - since > _MOVE_PATIENCE]
        for ticker in late:
            del self._moving[ticker]
        self._follow(late)
        if not self._moving and all(one.state is ConnectionState.LIVE for one in self._books):
            self._even_out()

    def _even_out(self) -> None:
        moves = self.placement.moves(_MOVES)
        if not moves:
            return
        self._open_more()
        detail = f"{len(moves)} markets change their connection to even out the load"
        self._incidents.record(GatherIncidentKind.MOVED, detail)
        by_old: dict[int, list[str]] = {}
        for move in moves:
            self._moving[move.ticker] = self._rounds
            by_old.setdefault(move.old, []).append(move.ticker)
        for number, tickers in by_old.items():
            if not self._books[number].remove(tickers):
                self.released(number, tickers)


def _batched(tickers: Iterable[str], size: int = 1_000) -> Iterable[list[str]]:
    iterator = iter(tickers)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
