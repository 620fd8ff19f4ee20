"""
Faults on demand and by seeded schedule. Pure: what needs a socket is an order to the session.

Nothing here touches a book: whatever is done to clients, the truth stays true.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING, Final, final

from kalshibook.simulator.ledger import FRAME_FAULTS, Fault, FaultKind
from kalshibook.simulator.lives import Course
from kalshibook.simulator.session import Order, Session
from kalshibook.simulator.subscription import Subscription
from kalshibook.stream.channels import Code

if TYPE_CHECKING:
    from kalshibook.simulator.venue import Venue

__all__ = ["FaultInjector", "NothingToHarm"]

_NEVER: Final = 2**63
_DEFAULT_MS: Final = {
    FaultKind.STALL: 3_000,
    FaultKind.REST_BUSY: 1_000,
    FaultKind.REST_ERROR: 1_000,
    FaultKind.REST_SLOW: 3_000,
    FaultKind.REST_OLD: 15_000,
    FaultKind.MAINTENANCE: 5_000,
    FaultKind.CLOCK_SKEW: 10_000,
    FaultKind.UNAUTHORIZED: None,
}
_SKEW_MS: Final = 120_000
_SLOW_S: Final = 2.0
_SERVICE_RESTART: Final = 1012

# How often a fault comes in `lively`, relative to the others.
_LIVELY: Final = {
    FaultKind.LOST: 6,
    FaultKind.DOUBLED: 3,
    FaultKind.REORDERED: 3,
    FaultKind.COUNTER_RESET: 1,
    FaultKind.IMPOSSIBLE_DELTA: 2,
    FaultKind.OVERFLOW: 1,
    FaultKind.CHANNEL_ERROR: 1,
    FaultKind.STALL: 1,
    FaultKind.CUT: 2,
    FaultKind.CLOSED: 1,
    FaultKind.TIMEOUT: 1,
    FaultKind.UNAUTHORIZED: 1,
    FaultKind.REST_BUSY: 1,
    FaultKind.REST_ERROR: 1,
    FaultKind.REST_OLD: 1,
}
_CAMPAIGN: Final = {
    FaultKind.LOST: 5,
    FaultKind.DOUBLED: 2,
    FaultKind.REORDERED: 2,
    FaultKind.COUNTER_RESET: 1,
    FaultKind.IMPOSSIBLE_DELTA: 2,
}


class NothingToHarm(Exception):  # noqa: N818 - reads as the fact it states
    """There is no connection or subscription of the kind that the fault is for."""


@final
class FaultInjector:
    """Does harm to the clients of one venue, and keeps record of it."""

    def __init__(self, venue: "Venue") -> None:
        self._venue = venue
        options = venue.options
        self._random = Random(options.fault_seed)  # noqa: S311 - must be repeatable
        self._unauthorized: list[Fault] = []
        self._lasting: dict[FaultKind, Fault] = {}
        self.next_step = _NEVER
        """At which count of changes `step` is due."""
        self._turn = 0
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._positions: list[int] = []
        self._base: int | None = None
        self._weights = _chosen(options.fault_kinds, _LIVELY if options.faults == "lively" else _CAMPAIGN)
        if options.faults == "lively":
            venue.lives.schedule(venue.now_us, self._lively(options.fault_every_s))
        elif options.faults == "campaign":
            self.campaign(options.fault_count, options.fault_span)

    def inject(
        self,
        kind: FaultKind | str,
        *,
        connection: int | None = None,
        sid: int | None = None,
        channel: str | None = None,
        count: int = 1,
        duration_ms: int | None = None,
    ) -> list[Fault]:
        """
        Do harm now, or to what comes next.

        Args:
            kind: what to do.
            connection: to whom, by the exchange's number; one of those there are unless given.
            sid: to which subscription; one of the connection's unless given.
            channel: to a subscription of which channel; `orderbook_delta` before others unless given.
            count: how often.
            duration_ms: for how long, for those that last.

        Returns:
            The records.

        Raises:
            ValueError: there is no such kind of fault.
            NothingToHarm: there is nobody to do it to.
        """
        kind = FaultKind(kind)
        duration_ms = duration_ms or _DEFAULT_MS.get(kind)
        faults = []
        for _ in range(count):
            session, subscription = self._victim(kind, connection, sid, channel)
            fault = self._venue.ledger.arm(kind, self._venue.now_us, duration_ms=duration_ms)
            if session is not None:
                fault.connection, fault.peer, fault.user = session.number, session.peer, session.user
            if subscription is not None:
                fault.sid, fault.channel = subscription.sid, subscription.channel.name
            if kind in {FaultKind.TIMEOUT, FaultKind.MARKET_LIMIT}:
                fault.connection = connection
            self._do(fault, session, subscription)
            faults.append(fault)
        return faults

    # What the servers ask.

    def denied(self) -> bool:
        """Tell whether the handshake under way shall be refused with 401."""
        if not self._unauthorized:
            return False
        fault = self._unauthorized.pop(0)
        self._happened(fault)
        return True

    def is_on(self, kind: FaultKind) -> bool:
        """Tell whether a fault that lasts is under way, and note that it showed."""
        fault = self._lasting.get(kind)
        if fault is not None and fault.exposed_us is None:
            fault.exposed_us = self._venue.now_us
        return fault is not None

    @property
    def next_us(self) -> int:
        """When something that lasts is over next."""
        return self._timers[0][0] if self._timers else _NEVER

    def run_timer(self) -> None:
        """End what is over next."""
        heapq.heappop(self._timers)[2]()

    def finish(self) -> None:
        """End everything that lasts."""
        while self._timers:
            self.run_timer()

    @property
    def skew_ms(self) -> int:
        """How far the exchange's wall clock is off."""
        return _SKEW_MS if self.is_on(FaultKind.CLOCK_SKEW) else 0

    @property
    def delay_s(self) -> float:
        """How long REST makes a client wait."""
        return _SLOW_S if self.is_on(FaultKind.REST_SLOW) else 0.0

    # Doing it.

    def _victim(
        self, kind: FaultKind, connection: int | None, sid: int | None, channel: str | None
    ) -> tuple[Session | None, Subscription | None]:
        if kind in _OF_THE_EXCHANGE:
            return None, None
        sessions = list(self._venue.sessions.values())
        if connection is not None:
            sessions = [one for one in sessions if one.number == connection]
        if kind in _OF_A_CONNECTION:
            if not sessions:
                raise NothingToHarm("nobody is connected")
            # Whoever subscribes to books has most to lose.
            with_books = [one for one in sessions if any(_has_depth(held) for held in one.subscriptions)]
            return self._random.choice(with_books or sessions), None
        found = [
            (session, subscription)
            for session in sessions
            for subscription in session.subscriptions
            if sid in (None, subscription.sid) and channel in (None, subscription.channel.name)
        ]
        if not found:
            raise NothingToHarm("nobody subscribes to that")
        deep = [one for one in found if _has_depth(one[1]) and not one[1].troubles]
        return self._random.choice(deep or found)

    def _do(self, fault: Fault, session: Session | None, subscription: Subscription | None) -> None:
        kind = fault.kind
        if kind in FRAME_FAULTS:
            assert subscription is not None
            subscription.troubles.append(fault)
        elif kind in {FaultKind.OVERFLOW, FaultKind.CHANNEL_ERROR}:
            assert session is not None
            assert subscription is not None
            session.end(subscription, Code.OVERFLOW if kind is FaultKind.OVERFLOW else Code.CHANNEL_ERROR)
            self._happened(fault)
        elif kind in {FaultKind.TIMEOUT, FaultKind.MARKET_LIMIT}:
            self._venue.refusals.append(fault)
        elif kind is FaultKind.UNAUTHORIZED:
            self._unauthorized.append(fault)
        elif session is not None:
            self._harm_connection(fault, session)
        else:
            self._begin(fault)

    def _harm_connection(self, fault: Fault, session: Session) -> None:
        if fault.kind is FaultKind.STALL:
            session.stall(stalled=True)
            assert fault.duration_ms is not None
            self._later(fault.duration_ms, lambda: session.stall(stalled=False))
        elif fault.kind is FaultKind.HALF_OPEN:
            session.command(Order.FREEZE)
        elif fault.kind is FaultKind.CUT:
            session.command(Order.CUT)
        else:
            session.close(_SERVICE_RESTART, "service restart")
        self._happened(fault)

    def _begin(self, fault: Fault) -> None:
        kind = fault.kind
        self._lasting[kind] = fault
        self._venue.ledger.happened(fault, self._venue.now_us)
        assert fault.duration_ms is not None
        if kind is FaultKind.MAINTENANCE:
            self._venue.lives.halted = True
            for session in tuple(self._venue.sessions.values()):
                session.close(_SERVICE_RESTART, "scheduled maintenance")
        self._later(fault.duration_ms, lambda: self._over(fault))

    def _over(self, fault: Fault) -> None:
        if self._lasting.get(fault.kind) is fault:
            del self._lasting[fault.kind]
            if fault.kind is FaultKind.MAINTENANCE:
                self._venue.lives.halted = False

    def _happened(self, fault: Fault) -> None:
        self._venue.ledger.happened(fault, self._venue.now_us)
        fault.exposed_us = fault.done_us

    def _later(self, duration_ms: int, action: Callable[[], None]) -> None:
        self._turn += 1
        heapq.heappush(self._timers, (self._venue.now_us + duration_ms * 1_000, self._turn, action))

    # Schedules.

    def campaign(self, count: int, span: int) -> None:
        """
        Spread so many frame faults over so many changes, counted from when somebody subscribes to books.

        Args:
            count: how many faults.
            span: over how many changes.
        """
        self._positions, self._base = self._spread(count, span), None
        self.next_step = self._venue.lives.steps if count else _NEVER

    def step(self) -> None:
        """Do what is due after so many changes."""
        steps = self._venue.lives.steps
        if self._base is None:
            if not any(
                _has_depth(held) for one in self._venue.sessions.values() for held in one.subscriptions
            ):
                self.next_step = steps + 1
                return
            self._base = steps
        else:
            try:
                self.inject(self._drawn())
            except NothingToHarm:
                # Nobody is there for the moment: it is not left out, it waits.
                self.next_step = steps + 1
                return
        self.next_step = self._base + self._positions.pop() if self._positions else _NEVER

    def _spread(self, count: int, span: int) -> list[int]:
        """Return positions for `pop`: one in each equal part of the span, never two close together."""
        part = span / max(count, 1)
        places = [int((number + 0.25 + self._random.random() / 2) * part) + 1 for number in range(count)]
        return places[::-1]

    def _lively(self, every_s: float) -> Course:
        while True:
            yield self._venue.now_us + int(self._random.expovariate(1 / every_s) * 1_000_000)
            try:
                self.inject(self._drawn())
            except NothingToHarm:
                continue

    def _drawn(self) -> FaultKind:
        kinds: Sequence[FaultKind] = list(self._weights)
        return self._random.choices(kinds, weights=list(self._weights.values()))[0]


_OF_THE_EXCHANGE: Final = frozenset(
    {
        FaultKind.UNAUTHORIZED,
        FaultKind.MARKET_LIMIT,
        FaultKind.TIMEOUT,
        FaultKind.REST_BUSY,
        FaultKind.REST_ERROR,
        FaultKind.REST_SLOW,
        FaultKind.REST_OLD,
        FaultKind.MAINTENANCE,
        FaultKind.CLOCK_SKEW,
    }
)
_OF_A_CONNECTION: Final = frozenset({FaultKind.STALL, FaultKind.HALF_OPEN, FaultKind.CUT, FaultKind.CLOSED})


def _has_depth(subscription: Subscription) -> bool:
    return subscription.channel.needs_markets and bool(subscription.tickers)


def _chosen(kinds: Iterable[FaultKind], weights: dict[FaultKind, int]) -> dict[FaultKind, int]:
    return {kind: weights.get(kind, 1) for kind in kinds} or weights
