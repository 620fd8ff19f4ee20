"""
What truly happened on a simulated exchange: a witness inside it, whom no fault can reach.

It stands between the markets' lives and the exchange that tells clients of them, so it sees each thing
once, at the moment at which it happens, and whether just then anybody's subscription was told.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from kalshibook.simulator.activity import BookActivity, Step
from kalshibook.simulator.exchange import ModelMarket
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.simulator.told import created_fields, event_fields
from kalshibook.simulator.truth import TrueBook
from kalshibook.simulator.venue import Venue

__all__ = ["Change", "Levels", "Told", "Truth", "Witness", "canonical"]

SIDES: Final = {"yes": 1, "no": 2}

Levels = dict[tuple[int, int], int]
"""Side and price to size."""


class Change(NamedTuple):
    """A change of one level, by what the archive tells it from others."""

    ticker: str
    at_us: int
    """The exchange's time as it is told: whole milliseconds."""
    side: int
    price: int
    change: int


class Trade(NamedTuple):
    """A trade, without its id."""

    ticker: str
    at_ms: int
    yes_price: int
    size: int
    taker: int


class Told(NamedTuple):
    """A lifecycle message: it has no time of its own."""

    ticker: str
    kind: str
    body: str


class Truth(NamedTuple):
    """All of it, and the part that somebody's subscription was told."""

    changes: Sequence[Change]
    """In their order."""
    followed_changes: Counter[Change]
    trades: Mapping[str, Trade]
    followed_trades: frozenset[str]
    told: Counter[Told]
    followed_told: Counter[Told]
    told_us: Mapping[Told, int]
    """When it was told last."""
    first_us: Mapping[str, int]
    """When somebody first was told of a market's book."""
    since_us: int
    """When the witness came."""
    base: Mapping[str, Levels]
    """The books when the witness came."""

    def confirms(self, trade_id: str, trade: Trade) -> bool:
        """Tell whether a trade happened so; of those before the witness came nothing is known."""
        return self.trades.get(trade_id) == trade or (
            trade_id not in self.trades and trade.at_ms * 1_000 <= self.since_us
        )

    def books(self, ticker: str, moments: Iterable[int]) -> list[Levels]:
        """Return a market's true books at ascending moments, microseconds of the exchange's clock."""
        mine = [change for change in self.changes if change.ticker == ticker]
        levels, place, found = Counter(self.base.get(ticker, {})), 0, []
        for moment in moments:
            while place < len(mine) and mine[place].at_us <= moment:
                levels[mine[place].side, mine[place].price] += mine[place].change
                place += 1
            found.append({level: size for level, size in levels.items() if size})
        return found


class Witness:
    """Sees what happens in the exchange that it is put into; an `Audience` before the exchange's own."""

    def __init__(self, exchange: SimulatedExchange) -> None:
        self._venue: Final[Venue] = exchange.venue
        self._changes: list[Change] = []
        self._followed: Counter[Change] = Counter()
        self._trades: dict[str, Trade] = {}
        self._followed_trades: set[str] = set()
        self._told: Counter[Told] = Counter()
        self._followed_told: Counter[Told] = Counter()
        self._told_us: dict[Told, int] = {}
        self._first_us: dict[str, int] = {}
        self._since_us = self._venue.now_us
        self._base = {market.ticker: levels_of(TrueBook.of(market, 0)) for market in self._venue.model.held()}
        self._venue.lives._audience = self

    def truth(self) -> Truth:
        """Return what was seen so far."""
        return Truth(
            self._changes.copy(),
            self._followed.copy(),
            self._trades.copy(),
            frozenset(self._followed_trades),
            self._told.copy(),
            self._followed_told.copy(),
            self._told_us.copy(),
            self._first_us.copy(),
            self._since_us,
            self._base,
        )

    def created(self, market: ModelMarket) -> None:
        if market.event not in self._venue._events:
            self._note_told(market, market.event, "event_lifecycle", event_fields(market))
        self._note_market(market, "created", created_fields(market))
        self._venue.created(market)

    def opened(self, market: ModelMarket, steps: Sequence[Step]) -> None:
        for step in steps:
            self._note_change(market, step)
        self._venue.opened(market, steps)

    def changed(self, market: ModelMarket, step: Step) -> None:
        self._note_change(market, step)
        self._venue.changed(market, step)

    def traded(self, market: ModelMarket, step: Step, trade_id: str) -> None:
        taker = SIDES["no" if step.side == "yes" else "yes"]
        price = BookActivity.yes_price(step)
        self._trades[trade_id] = Trade(market.ticker, self._venue.now_us // 1_000, price, -step.change, taker)
        if self._venue.trades.of(market.ticker):
            self._followed_trades.add(trade_id)
        self._venue.traded(market, step, trade_id)

    def told(self, market: ModelMarket, event_type: str, fields: dict[str, object]) -> None:
        self._note_market(market, event_type, fields)
        self._venue.told(market, event_type, fields)

    def turned(self, market: ModelMarket) -> None:
        self._venue.turned(market)

    def _note_change(self, market: ModelMarket, step: Step) -> None:
        at_us = self._venue.now_us // 1_000 * 1_000
        change = Change(market.ticker, at_us, SIDES[step.side], step.price, step.change)
        self._changes.append(change)
        if self._venue.depth.of(market.ticker):
            self._followed[change] += 1
            self._first_us.setdefault(market.ticker, at_us)

    def _note_market(self, market: ModelMarket, event_type: str, fields: dict[str, object]) -> None:
        body = {"market_ticker": market.ticker, "event_type": event_type, **fields}
        self._note_told(market, market.ticker, event_type, body)

    def _note_told(self, market: ModelMarket, ticker: str, kind: str, body: dict[str, object]) -> None:
        told = Told(ticker, kind, canonical(body))
        self._told[told] += 1
        self._told_us[told] = self._venue.now_us
        if (self._venue.combos if market.is_combo else self._venue.lifecycles).of(""):
            self._followed_told[told] += 1


def levels_of(book: TrueBook) -> Levels:
    """Return a true book by side and price."""
    return {
        (SIDES[side], price): size
        for side, levels in (("yes", book.yes), ("no", book.no))
        for price, size in levels
    }


def canonical(body: Any) -> str:
    """Write JSON so that equal content is equal text."""
    return msgspec.json.encode(msgspec.to_builtins(body), order="sorted").decode()
