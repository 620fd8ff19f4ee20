"""
The lives of many markets on one clock: what happens, when, and in what order. Pure.

Each market has a *course*, a generator that does what is due and yields the time at which it goes
on. Courses change the true books and tell one `Audience` of it, once; who listens to the audience,
with which numbers and in which encoding, is the audience's business.
"""

import heapq
from collections.abc import Iterator, Sequence
from random import Random
from typing import Final, Protocol, TypeAlias

from kalshibook.numbers import ONE_DOLLAR
from kalshibook.simulator.activity import BookActivity, Step
from kalshibook.simulator.exchange import ExchangeModel, ModelMarket, Status
from kalshibook.simulator.grids import Grid
from kalshibook.simulator.measured import CLUSTER_SIZES
from kalshibook.simulator.naming import lasting_combo, lasting_market, market_id_of, passing_market
from kalshibook.simulator.options import GeneratorOptions
from kalshibook.simulator.pace import Pace, mean_gaps_us
from kalshibook.simulator.told import price_ranges

__all__ = ["Audience", "Course", "MarketLives"]

_SECOND_US: Final = 1_000_000
_ROWS: Final = len(CLUSTER_SIZES)
_PAUSE_US: Final = 5 * _SECOND_US
Course: TypeAlias = Iterator[int]
"""A market's life: each value is the time at which it goes on, microseconds."""


class Audience(Protocol):
    """Who is told what happens on the exchange, at the moment it happens."""

    def created(self, market: ModelMarket) -> None:
        """Hear of a new market."""

    def opened(self, market: ModelMarket, steps: Sequence[Step]) -> None:
        """See an empty book filled, by these changes."""

    def changed(self, market: ModelMarket, step: Step) -> None:
        """See a level change."""

    def traded(self, market: ModelMarket, step: Step, trade_id: str) -> None:
        """See a trade; the change that it made of a level comes before it, if there is one."""

    def told(self, market: ModelMarket, event_type: str, fields: dict[str, object]) -> None:
        """Hear of a turn in a market's life, as the exchange tells of it."""

    def turned(self, market: ModelMarket) -> None:
        """Learn of a change of status that the exchange does not tell: open and close time."""


class MarketLives:
    """Runs the courses of an exchange's markets, one after the other, in the order of time."""

    def __init__(
        self,
        options: GeneratorOptions,
        exchange: ExchangeModel,
        audience: Audience,
        *,
        start_us: int,
        is_empty: bool = False,
    ) -> None:
        """
        Make the markets and tell of each; their books fill with the first run.

        Args:
            options: how much of what.
            exchange: where they are listed.
            audience: who is told.
            start_us: what the exchange's clock shows, microseconds since the epoch.
            is_empty: make no markets.
        """
        self.options = options
        self.now_us = start_us
        """The exchange's clock: the time of what happens now."""
        self.halted = False
        """Whether nothing is traded anywhere; resting orders stay, and the clock goes on."""
        self._exchange = exchange
        self._audience = audience
        self._random = Random(options.seed)  # noqa: S311 - must be repeatable
        self._turn = 0
        self._steps = 0
        self._agenda: list[tuple[int, int, Course]] = []
        self._activities: dict[str, BookActivity] = {}
        passing = round(options.markets * options.short_lived)
        combos = round((options.markets - passing) * options.combos)
        gaps = mean_gaps_us(options.markets, options.messages_per_second, self._random)
        for number, mean_us in enumerate(() if is_empty else gaps):
            pace = Pace(mean_us, self._random)
            if number < passing:
                age_s = int(self._random.random() * options.life_seconds)
                course = self._passing(number, start_us // _SECOND_US - age_s, pace)
            else:
                place = number - passing
                start_s = start_us // _SECOND_US
                market = (
                    lasting_combo(place, start_s)
                    if place < combos
                    else lasting_market(place - combos, start_s)
                )
                course = self._lasting(market, pace)
            self.schedule(start_us, course)

    @property
    def next_us(self) -> int:
        """When something happens next."""
        return self._agenda[0][0] if self._agenda else 2**63

    @property
    def steps(self) -> int:
        """Changes of levels so far."""
        return self._steps

    def run(self) -> None:
        """Do what is due next, and set the clock to it."""
        due_us, _, course = heapq.heappop(self._agenda)
        self.now_us = max(due_us, self.now_us)
        next_us = next(course, None)
        if next_us is not None:
            self.schedule(next_us, course)

    def schedule(self, due_us: int, course: Course) -> None:
        """Let a course go on at a time."""
        # The turn keeps entries of equal time in order, and courses out of comparisons.
        self._turn += 1
        heapq.heappush(self._agenda, (due_us, self._turn, course))

    def unique(self) -> str:
        """Return an id that nothing else has."""
        digits = f"{self._random.getrandbits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    # What can be done to a market, by its course or by whoever steers the exchange.

    def activity(self, market: ModelMarket) -> BookActivity:
        """Return what moves a market's book."""
        held = self._activities.get(market.ticker)
        if held is None or held.market is not market:
            held = self._activities[market.ticker] = BookActivity(market, self._random)
        return held

    def create(self, market: ModelMarket) -> None:
        """List a market and tell of it; the lists of REST show it somewhat later."""
        self._exchange.add(market)
        market.market_id = market_id_of(market.ordinal)
        market.created_us = market.updated_us = self.now_us
        market.visible_us = self.now_us + self.options.rest_lag_ms * 1_000
        self._audience.created(market)

    def open(self, market: ModelMarket) -> None:
        """Let a market trade, which is not told, and fill its book."""
        market.status = Status.ACTIVE
        self._audience.turned(market)
        self._audience.opened(market, self.activity(market).fill())

    def cluster(self, market: ModelMarket) -> None:
        """Let a few things happen in a market's book at once, unless all trading is halted."""
        if self.halted:
            return
        activity = self.activity(market)
        left = CLUSTER_SIZES[int(self._random.random() * _ROWS)]
        while left > 0:
            left -= self._take(market, activity.step())

    def stir(self, markets: Sequence[ModelMarket]) -> None:
        """Let a few things happen now, in one of these markets."""
        self.cluster(self._random.choice(markets))

    def pause(self, market: ModelMarket) -> None:
        """Stop trading; resting orders stay."""
        self._turn_to(market, Status.INACTIVE)
        self._audience.told(market, "deactivated", {"is_deactivated": True})

    def resume(self, market: ModelMarket) -> None:
        """Let a paused market trade again, with a new book."""
        self._turn_to(market, Status.ACTIVE)
        # Resting orders do not survive a reactivation (Kalshi REST reference, market status).
        self._audience.told(market, "activated", {"is_deactivated": False})
        self._take_all(market, self.activity(market).drain())
        self._take_all(market, self.activity(market).fill())

    def set_close(self, market: ModelMarket, close_s: int) -> None:
        """Move the time at which trading ends."""
        market.close_s, market.updated_us = close_s, self.now_us
        self._audience.told(market, "close_date_updated", {"close_ts": close_s})

    def close(self, market: ModelMarket) -> None:
        """End trading because the time has come, which is not told."""
        market.status = Status.CLOSED
        self._audience.turned(market)

    def reopen(self, market: ModelMarket, close_s: int) -> None:
        """Let a closed market trade again, until a later time."""
        self.set_close(market, close_s)
        self.resume(market)

    def drain(self, market: ModelMarket) -> None:
        """Cancel all resting orders."""
        self._take_all(market, self.activity(market).drain())

    def dispute(self, market: ModelMarket) -> None:
        """Let a result be challenged, which is not told."""
        self._turn_to(market, Status.DISPUTED)
        self._audience.turned(market)

    def set_grid(self, market: ModelMarket, grid: Grid) -> None:
        """Put a market on another grid that has all the prices at which orders rest."""
        market.regrid(grid)
        market.updated_us = self.now_us
        self._activities.pop(market.ticker, None)
        fields: dict[str, object] = {"price_level_structure": grid.name, "price_ranges": price_ranges(grid)}
        self._audience.told(market, "price_level_structure_updated", fields)

    def determine(self, market: ModelMarket, result: str) -> None:
        """Announce a market's result; a second one, after a dispute, amends it."""
        market.result = result
        market.settlement_value = ONE_DOLLAR if result == "yes" else 0
        is_amended = market.status is Status.DISPUTED
        self._turn_to(market, Status.AMENDED if is_amended else Status.DETERMINED)
        fields: dict[str, object] = {
            "result": result,
            "settlement_value": "1.0000" if result == "yes" else "0.0000",
            "determination_ts": self.now_us // _SECOND_US,
        }
        self._audience.told(market, "determined", fields)

    def settle(self, market: ModelMarket) -> None:
        """Pay a market out."""
        market.settled_s = self.now_us // _SECOND_US
        self._turn_to(market, Status.FINALIZED)
        self._audience.told(market, "settled", {"settled_ts": market.settled_s})

    def delist(self, market: ModelMarket) -> None:
        """Take a settled market off the lists."""
        market.status = Status.FINALIZED
        self._exchange.remove(market.ticker)
        self._activities.pop(market.ticker, None)

    def apply(self, market: ModelMarket, step: Step) -> None:
        """Tell of a change that was made to a book."""
        self._take(market, step)

    def print_trade(self, market: ModelMarket, step: Step) -> None:
        """Tell of a trade whose change of a level is told apart."""
        market.trade(BookActivity.yes_price(step), -step.change)
        self._audience.traded(market, step, self.unique())

    def tell(self, market: ModelMarket, event_type: str, fields: dict[str, object]) -> None:
        """Tell of a turn in a market's life that was decided elsewhere."""
        market.updated_us = self.now_us
        self._audience.told(market, event_type, fields)

    def ending(self, market: ModelMarket) -> Course:
        """Return what follows a close: orders are cancelled, the result is found, contracts are paid."""
        yield self.now_us + 20_000 + int(self._random.random() * _SECOND_US)
        if not market.is_in(Status.CLOSED):
            return  # reopened meanwhile
        self.drain(market)
        yield self.now_us + 2 * _SECOND_US
        if not market.is_in(Status.CLOSED):
            return
        self.determine(market, "yes" if self._random.random() < 0.5 else "no")
        yield from self.settling(market)

    def settling(self, market: ModelMarket) -> Course:
        """Return what follows a result, unless somebody disputes it."""
        yield self.now_us + 5 * _SECOND_US
        if not market.is_in(Status.DETERMINED, Status.AMENDED):
            return
        self.settle(market)
        yield self.now_us + self.options.settled_seconds * _SECOND_US
        if market.ticker in self._exchange:
            self.delist(market)

    # Courses.

    def _lasting(self, market: ModelMarket, pace: Pace) -> Course:
        self.create(market)
        market.visible_us = 0
        yield self.now_us
        self.open(market)
        while True:
            yield pace.next_us(self.now_us)
            if market.status is Status.ACTIVE:
                self.cluster(market)

    def _passing(self, number: int, open_s: int, pace: Pace) -> Course:
        close_s = open_s + self.options.life_seconds
        market = passing_market(number, open_s, close_s)
        self.create(market)
        if open_s * _SECOND_US <= self.now_us:
            market.visible_us = 0
        yield max(self.now_us, open_s * _SECOND_US)
        self.open(market)
        ahead_us = min(self.options.created_ahead_seconds, self.options.life_seconds) * _SECOND_US
        follower_us = close_s * _SECOND_US - ahead_us
        self.schedule(max(self.now_us, follower_us), self._following(number, close_s, pace))
        yield from self._trading(market, pace)
        yield from self._closing(market)

    def by_the_clock(self, market: ModelMarket) -> Course:
        """Return the course of a market that opens and closes in time, and is moved by somebody else."""
        if market.status is Status.INITIALIZED:
            market.status = Status.ACTIVE
            self._audience.turned(market)
        while (close_us := self._close_us(market)) > self.now_us:
            yield close_us
        yield from self._closing(market)

    def _closing(self, market: ModelMarket) -> Course:
        # Somebody who steers the exchange may have closed it already, and its end is under way.
        if market.status in {Status.ACTIVE, Status.INACTIVE}:
            self.close(market)
            yield from self.ending(market)

    def _following(self, number: int, open_s: int, pace: Pace) -> Course:
        yield from self._passing(number, open_s, pace)

    def _trading(self, market: ModelMarket, pace: Pace) -> Course:
        pause_us = self._next_pause_us()
        # The close time is looked at anew each time: it may be moved, by whoever steers the exchange.
        while (next_us := pace.next_us(self.now_us)) < self._close_us(market):
            yield next_us
            if self.now_us >= pause_us and market.status is Status.ACTIVE:
                self.pause(market)
                yield self.now_us + _PAUSE_US
                self.resume(market)
                pause_us = self._next_pause_us()
            if market.status is Status.ACTIVE:
                self.cluster(market)
        yield max(self.now_us, self._close_us(market))

    @staticmethod
    def _close_us(market: ModelMarket) -> int:
        return 2**63 if market.close_s is None else market.close_s * _SECOND_US

    def _next_pause_us(self) -> int:
        if not self.options.pauses_per_hour:
            return 2**63
        return self.now_us + int(self._random.expovariate(self.options.pauses_per_hour / 3_600) * _SECOND_US)

    def _turn_to(self, market: ModelMarket, status: Status) -> None:
        market.status, market.updated_us = status, self.now_us

    def _take_all(self, market: ModelMarket, steps: Sequence[Step]) -> None:
        for step in steps:
            self._take(market, step)

    def _take(self, market: ModelMarket, step: Step) -> int:
        """Tell of a change and of the trade that caused it; return how many messages that makes."""
        self._steps += 1
        self._audience.changed(market, step)
        if not step.trade:
            return 1
        self.print_trade(market, step)
        return 2
