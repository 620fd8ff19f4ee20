"""
A seeded market generator: endless frames of many markets, with the statistics of real traffic.

Pure: it owns its clock, and yields each frame with the time that passed before it. Who plays the
frames waits, or does not. The books that the frames describe are in `MarketGenerator.exchange`.
What happens is decided in `lives`; here it is told to one subscriber of everything.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from kalshibook.simulator.activity import BookActivity, Step
from kalshibook.simulator.exchange import ExchangeModel, ModelMarket
from kalshibook.simulator.frames import delta_frame, lifecycle_frame, snapshot_frame, trade_frame
from kalshibook.simulator.lives import MarketLives
from kalshibook.simulator.options import GeneratorOptions
from kalshibook.simulator.told import created_fields
from kalshibook.wire import Side

__all__ = ["BOOK_SID", "LIFECYCLE_SID", "TRADE_SID", "MarketGenerator"]

BOOK_SID: Final = 1
"""Subscription of snapshots and changes."""
TRADE_SID: Final = 2
"""Subscription of trades."""
LIFECYCLE_SID: Final = 3
"""Subscription of lifecycle messages."""


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
        self._subscriber = _Subscriber()
        self._lives = MarketLives(options, self.exchange, self._subscriber, start_us=start_us)
        self._subscriber.lives = self._lives

    @property
    def now_us(self) -> int:
        """The exchange's clock."""
        return self._lives.now_us

    def moments(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield, without end, the microseconds since the moment before and what is said in this one."""
        clock_us = self.now_us
        subscriber = self._subscriber
        while True:
            self._lives.run()
            made, subscriber.made = subscriber.made, []
            if made:
                yield self.now_us - clock_us, made
                clock_us = self.now_us

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield, without end, the microseconds since the frame before and the frame."""
        for delay_us, frames in self.moments():
            for number, frame in enumerate(frames):
                yield 0 if number else delay_us, frame


class _Subscriber:
    """One subscriber of everything, who gets a snapshot when a market opens."""

    lives: MarketLives

    def __init__(self) -> None:
        self.made: list[bytes] = []
        self._sequences = {BOOK_SID: 0, TRADE_SID: 0, LIFECYCLE_SID: 0}

    def created(self, market: ModelMarket) -> None:
        self.told(market, "created", created_fields(market))

    def opened(self, market: ModelMarket, steps: Sequence[Step]) -> None:
        del steps  # the snapshot says it all
        self.made.append(
            snapshot_frame(
                market.ticker,
                market.levels("yes"),
                market.levels("no"),
                sid=BOOK_SID,
                seq=self._next(BOOK_SID),
                ts_ms=self.lives.now_us // 1_000,
                market_id=market.market_id,
            )
        )

    def changed(self, market: ModelMarket, step: Step) -> None:
        self.made.append(
            delta_frame(
                market.ticker,
                step.side,
                step.price,
                step.change,
                sid=BOOK_SID,
                seq=self._next(BOOK_SID),
                ts_ms=self.lives.now_us // 1_000,
                market_id=market.market_id,
            )
        )

    def told(self, market: ModelMarket, event_type: str, fields: dict[str, object]) -> None:
        self.made.append(
            lifecycle_frame(
                market.ticker,
                event_type,
                fields,
                sid=LIFECYCLE_SID,
                seq=self._next(LIFECYCLE_SID),
                ts_ms=self.lives.now_us // 1_000,
            )
        )

    def turned(self, market: ModelMarket) -> None:
        """Say nothing: nor does the exchange."""

    def traded(self, market: ModelMarket, step: Step, trade_id: str) -> None:
        taker: Side = "no" if step.side == "yes" else "yes"
        self.made.append(
            trade_frame(
                market.ticker,
                trade_id,
                BookActivity.yes_price(step),
                -step.change,
                taker,
                sid=TRADE_SID,
                seq=self._next(TRADE_SID),
                ts_ms=self.lives.now_us // 1_000,
            )
        )

    def _next(self, sid: int) -> int:
        self._sequences[sid] += 1
        return self._sequences[sid]
