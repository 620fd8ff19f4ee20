"""
What several faulty gatherers saw of one simulated exchange, and what was true at any moment.

The generator's frames are told to each gatherer on a subscription of its own, with numbers of its own.
A gatherer loses runs of them, notes each loss in its ledger and asks for snapshots; it loses its
connection and comes back; and now and then it refreshes a book.
"""

from collections.abc import Iterable
from random import Random

from kalshibook.archive.rows import Identity, Row, rows_of_event
from kalshibook.simulator import GeneratorOptions, MarketGenerator
from kalshibook.store import Book
from kalshibook.wire import BookDelta, BookSnapshot, GapRecord, WireEvent, decode_frame, read_frame

__all__ = ["START_US", "Scenario", "sides"]

START_US = 1_790_000_000_000_000

Levels = dict[str, dict[int, int]]


class Scenario:
    """One run of the exchange, as seen by gatherers."""

    def __init__(
        self,
        seed: int,
        *,
        frames: int = 1_500,
        sources: tuple[str, ...] = ("a", "b", "c"),
        loss: float = 0.004,
        cuts: float = 0.002,
        refreshes: float = 0.01,
        rate: float = 20.0,
    ) -> None:
        options = GeneratorOptions(markets=3, messages_per_second=rate, seed=seed, short_lived=0)
        generator = MarketGenerator(options, start_us=START_US)
        now_us = START_US
        self.events: list[tuple[int, WireEvent]] = []
        """Time of the exchange, in whole milliseconds, and what it said."""
        for (gap_us, frame), _ in zip(generator.frames(), range(frames), strict=False):
            now_us += gap_us
            self.events.append((now_us // 1_000 * 1_000, read_frame(decode_frame(frame))))
        self.tickers = sorted({event.ticker for _, event in self.events if isinstance(event, BookSnapshot)})
        self.rows: list[Row] = []
        self.gaps: list[GapRecord] = []
        for number, source in enumerate(sources):
            gatherer = _Gatherer(source, Random(seed * 10 + number), loss, cuts, refreshes)
            gatherer.watch(self.events)
            self.rows += gatherer.rows
            self.gaps += gatherer.gaps

    @property
    def end_us(self) -> int:
        """Return the time of the last event."""
        return self.events[-1][0]

    def truth(self, ticker: str, at_us: int) -> Levels | None:
        """Return a book as it was at a time, all of its millisecond included."""
        levels: Levels | None = None
        for time_us, event in self.events:
            if time_us > at_us:
                break
            levels = _applied(levels, event, ticker)
        return levels

    def happened(self) -> list[tuple[str, int, int, int, int]]:
        """Return every change as often as it happened, sorted."""
        return sorted(
            (event.ticker, time_us, 1 if event.side == "yes" else 2, event.price, event.change)
            for time_us, event in self.events
            if isinstance(event, BookDelta)
        )


def sides(book: Book) -> Levels:
    """Return a book as the truth has it."""
    return {
        side: {level.price: level.size for level in ladder}
        for side, ladder in (("yes", book.yes), ("no", book.no))
    }


class _Gatherer:
    def __init__(self, source: str, chance: Random, loss: float, cuts: float, refreshes: float) -> None:
        self.source = source
        self.rows: list[Row] = []
        self.gaps: list[GapRecord] = []
        self._chance = chance
        self._loss, self._cuts, self._refreshes = loss, cuts, refreshes
        self._connection = 0
        self._sequence = 0
        self._latency_us = chance.randrange(1_000, 40_000)
        self._books: dict[str, Levels] = {}

    def watch(self, events: Iterable[tuple[int, WireEvent]]) -> None:
        """Receive, or lose, everything."""
        chance = self._chance
        losing = away = 0
        first_lost: int | None = None
        for time_us, event in events:
            ticker = getattr(event, "ticker", "")
            if isinstance(event, BookSnapshot | BookDelta):
                self._books[ticker] = _applied(self._books.get(ticker), event, ticker) or {}
            if away:
                away -= 1
                if not away:
                    self._reconnect(time_us)
                continue
            if isinstance(event, BookSnapshot | BookDelta):
                self._sequence += 1
                if losing or chance.random() < self._loss:
                    losing = losing - 1 if losing else chance.randrange(12)
                    first_lost = self._sequence if first_lost is None else first_lost
                    if not losing:
                        self._sequence += 1  # the frame that shows the gap, an answer to some command
                        self._heal(time_us, first_lost)
                        first_lost = None
                    continue
                self._receive(time_us, event, self._sequence)
            if chance.random() < self._refreshes and self._books:
                self._refresh(time_us, chance.choice(sorted(self._books)))
            if chance.random() < self._cuts:
                away = chance.randrange(1, 60)

    def _receive(self, time_us: int, event: WireEvent, sequence: int) -> None:
        received_us = time_us + self._latency_us + self._chance.randrange(900)
        identity = Identity(self.source, f"{self.source}.{self._connection}", 1, sequence, received_us)
        self.rows += rows_of_event(event, identity)

    def _refresh(self, time_us: int, ticker: str) -> None:
        self._sequence += 1
        book = self._books[ticker]
        snapshot = BookSnapshot(ticker, tuple(book["yes"].items()), tuple(book["no"].items()), time_us)
        self._receive(time_us, snapshot, self._sequence)

    def _heal(self, time_us: int, first_lost: int) -> None:
        detected_us = time_us + self._latency_us
        for ticker in self._books:
            self._refresh(time_us, ticker)
        connection = f"{self.source}.{self._connection}"
        self.gaps.append(
            GapRecord(
                id=f"{connection}/1/{first_lost}",
                source=self.source,
                connection=connection,
                sid=1,
                channel="orderbook_delta",
                cause="gap",
                from_sequence=first_lost,
                to_sequence=None,
                markets=len(self._books),
                tickers=tuple(sorted(self._books)),
                detected_us=detected_us,
                healed_us=detected_us + 1_000,
                how="snapshots",
            )
        )

    def _reconnect(self, time_us: int) -> None:
        self._connection += 1
        self._sequence = 0
        for ticker in self._books:
            self._refresh(time_us, ticker)


def _applied(levels: Levels | None, event: WireEvent, ticker: str) -> Levels | None:
    if isinstance(event, BookSnapshot) and event.ticker == ticker:
        return {"yes": dict(event.yes), "no": dict(event.no)}
    if isinstance(event, BookDelta) and event.ticker == ticker and levels is not None:
        side = levels[event.side]
        size = side.pop(event.price, 0) + event.change
        if size:
            side[event.price] = size
    return levels
