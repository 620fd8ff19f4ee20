"""
What happens in one market's book: an endless, seeded series of steps drawn from measured shares.

A step is a change of one level, or a trade with the change that it causes. Steps keep the book
uncrossed, near its target depth, and its price away from the edges; they know no time.
"""

import math
from collections.abc import Iterator
from random import Random
from statistics import NormalDist
from typing import Final, NamedTuple

from kalshibook.numbers import ONE_DOLLAR
from kalshibook.simulator.exchange import ModelMarket
from kalshibook.simulator.measured import (
    GONE_SHARE,
    GROW_SHARE,
    IMPROVEMENTS,
    LEVEL_SIZES,
    LEVELS_MEDIAN,
    LEVELS_P90,
    NEW_DISTANCES,
    NEW_SHARE,
    RANKS,
    SIZES,
    TRADE_SIZES,
    TRADES_PER_DELTA,
)
from kalshibook.wire import Side

__all__ = ["BookActivity", "Step"]

_ROWS: Final = len(SIZES)
_LEVELS_SIGMA: Final = math.log(LEVELS_P90 / LEVELS_MEDIAN) / NormalDist().inv_cdf(0.9)
"""Of the logarithm of a side's level count."""
_FEWEST_LEVELS: Final = 4
_MOST_LEVELS: Final = 55
_PULL: Final = 2.0
"""How strongly the number of levels is drawn to its target: change of the shares per relative miss."""


class Step(NamedTuple):
    """One change of a level and, when a taker caused it, the trade."""

    side: Side
    price: int
    """$0.0001, on the scale of the side."""
    change: int
    """0.01 contract."""
    trade: bool
    """Whether a taker of the other side took it."""


class BookActivity:
    """Moves one market's book."""

    __slots__ = ("_random", "_targets", "market")

    def __init__(self, market: ModelMarket, random: Random) -> None:
        self.market = market
        self._random = random.random
        self._targets = {side: self._target(random) for side in ("yes", "no")}

    @staticmethod
    def _target(random: Random) -> int:
        drawn = LEVELS_MEDIAN * random.lognormvariate(0.0, _LEVELS_SIGMA)
        return max(_FEWEST_LEVELS, min(_MOST_LEVELS, round(drawn)))

    def fill(self) -> list[Step]:
        """Fill an empty book around a random price: dense near the best bids, thin far from them."""
        slots = len(self.market.grid.prices)
        best = int(slots * (0.15 + 0.7 * self._random()))
        steps: list[Step] = []
        for side, top in (("yes", best), ("no", slots - 1 - best - 2 * self.market.grid.stride)):
            for slot in self._resting_slots(top, self._targets[side]):
                size = LEVEL_SIZES[int(self._random() * _ROWS)]
                steps.append(self._changed("yes" if side == "yes" else "no", slot, size))
        return steps

    def _resting_slots(self, top: int, count: int) -> Iterator[int]:
        stride = self.market.grid.stride
        slot = max(0, top)
        for _ in range(count):
            yield slot
            slot -= stride if self._random() < 0.7 else 3 * stride
            if slot < 0:
                return

    def drain(self) -> list[Step]:
        """Cancel everything that rests."""
        return [
            self._changed(side, slot, -size)
            for side in _SIDES
            for slot, size in list(self.market.side(side).sizes.items())
        ]

    def step(self) -> Step:
        """Do one thing."""
        random = self._random
        side: Side = "yes" if random() < 0.5 else "no"
        held = self.market.side(side)
        draw = random()
        if draw < TRADES_PER_DELTA and held.slots:
            slot = held.slots[-1]
            return self._changed(
                side, slot, -min(held.sizes[slot], TRADE_SIZES[int(random() * _ROWS)]), trade=True
            )
        target = self._targets[side]
        pull = max(-0.6, min(0.6, _PULL * (target - len(held.slots)) / target))
        draw = random()
        if draw < NEW_SHARE * (1 + pull) or not held.slots:
            return self._new(side)
        slots = held.slots
        rank = RANKS[int(random() * _ROWS)]
        slot = slots[-1 - rank % len(slots)]
        size = SIZES[int(random() * _ROWS)]
        if draw < NEW_SHARE + GROW_SHARE + NEW_SHARE * pull:
            return self._changed(side, slot, size)
        if draw > 1 - GONE_SHARE * (1 - pull) or held.sizes[slot] == 1:
            return self._changed(side, slot, -held.sizes[slot])
        if size >= held.sizes[slot]:
            size = 1 + int(random() * (held.sizes[slot] - 1))
        return self._changed(side, slot, -size)

    def _new(self, side: Side) -> Step:
        market, random = self.market, self._random
        held, stride = market.side(side), market.grid.stride
        best = held.slots[-1] if held.slots else self._empty_best(side)
        size = SIZES[int(random() * _ROWS)]
        room = market.room(side)
        # The wider the spread, the sooner somebody improves it; the dearer a side, the later. This is
        # what holds spreads together and prices off the edges, where real markets go only to settle.
        eager = 2 * (1 - best / len(market.grid.prices))
        if room > 0 and held.slots and random() < _IMPROVE * eager * min(4.0, room / stride):
            jump = IMPROVEMENTS[int(random() * _ROWS)] * stride - int(random() * stride)
            return self._changed(side, best + min(jump, room), size)
        slot = best - NEW_DISTANCES[int(random() * _ROWS)] * stride + int(random() * stride)
        return self._placed_below(side, min(slot, best), size)

    def _empty_best(self, side: Side) -> int:
        """Return where the best bid of an empty side may stand: at the last slot that does not trade."""
        return max(0, self.market.room(side) - 1)

    def _placed_below(self, side: Side, slot: int, size: int) -> Step:
        held = self.market.side(side).sizes
        stride = self.market.grid.stride
        while slot in held and slot >= stride:
            slot -= stride
        return self._changed(side, max(slot, 0), size)

    def _changed(self, side: Side, slot: int, change: int, *, trade: bool = False) -> Step:
        return Step(side, self.market.change(side, slot, change), change, trade)

    @staticmethod
    def yes_price(step: Step) -> int:
        """Return a trade's price on the YES scale, $0.0001."""
        return step.price if step.side == "yes" else ONE_DOLLAR - step.price


_SIDES: Final[tuple[Side, Side]] = ("yes", "no")
_IMPROVE: Final = 0.16
"""Share of new levels that improve the best bid by a cent per cent of room; found by matching the spread."""
