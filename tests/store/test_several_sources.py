"""Three gatherers, each with faults of its own, against one exchange: a book never mixes what they say."""

from collections import deque
from typing import Any, NamedTuple

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kalshibook.store import Arrival, Book, BookStore, Condition
from kalshibook.testing import FrameFactory
from kalshibook.wire import Side, WireEvent
from tests.store.builders import levels

MARKETS = ("KXFROG", "KXNEWT", "KXTOAD")
PARTITIONS = 2
SOURCES = ("g1", "g2", "g3")
START_US = 1_790_000_000_000_000

Truth = tuple[dict[int, int], dict[int, int]]
markets = st.sampled_from(MARKETS)
sources = st.sampled_from(SOURCES)
changes = st.tuples(
    markets, st.sampled_from(["yes", "no"]), st.sampled_from([500, 1_000]), st.sampled_from([0, 100, 200])
)
faults = st.none() | st.tuples(st.sampled_from(["loses_next", "drops_next"]), sources)
_ALL = 10_000

Reading = tuple[str, int, int]
"""A gatherer, how many of its records at most, and how often each is read: 2 for a batch that comes again."""
reads = st.lists(st.tuples(sources, st.sampled_from([1, 3, _ALL]), st.sampled_from([1, 1, 2])), max_size=3)


class Record(NamedTuple):
    """What lies in a partition, and the exchange's book when the frame was sent."""

    event: WireEvent
    arrival: Arrival
    ticker: str
    truth: Truth


class Gatherer:
    """One gatherer: its socket, and what it has published and nobody has read."""

    def __init__(self, name: str) -> None:
        self.frames = FrameFactory(source=name, connection=f"{name}.0")
        self.name = name
        self.epoch = 0
        self.is_alive = False
        self.loses_next = self.drops_next = self.has_gap = False
        self.waiting: list[deque[Record]] = [deque() for _ in range(PARTITIONS)]

    def publish(self, frame: bytes, ticker: str, truth: Truth) -> None:
        """Publish a frame unless it, or its record, is to be lost; a loss on the socket shows at the next."""
        if self.loses_next:
            self.loses_next, self.has_gap = False, True
            return
        if self.has_gap:
            self.has_gap = False
            self.say("stale", reason="gap")
        event, arrival = self.frames.message(frame, partition=partition_of(ticker))
        if self.drops_next:
            self.drops_next = False
            return
        self.waiting[partition_of(ticker)].append(Record(event, arrival, ticker, truth))

    def say(self, kind: Any, **fields: Any) -> None:
        for partition, waiting in enumerate(self.waiting):
            value = self.frames.notice(kind, **fields)
            event, arrival = self.frames.arrived(value, partition=partition)
            waiting.append(Record(event, arrival, "", ({}, {})))


def partition_of(ticker: str) -> int:
    return MARKETS.index(ticker) % PARTITIONS


class SeveralSources(RuleBasedStateMachine):
    """The exchange, its gatherers and a store; time is driven by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = START_US
        self.truth: dict[str, Truth] = {ticker: ({4_000: 100}, {5_500: 100}) for ticker in MARKETS}
        self.gatherers = {name: Gatherer(name) for name in SOURCES}
        self.store = BookStore()
        self.last: dict[tuple[str, str], Truth] = {}
        with self.store.writer() as writer:
            writer.set_ready(True)
        for name in SOURCES:
            self.start(name)
        self._read("g1", _ALL, 1)

    @rule(changes=st.lists(changes, min_size=1, max_size=6), fault=faults, reads=reads)
    def trade(
        self, changes: list[tuple[str, Side, int, int]], fault: tuple[str, str] | None, reads: list[Reading]
    ) -> None:
        """The exchange changes levels, every living gatherer is told, and the store reads some of it."""
        if fault is not None:
            # On the socket the gatherer will see it by the numbers; behind it nobody but the store can.
            setattr(self.gatherers[fault[1]], fault[0], True)
        for ticker, side, price, size in changes:
            ladder = dict(self.truth[ticker][side == "no"])
            change = size - ladder.pop(price, 0)
            if change:
                if size:
                    ladder[price] = size
                yes, no = self.truth[ticker]
                self.truth[ticker] = (yes, ladder) if side == "no" else (ladder, no)
                for one in self._living():
                    one.publish(one.frames.delta(ticker, side, price, change), ticker, self.truth[ticker])
        for reading in reads:
            self._read(*reading)

    @rule(name=sources, ticker=markets)
    def snapshot(self, name: str, ticker: str) -> None:
        """A gatherer asks for a snapshot, for whatever reason."""
        one = self.gatherers[name]
        if one.is_alive:
            self._clock(one)
            yes, no = self.truth[ticker]
            frame = one.frames.snapshot(ticker, tuple(yes.items()), tuple(no.items()))
            one.publish(frame, ticker, self.truth[ticker])

    @rule(name=sources)
    def reconnect(self, name: str) -> None:
        """A socket is lost; sids and numbers begin again on the next one."""
        one = self.gatherers[name]
        if one.is_alive:
            self._clock(one)
            one.say("stale", reason="connection lost")
            self._connect(one)

    @rule(name=sources)
    def die(self, name: str) -> None:
        """A gatherer is killed; what it had not handed over is gone."""
        one = self.gatherers[name]
        one.is_alive = False
        for waiting in one.waiting:
            waiting.clear()

    @rule(name=sources)
    def start(self, name: str) -> None:
        """A gatherer that was dead starts anew."""
        one = self.gatherers[name]
        if not one.is_alive:
            one.is_alive = True
            self._clock(one)
            one.say("stale", reason="started", whole_source=True)
            one.say("alive")
            self._connect(one)

    @rule(reads=reads)
    def read(self, reads: list[Reading]) -> None:
        """The store reads on; what one gatherer has published may lie behind the others' for long."""
        for reading in reads:
            self._read(*reading)

    @rule(seconds=st.integers(1, 6))
    def wait(self, seconds: int) -> None:
        """Time passes; living gatherers say so each second, and the store listens."""
        for _ in range(seconds):
            for one in self._living():
                one.say("alive")
            with self.store.writer() as writer:
                self.now_us += 1_000_000
                writer.tick(self.now_us)

    @invariant()
    def live_books_are_true(self) -> None:
        """A live book is the exchange's as of the last record of the one gatherer that it follows."""
        for book in self.store.cut().books():
            if book.copy is Condition.LIVE:
                assert book.origin is not None
                assert self.last[book.origin.source, book.ticker] == sides(book)
                assert book.stale_reason is None
            else:
                assert book.stale_reason or book.copy is Condition.AWAITING

    def teardown(self) -> None:
        """Whoever remains whole and sends snapshots brings every book to life."""
        for name in SOURCES:
            self.die(name)
        self.start("g1")
        one = self.gatherers["g1"]
        one.loses_next = one.drops_next = one.has_gap = False
        self.wait(6)
        self._read("g1", _ALL, 1)
        self.wait(6)
        self._read("g1", _ALL, 1)
        for ticker in MARKETS:
            self.snapshot("g1", ticker)
        self._read("g1", _ALL, 1)
        self.live_books_are_true()
        found = {book.ticker: (book.condition.value, sides(book)) for book in self.store.cut().books()}
        assert {ticker: ("live", self.truth[ticker]) for ticker in MARKETS} == found

    def _read(self, name: str, most: int, times: int) -> None:
        for waiting in self.gatherers[name].waiting:
            for _ in range(min(most, len(waiting))):
                record = waiting.popleft()
                for _ in range(times):
                    self._apply(name, record)

    def _apply(self, name: str, record: Record) -> None:
        before = self.store.cut()
        with self.store.writer() as writer:
            writer.apply(record.event, record.arrival)
        after = self.store.cut()
        assert before.version + 1 == after.version
        if record.ticker:
            self.last[name, record.ticker] = record.truth
            old, new = before.get(record.ticker), after[record.ticker]
            if old is not None and old.copy is Condition.LIVE and old.origin is not None:
                assert new.origin is not None
                assert old.origin.source == new.origin.source, "a live book takes nothing from another"

    def _connect(self, one: Gatherer) -> None:
        one.epoch += 1
        one.frames.reconnect(f"{one.name}.{one.epoch}")
        one.has_gap = False
        for ticker in MARKETS:
            self.snapshot(one.name, ticker)

    def _living(self) -> list[Gatherer]:
        self.now_us += 1_000
        living = [one for one in self.gatherers.values() if one.is_alive]
        for one in living:
            self._clock(one)
        return living

    def _clock(self, one: Gatherer) -> None:
        one.frames.now_us = max(one.frames.now_us, self.now_us)


def sides(book: Book) -> Truth:
    return levels(book.yes), levels(book.no)


TestSeveralSources = SeveralSources.TestCase
TestSeveralSources.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
