"""
A seeded market generator: endless frames of many markets, with the statistics of real traffic.

Pure: it owns its clock, and yields each frame with the time that passed before it. Who plays the
frames waits, or does not. The books that the frames describe are in `MarketGenerator.exchange`.
"""

import heapq
from collections.abc import Iterator
from random import Random
from typing import Final

from kalshibook.numbers import format_price
from kalshibook.simulator.activity import BookActivity, Step
from kalshibook.simulator.exchange import ExchangeModel, ModelMarket
from kalshibook.simulator.frames import delta_frame, lifecycle_frame, snapshot_frame, trade_frame
from kalshibook.simulator.measured import CLUSTER_SIZES
from kalshibook.simulator.naming import lasting_market, passing_market
from kalshibook.simulator.options import GeneratorOptions
from kalshibook.simulator.pace import Pace, mean_gaps_us
from kalshibook.wire import Side

__all__ = ["BOOK_SID", "LIFECYCLE_SID", "TRADE_SID", "MarketGenerator"]

BOOK_SID: Final = 1
"""Subscription of snapshots and changes."""
TRADE_SID: Final = 2
"""Subscription of trades."""
LIFECYCLE_SID: Final = 3
"""Subscription of lifecycle messages."""

_SECOND_US: Final = 1_000_000
_ROWS: Final = len(CLUSTER_SIZES)
_PAUSE_US: Final = 5 * _SECOND_US
_Course = Iterator[int]
"""A market's life: each value is the time at which it goes on, microseconds."""


class MarketGenerator:
    """
    Makes the frames of a simulated exchange, in the order of its clock.

    Example:
        >>> generator = MarketGenerator(GeneratorOptions(markets=3, seed=7), start_us=1_790_000_000_000_000)
        >>> [frame[9:28] for _, frame in zip(range(6), (frame for _, frame in generator.frames()))][-1]
        b'orderbook_snapshot"'
    """

    def __init__(self, options: GeneratorOptions, *, start_us: int) -> None:
        """
        Make the markets, silently.

        Args:
            options: how much of what.
            start_us: what the exchange's clock shows at the first frame, microseconds since the epoch.
        """
        self.options = options
        self.exchange: Final = ExchangeModel()
        """The true books, as of the last moment that was taken."""
        self.now_us = start_us
        """The exchange's clock."""
        self._random = Random(options.seed)  # noqa: S311 - must be repeatable
        self._sequences = {BOOK_SID: 0, TRADE_SID: 0, LIFECYCLE_SID: 0}
        self._made: list[bytes] = []
        self._turn = 0
        self._agenda: list[tuple[int, int, _Course]] = []
        passing = round(options.markets * options.short_lived)
        for number, mean_us in enumerate(
            mean_gaps_us(options.markets, options.messages_per_second, self._random)
        ):
            pace = Pace(mean_us, self._random)
            if number < passing:
                age_s = int(self._random.random() * options.life_seconds)
                course = self._passing(number, start_us // _SECOND_US - age_s, pace)
            else:
                course = self._lasting(number - passing, pace)
            self._schedule(start_us, course)

    def moments(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield, without end, the microseconds since the moment before and what is said in this one."""
        clock_us = self.now_us
        while True:
            due_us, _, course = heapq.heappop(self._agenda)
            self.now_us = max(due_us, self.now_us)
            next_us = next(course, None)
            if next_us is not None:
                self._schedule(next_us, course)
            made, self._made = self._made, []
            if made:
                yield self.now_us - clock_us, made
                clock_us = self.now_us

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield, without end, the microseconds since the frame before and the frame."""
        for delay_us, frames in self.moments():
            for number, frame in enumerate(frames):
                yield 0 if number else delay_us, frame

    def _schedule(self, due_us: int, course: _Course) -> None:
        # The turn keeps entries of equal time in order, and courses out of comparisons.
        self._turn += 1
        heapq.heappush(self._agenda, (due_us, self._turn, course))

    def _lasting(self, number: int, pace: Pace) -> _Course:
        market = lasting_market(number, self.now_us // _SECOND_US, self._unique())
        activity = self._listed(market)
        yield self.now_us
        self._opened(activity)
        while True:
            yield pace.next_us(self.now_us)
            self._cluster(activity)

    def _passing(self, number: int, open_s: int, pace: Pace) -> _Course:
        close_s = open_s + self.options.life_seconds
        market = passing_market(number, open_s, close_s, self._unique())
        activity = self._listed(market)
        yield self.now_us
        self._opened(activity)
        close_us = close_s * _SECOND_US
        pause_us = self._next_pause_us()
        while (next_us := pace.next_us(self.now_us)) < close_us:
            yield next_us
            if self.now_us >= pause_us:
                yield from self._paused(activity)
                pause_us = self._next_pause_us()
            self._cluster(activity)
        yield close_us
        self._schedule(close_us, self._passing(number, close_s, pace))
        yield from self._settled(activity)

    def _paused(self, activity: BookActivity) -> _Course:
        self._lifecycle(activity.market, "deactivated", {"is_deactivated": True})
        yield self.now_us + _PAUSE_US
        # Resting orders do not survive a reactivation (Kalshi REST reference, market status).
        self._lifecycle(activity.market, "activated", {"is_deactivated": False})
        self._tell(activity.market, activity.drain())
        self._tell(activity.market, activity.fill())

    def _settled(self, activity: BookActivity) -> _Course:
        # Nothing is said at the close itself; soon after it the resting orders are cancelled.
        market = activity.market
        yield self.now_us + 20_000 + int(self._random.random() * _SECOND_US)
        self._tell(market, activity.drain())
        yield self.now_us + 2 * _SECOND_US
        result = "yes" if self._random.random() < 0.5 else "no"
        value = format_price(10_000 if result == "yes" else 0)
        now_s = self.now_us // _SECOND_US
        fields = {"result": result, "settlement_value": value, "determination_ts": now_s}
        self._lifecycle(market, "determined", fields)
        yield self.now_us + 5 * _SECOND_US
        self._lifecycle(market, "settled", {"settled_ts": self.now_us // _SECOND_US})
        self.exchange.remove(market.ticker)

    def _next_pause_us(self) -> int:
        if not self.options.pauses_per_hour:
            return 2**63
        return self.now_us + int(self._random.expovariate(self.options.pauses_per_hour / 3_600) * _SECOND_US)

    def _listed(self, market: ModelMarket) -> BookActivity:
        self.exchange.add(market)
        self._lifecycle(
            market,
            "created",
            {
                "open_ts": market.open_s,
                "close_ts": market.close_s,
                "exchange_index": 0,
                "additional_metadata": {"title": market.title, "event_ticker": market.event},
                "price_level_structure": market.grid.name,
                "price_ranges": [
                    {name: format_price(getattr(band, name)) for name in ("start", "end", "step")}
                    for band in market.grid.bands
                ],
            },
        )
        return BookActivity(market, self._random)

    def _opened(self, activity: BookActivity) -> None:
        activity.fill()
        market = activity.market
        self._made.append(
            snapshot_frame(
                market.ticker,
                market.levels("yes"),
                market.levels("no"),
                sid=BOOK_SID,
                seq=self._next(BOOK_SID),
                ts_ms=self.now_us // 1_000,
                market_id=market.market_id,
            )
        )

    def _cluster(self, activity: BookActivity) -> None:
        wanted = len(self._made) + CLUSTER_SIZES[int(self._random.random() * _ROWS)]
        while len(self._made) < wanted:
            self._tell(activity.market, [activity.step()])

    def _tell(self, market: ModelMarket, steps: list[Step]) -> None:
        ts_ms = self.now_us // 1_000
        for step in steps:
            self._made.append(
                delta_frame(
                    market.ticker,
                    step.side,
                    step.price,
                    step.change,
                    sid=BOOK_SID,
                    seq=self._next(BOOK_SID),
                    ts_ms=ts_ms,
                    market_id=market.market_id,
                )
            )
            if step.trade:
                self._made.append(self._trade(market, step, ts_ms))

    def _trade(self, market: ModelMarket, step: Step, ts_ms: int) -> bytes:
        taker: Side = "no" if step.side == "yes" else "yes"
        return trade_frame(
            market.ticker,
            self._unique(),
            BookActivity.yes_price(step),
            -step.change,
            taker,
            sid=TRADE_SID,
            seq=self._next(TRADE_SID),
            ts_ms=ts_ms,
        )

    def _lifecycle(self, market: ModelMarket, event_type: str, fields: dict[str, object]) -> None:
        self._made.append(
            lifecycle_frame(
                market.ticker,
                event_type,
                fields,
                sid=LIFECYCLE_SID,
                seq=self._next(LIFECYCLE_SID),
                ts_ms=self.now_us // 1_000,
            )
        )

    def _next(self, sid: int) -> int:
        self._sequences[sid] += 1
        return self._sequences[sid]

    def _unique(self) -> str:
        digits = f"{self._random.getrandbits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
