"""
A fault campaign without a socket: the exchange's sessions against the gatherer's, frame by frame.

Everything between is real: commands, numbers, snapshots, envelopes, a store that reads them, the audit's
books. Only TCP, Kafka and the clock are left out, so that millions of messages fit into minutes.
"""

import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, final

from kalshibook.feeds.enveloper import Enveloper
from kalshibook.gather.audit import AuditBooks
from kalshibook.gather.books import Shared
from kalshibook.gather.effects import Drop, Send, Tell, Trouble
from kalshibook.gather.incidents import GatherIncidentKind
from kalshibook.gather.ledger import GapLedger, OpenGap
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.placement import Placement
from kalshibook.gather.plan import Limits, SnapshotBudget
from kalshibook.gather.records import Notice, Received
from kalshibook.gather.session import Role, Session
from kalshibook.simulator.ledger import Fault, FaultKind
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.session import Session as ExchangeSession
from kalshibook.simulator.venue import Venue
from kalshibook.store import Arrival, BookStore, StoreWriter
from kalshibook.wire import GapRecord, GathererNotice, decode_envelope, read_frame

__all__ = ["Campaign", "Findings", "joined"]

_START_US: Final = 1_790_000_000_000_000
_AT_ONCE: Final = 100
_TAKE_BYTES: Final = 1 << 20
_NUMBER: Final = re.compile(r"number (\d+)")
_EVERYTHING: Final = 2**62
_SETTLE_S: Final = 60


class Findings(NamedTuple):
    """What a campaign found."""

    messages: int
    """Frames that the gatherer received."""
    injected: dict[str, int]
    """Faults that the exchange did and that reached the gatherer, by kind."""
    found: dict[str, int]
    missed: list[str]
    false_alarms: list[str]
    differing: list[str]
    """Markets whose book in the reader's store is not the exchange's, or is not live."""
    gaps: dict[str, int]
    """Entries of the ledger by cause."""
    open_gaps: int
    reconnections: int


def joined(parts: Sequence[Findings]) -> Findings:
    """Return what several campaigns found together."""
    return Findings(
        *(
            dict(sum(map(Counter, found), Counter()))
            if isinstance(found[0], dict)
            else sum(found[1:], start=found[0])
            for found in zip(*parts, strict=True)
        )
    )


@final
class _Wire:
    """One connection: both ends, and nothing in between."""

    def __init__(self, campaign: "Campaign", number: int, gaps: list[OpenGap]) -> None:
        self._campaign = campaign
        self._place = number
        self.exchange: Final[ExchangeSession] = campaign.venue.connect(peer=f"peer-{number}")
        self.name: Final = f"c{self.exchange.number}"
        self.session: Final = Session(Role.BOOKS, self.name, campaign.shared, gaps=gaps)
        self.dropped: Drop | None = None
        now_us = campaign.venue.now_us
        self.session.add(campaign.placement.on(number), now_us)
        self.session.opened(now_us)
        self.carry_out()

    def pump(self) -> int:
        """Carry over what waits in both directions; return how many frames came."""
        campaign, session = self._campaign, self.session
        now_us = campaign.venue.now_us
        frames = 0
        while not session.is_over and (data := self.exchange.take(_TAKE_BYTES)):
            for frame in _frames(data):
                frames += 1
                received = session.receive(frame, now_us)
                if session.effects:
                    self.carry_out()
                if received is not None:
                    campaign.route(received)
        session.tick(now_us)
        if session.effects:
            self.carry_out()
        return frames

    def carry_out(self) -> None:
        """Do what the session wants."""
        effects = self.session.effects
        while effects:
            effect = effects.popleft()
            if isinstance(effect, Send):
                self.exchange.receive(effect.command)
            elif isinstance(effect, Tell):
                self._campaign.tell(effect.notice)
            elif isinstance(effect, Trouble):
                self._campaign.note(self.exchange.number, effect)
            elif isinstance(effect, Drop):
                self.dropped = effect

    def replaced(self) -> "_Wire":
        """Hang up and connect anew, as the gatherer does after a drop."""
        assert self.dropped is not None
        gaps = self.session.lost(self.dropped.cause, self._campaign.venue.now_us)
        self.carry_out()
        self._campaign.left(self.name)
        self._campaign.venue.disconnect(self.exchange)
        return _Wire(self._campaign, self._place, gaps)


@final
class Campaign:
    """
    One run.

    Args:
        messages: how many changes happen.
        faults: how many faults are spread over them.
        markets: how many markets move.
        connections: over how many connections they are spread.
        seed: of everything.
    """

    def __init__(
        self, *, messages: int, faults: int, markets: int = 100, connections: int = 4, seed: int = 1
    ) -> None:
        self._messages = messages
        options = SimulatorOptions(
            open=True,
            markets=markets,
            messages_per_second=1_000,
            short_lived=0,
            seed=seed,
            subscription_buffer=1_000_000,
            faults="campaign",
            fault_seed=seed,
            fault_count=faults,
            fault_span=messages,
        )
        self.venue: Final = Venue(options, start_us=_START_US)
        gather = GatherOptions(refresh_minutes=30, source="g1")
        limits = Limits(per_connection=gather.markets_per_connection, per_command=gather.markets_per_command)
        budget = SnapshotBudget(per_second=gather.snapshots_per_second, burst=gather.snapshot_burst)
        self.records: list[GapRecord] = []
        ledger = GapLedger("g1", on_record=self.records.append)
        self.shared: Final = Shared(gather, limits, budget, ledger, random.Random(seed))
        self.placement: Final = Placement(limits, connections=connections, most=connections)
        self._tickers = [market.ticker for market in self.venue.model.listed()]
        self.placement.add(self._tickers)
        self.store: Final = BookStore()
        self._audit = AuditBooks(on_wrong=self._on_wrong)
        self._enveloper = Enveloper("g1", clock_us=lambda: self.venue.now_us)
        self._offsets = itertools.count()
        self._troubles: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
        self._wrong: Counter[str] = Counter()
        self._writer: StoreWriter | None = None
        self._wires: list[_Wire] = []
        self._frames = 0
        self._reconnections = 0

    def steps(self) -> Iterator[float]:
        """Let everything happen and wait until all is healed; yields the share that is done."""
        with self.store.writer() as writer:
            self._writer = writer
            self._wires = [_Wire(self, number, []) for number in range(self.placement.connections)]
            self._pump()
            done, shown = 0, 0
            while done < self._messages:
                self.venue.advance(_EVERYTHING, most=_AT_ONCE)
                done += _AT_ONCE
                self._pump()
                if done - shown >= self._messages / 100:
                    shown = done
                    yield done / self._messages
            self._settle()
            writer.set_ready(True)
            self._writer = None
        yield 1.0

    def _pump(self) -> None:
        while True:
            frames = 0
            for place, wire in enumerate(self._wires):
                frames += wire.pump()
                if wire.dropped is not None:
                    self._reconnections += 1
                    self._wires[place] = wire.replaced()
                    frames += 1
            if not frames:
                return
            self._frames += frames

    def _settle(self) -> None:
        # Faults that are due show with the next change; then nothing happens but the healing.
        for _ in range(_SETTLE_S * 10):
            self.venue.advance(self.venue.now_us + 100_000)
            self._pump()
            if all(wire.session.is_whole for wire in self._wires) and not self._pending():
                return

    def _pending(self) -> bool:
        return any(fault.done_us is None or fault.exposed_us is None for fault in self.venue.ledger)

    # What the wires hand over.

    def route(self, received: Received) -> None:
        """Publish a frame, and read it as a reader of the topic does."""
        self._audit.offer(received)
        route = self._enveloper.route(received.frame)
        if route is None:
            return
        value = self._enveloper.wrap(
            received.frame, route, connection=received.connection, received_us=received.received_us
        )
        self._enveloper.accept(route, connection=received.connection)
        self._apply(value)

    def tell(self, notice: Notice) -> None:
        """Hand a notice to the reader and to the audit."""
        self._audit.notify(notice)
        assert self._writer is not None
        event = GathererNotice(notice.notice, notice.reason, notice.detail, None, notice.market_ticker)
        now_us, offset = self.venue.now_us, next(self._offsets)
        arrival = Arrival(
            "g1", notice.connection, notice.sid, None, None, now_us, None, None, None, 0, offset
        )
        self._writer.apply(event, arrival)

    def note(self, connection: int, trouble: Trouble) -> None:
        """Keep what a session found, by the number that it names."""
        match = _NUMBER.search(trouble.detail)
        self._troubles[trouble.kind.value][connection, int(match[1]) if match else 0] += 1

    def left(self, name: str) -> None:
        """Forget a connection."""
        self._enveloper.forget(name)

    def _apply(self, value: bytes) -> None:
        assert self._writer is not None
        envelope = decode_envelope(value)
        arrival = Arrival.of(
            envelope, partition=0, offset=next(self._offsets), kafka_us=None, consumed_us=None
        )
        self._writer.apply(read_frame(envelope.payload), arrival)

    def _on_wrong(self, ticker: str, reason: str) -> None:
        self._wrong[f"{ticker} {reason}"] += 1
        number = self.placement.home(ticker)
        assert number is not None
        wire = self._wires[number]
        wire.session.heal([ticker], self.venue.now_us)
        wire.carry_out()

    # The reckoning.

    def findings(self) -> Findings:
        """Compare what was done with what was found, and the reader's books with the exchange's."""
        faults = [fault for fault in self.venue.ledger if fault.exposed_us is not None]
        left = {kind: found.copy() for kind, found in self._troubles.items()}
        gaps = [record for record in self.records if record.cause == "gap" and record.healed_us is None]
        wrong = self._wrong.copy()
        missing = {
            (int(record.connection[1:]), number)
            for record in gaps
            for number in range(record.from_sequence or 0, (record.to_sequence or 0) + 1)
        }
        missed = []
        found: Counter[str] = Counter()
        for fault in faults:
            if self._is_found(fault, missing, left, wrong):
                found[fault.kind.value] += 1
            else:
                missed.append(f"{fault.kind} {fault.connection}/{fault.seq} {fault.tickers}")
        false = [f"gap of number {number} on connection {connection}" for connection, number in missing]
        for kind in (GatherIncidentKind.DUPLICATE, GatherIncidentKind.LATE, GatherIncidentKind.RESET):
            rest = +left.get(kind.value, Counter())
            false += [f"{kind} {number} on connection {connection}" for connection, number in rest]
        false += [f"wrong book: {text}" for text in +wrong]
        return Findings(
            self._frames,
            dict(Counter(fault.kind.value for fault in faults)),
            dict(found),
            missed,
            false,
            self._differing(),
            self.shared.ledger.counts().by_cause,
            self.shared.ledger.counts().open,
            self._reconnections,
        )

    @staticmethod
    def _is_found(
        fault: Fault, missing: set[tuple[int, int]], left: dict[str, Counter[Any]], wrong: Counter[str]
    ) -> bool:
        """Tell whether a fault was found, and strike off what found it."""
        assert fault.connection is not None
        place = (fault.connection, fault.seq or 0)

        def struck(kind: str, where: tuple[int, int]) -> bool:
            if left.get(kind, Counter())[where] < 1:
                return False
            left[kind][where] -= 1
            return True

        if fault.kind is FaultKind.IMPOSSIBLE_DELTA:
            name = f"{fault.tickers[0]} impossible"
            wrong[name] -= 1
            return wrong[name] >= 0
        if fault.kind is FaultKind.DOUBLED:
            return struck("duplicate", place)
        if fault.kind is FaultKind.COUNTER_RESET:
            return struck("reset", place)
        is_missing = place in missing
        missing.discard(place)
        return is_missing and (fault.kind is FaultKind.LOST or struck("late", place))

    def _differing(self) -> list[str]:
        cut = self.store.cut()
        differing = []
        for ticker in self._tickers:
            truth, book = self.venue.truth(ticker), cut.get(ticker)
            if book is None or book.copy != "live":
                differing.append(f"{ticker} is {'missing' if book is None else book.copy}")
                continue
            yes = tuple(sorted((level.price, level.size) for level in book.yes))
            no = tuple(sorted((level.price, level.size) for level in book.no))
            if (yes, no) != (truth.yes, truth.no):
                differing.append(ticker)
        return differing


def _frames(data: bytes) -> Iterator[bytes]:
    """Yield the payloads of unmasked WebSocket text frames."""
    place, end = 0, len(data)
    while place < end:
        length = data[place + 1]
        place += 2
        if length == 126:
            length = int.from_bytes(data[place : place + 2], "big")
            place += 2
        elif length == 127:
            length = int.from_bytes(data[place : place + 8], "big")
            place += 8
        yield data[place : place + length]
        place += length
