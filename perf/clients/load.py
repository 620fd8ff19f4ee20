"""
The load: markets and changes that every process can compute for itself, so that each can check the others.

One record of a partition is one step, and what all books of a partition hold together after each step
is known beforehand. A reader that sees a cut with another sum has seen a torn version, or a lost or
doubled update.
"""

from array import array
from itertools import accumulate
from random import Random
from typing import Final, NamedTuple, final

from kalshibook.numbers import format_price, format_size
from kalshibook.simulator.frames import snapshot_frame
from kalshibook.store import BookStore, Cut
from kalshibook.wire import encode_envelope

__all__ = ["Load", "LoadSettings", "PartitionSums", "Step", "wrong_books"]

_BEST: Final = {"yes": 4_000, "no": 5_000}
_STEP: Final = 100
_BASE_SIZE: Final = 100_000
_CHANGE: Final = 100
_TICKER: Final = "KXPERF-26DEC01-T%06d"


class LoadSettings(NamedTuple):
    """What the load is made from; equal settings make equal loads."""

    markets: int = 1_000
    levels: int = 10
    """Levels a side, a cent apart."""
    partitions: int = 4
    seed: int = 1
    top_share: float = 0.22
    """Share of changes that touch a best level; 0.22 in real traffic."""
    pareto: float | None = 0.6
    """Shape of the markets' activity, as measured; None is uniform."""


class Step(NamedTuple):
    """One change of one level."""

    market: int
    side: str
    price: int
    change: int


@final
class Load:
    """Markets with their books, and an endless sequence of changes to them."""

    def __init__(self, settings: LoadSettings) -> None:
        self.settings: Final = settings
        self.tickers: Final = [_TICKER % number for number in range(settings.markets)]
        self.sizes: Final = [
            {"yes": [_BASE_SIZE] * settings.levels, "no": [_BASE_SIZE] * settings.levels}
            for _ in range(settings.markets)
        ]
        """By market and side: sizes of its levels, best first; 0 is no level."""
        self._random = Random(settings.seed)
        self._chosen: list[int] = []

    def partition(self, market: int) -> int:
        """Return where a market's records go."""
        return market % self.settings.partitions

    def step(self) -> Step:
        """Make the next change."""
        settings, draw = self.settings, self._random.random
        if not self._chosen:
            self._choose()
        market = self._chosen.pop()
        side = "yes" if draw() < 0.5 else "no"
        sizes = self.sizes[market][side]
        chance = draw()
        if chance < settings.top_share:
            level = 0
            if sizes[0] == 0:
                change = _BASE_SIZE
            elif chance < settings.top_share * 0.3:
                change = -sizes[0]
            else:
                change = _CHANGE
        else:
            level = 1 + int(draw() * (settings.levels - 1))
            change = -_CHANGE if draw() < 0.5 and sizes[level] > _CHANGE else _CHANGE
        sizes[level] += change
        return Step(market, side, _BEST[side] - level * _STEP, change)

    def levels(self, market: int, side: str) -> list[tuple[int, int]]:
        """Return the levels of a side as (price, size), best first."""
        return [
            (_BEST[side] - level * _STEP, size) for level, size in enumerate(self.sizes[market][side]) if size
        ]

    def _choose(self) -> None:
        markets, shape = self.settings.markets, self.settings.pareto
        if shape is None:
            self._chosen = [int(self._random.random() * markets) for _ in range(4_096)]
            return
        weights = list(accumulate((place + 1) ** (-1 / shape) for place in range(markets)))
        self._chosen = self._random.choices(range(markets), cum_weights=weights, k=4_096)


@final
class Encoder:
    """Turns the load into records; the numbers of the one connection it pretends to be are counted here."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._sequence = 0
        self._last = [0] * load.settings.markets
        self._tickers = [ticker.encode() for ticker in load.tickers]

    def snapshot(self, market: int, now_us: int) -> bytes:
        """Return a market's snapshot in its envelope."""
        load, ticker = self._load, self._load.tickers[market]
        self._sequence += 1
        frame = snapshot_frame(
            ticker,
            load.levels(market, "yes"),
            load.levels(market, "no"),
            sid=1,
            seq=self._sequence,
            ts_ms=now_us // 1_000,
        )
        previous, self._last[market] = self._last[market], self._sequence
        return encode_envelope(
            frame,
            received_us=now_us,
            published_us=now_us,
            channel="orderbook_delta",
            market_ticker=ticker,
            sequence=self._sequence,
            source="perf",
            connection="perf-1",
            sid=1,
            previous_sequence=previous,
        )

    def delta(self, step: Step, now_us: int) -> bytes:
        """Return a change in its envelope."""
        self._sequence = sequence = self._sequence + 1
        market = step.market
        ticker, previous = self._tickers[market], self._last[market]
        self._last[market] = sequence
        now_ms = now_us // 1_000
        return _RECORD % (
            now_ms,
            now_ms,
            ticker,
            sequence,
            previous,
            now_us,
            now_us,
            sequence,
            ticker,
            format_price(step.price).encode(),
            format_size(step.change).encode(),
            step.side.encode(),
            now_ms,
        )


_RECORD: Final = (
    b'{"receivedTimestamp":%d,"publishedTimestamp":%d,"channel":"orderbook_delta","marketTicker":"%b",'
    b'"sequence":%d,"source":"perf","version":1,"connection":"perf-1","sid":1,"previousSequence":%d,'
    b'"receivedTimestampUs":%d,"publishedTimestampUs":%d,"payload":{"type":"orderbook_delta","sid":1,'
    b'"seq":%d,"msg":{"market_ticker":"%b","market_id":"9b0f6b43-5b68-4f9f-9f02-9a2d1b8ac1a1",'
    b'"price_dollars":"%b","delta_fp":"%b","side":"%b","ts_ms":%d}}}'
)


@final
class PartitionSums:
    """
    What all books of each partition hold together, after any number of its records.

    Args:
        settings: of the load.
        steps: how many changes there will be.
    """

    def __init__(self, settings: LoadSettings, steps: int) -> None:
        load = Load(settings)
        self._load = load
        self._markets = [
            range(first, settings.markets, settings.partitions) for first in range(settings.partitions)
        ]
        self._sums = [
            array("q", [len(markets) * 2 * settings.levels * _BASE_SIZE]) for markets in self._markets
        ]
        for _ in range(steps):
            step = load.step()
            sums = self._sums[step.market % settings.partitions]
            sums.append(sums[-1] + step.change)

    def is_torn(self, cut: Cut, partition: int) -> bool:
        """Tell whether a cut's books of a partition are not those of its offset."""
        markets = self._markets[partition]
        records = cut.offsets.get(partition, 0) - len(markets)
        if records < 0:
            return False
        held = 0
        for market in markets:
            book = cut[self._load.tickers[market]]
            held += sum(level.size for level in book.yes) + sum(level.size for level in book.no)
        return held != self._sums[partition][records]


def wrong_books(store: BookStore, load: Load) -> list[str]:
    """Return the tickers whose book is not the load's, level by level."""
    cut = store.cut()
    wrong = []
    for market, ticker in enumerate(load.tickers):
        book = cut.get(ticker)
        if book is None or any(
            [(level.price, level.size) for level in ladder] != load.levels(market, side)
            for side, ladder in (("yes", book.yes), ("no", book.no))
        ):
            wrong.append(ticker)
    return wrong
