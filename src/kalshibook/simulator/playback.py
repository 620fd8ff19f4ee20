"""
Recorded traffic as the source of what happens: the true books move as the recorded ones did. Pure.

Numbers, connections and times of the recording stay behind: what clients are sent has the numbers of
their own subscriptions. Recorded markets have the finest grid, because a recording does not tell it.
"""

from collections.abc import Iterable
from typing import Any, Final, final

import msgspec

from kalshibook.errors import WireError
from kalshibook.numbers import ONE_DOLLAR
from kalshibook.simulator.activity import Step
from kalshibook.simulator.exchange import ModelMarket, Status
from kalshibook.simulator.grids import GRIDS
from kalshibook.simulator.lives import Course, MarketLives
from kalshibook.wire import (
    BookDelta,
    BookSnapshot,
    MarketLifecycle,
    Side,
    Trade,
    WireEvent,
    decode_frame,
    read_frame,
)

__all__ = ["Playback"]

_FINEST: Final = GRIDS["center_centi_edge_centi_cent"]
_STATUSES: Final = {
    "activated": Status.ACTIVE,
    "deactivated": Status.INACTIVE,
    "determined": Status.DETERMINED,
    "settled": Status.FINALIZED,
}
_SIDES: Final[tuple[Side, Side]] = ("yes", "no")


@final
class Playback:
    """Plays recorded frames into an exchange; all markets begin when the playing begins."""

    def __init__(self, lives: MarketLives, frames: Iterable[tuple[int, bytes]]) -> None:
        """
        Prepare to play.

        Args:
            lives: of the exchange.
            frames: each with the time at which it was received, Unix milliseconds, in the order in
                which they are due when every market begins at the same moment.
        """
        self._lives = lives
        self._frames = frames
        self._markets: dict[str, ModelMarket] = {}
        self.played = 0
        """Frames that did something."""
        self.unfit = 0
        """Frames that cannot be read, or take more than rests: a recording may have holes."""
        self.ended = False

    def course(self) -> Course:
        """Return what the exchange runs."""
        start_us = self._lives.now_us
        firsts: dict[str, int] = {}
        for received_ms, frame in self._frames:
            try:
                event = read_frame(decode_frame(frame))
            except WireError:
                self.unfit += 1
                continue
            ticker = getattr(event, "ticker", "")
            if not ticker:
                continue
            yield start_us + (received_ms - firsts.setdefault(ticker, received_ms)) * 1_000
            self._play(event)
        self.ended = True

    def _play(self, event: WireEvent) -> None:
        if isinstance(event, BookDelta):
            self._change(self._market(event.ticker), event.side, event.price, event.change)
        elif isinstance(event, BookSnapshot):
            market = self._market(event.ticker)
            for side, levels in zip(_SIDES, (event.yes, event.no), strict=True):
                wanted, held = dict(levels), dict(market.levels(side))
                for price in sorted(wanted.keys() | held.keys()):
                    if change := wanted.get(price, 0) - held.get(price, 0):
                        self._change(market, side, price, change)
        elif isinstance(event, Trade):
            self._trade(event)
        elif isinstance(event, MarketLifecycle):
            self._lifecycle(event)
        else:
            return
        self.played += 1

    def _market(self, ticker: str) -> ModelMarket:
        market = self._markets.get(ticker)
        if market is None:
            now_s = self._lives.now_us // 1_000_000
            market = ModelMarket(
                ticker,
                _FINEST,
                event=ticker.rpartition("-")[0] or ticker,
                series=ticker.partition("-")[0],
                title=ticker,
            )
            market.open_s, market.close_s = now_s, now_s + 86_400
            self._lives.create(market)
            market.visible_us, market.status = 0, Status.ACTIVE
            self._markets[ticker] = market
        return market

    def _change(self, market: ModelMarket, side: Side, price: int, change: int) -> None:
        try:
            market.change(side, market.grid.slot(price), change, may_cross=True)
        except ValueError:
            self.unfit += 1
            return
        self._lives.apply(market, Step(side, price, change, trade=False))

    def _trade(self, event: Trade) -> None:
        # The change that belongs to it is a frame of its own.
        taker: Side = event.taker_side or "yes"
        maker: Side = "no" if taker == "yes" else "yes"
        price = event.yes_price if maker == "yes" else ONE_DOLLAR - event.yes_price
        self._lives.print_trade(self._market(event.ticker), Step(maker, price, -event.size, trade=True))

    def _lifecycle(self, event: MarketLifecycle) -> None:
        market = self._market(event.ticker)
        market.status = _STATUSES.get(event.event_type, market.status)
        fields: dict[str, Any] = msgspec.json.decode(event.body)
        if event.close_us is not None:
            market.close_s = event.close_us // 1_000_000
        if event.event_type != "created":
            told = {key: value for key, value in fields.items() if key not in {"market_ticker", "event_type"}}
            self._lives.tell(market, event.event_type, told)
