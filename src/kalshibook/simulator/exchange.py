"""
The true books of a simulated exchange: mutable, exact, and impossible to bring into a false state.

Every change is checked: nothing goes below zero, off the grid or across the other side. So
whatever is told of these changes to a client adds up to a snapshot taken at any moment.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from kalshibook.simulator.grids import Grid
from kalshibook.wire import Side

__all__ = ["ExchangeModel", "ModelMarket", "ModelSide"]


class ModelSide:
    """The resting bids of one side, by slot of the grid."""

    __slots__ = ("sizes", "slots")

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        """Slot to size in 0.01 contract; no zeros."""
        self.slots: list[int] = []
        """The occupied slots, ascending; the last one is the best bid."""

    def change(self, slot: int, change: int) -> None:
        """
        Add to the size in a slot; one that reaches 0 is gone.

        Raises:
            ValueError: less rests there than is taken away.
        """
        held = self.sizes.get(slot, 0)
        size = held + change
        if size < 0:
            raise ValueError(f"{-change} cannot be taken from {held} in slot {slot}")
        if size == 0:
            if held:
                del self.sizes[slot]
                del self.slots[bisect_left(self.slots, slot)]
            return
        if not held:
            insort(self.slots, slot)
        self.sizes[slot] = size


class ModelMarket:
    """One market: its names, its grid, both sides."""

    __slots__ = ("close_s", "event", "grid", "market_id", "no", "open_s", "series", "ticker", "title", "yes")

    def __init__(
        self,
        ticker: str,
        grid: Grid,
        *,
        event: str = "",
        series: str = "",
        title: str = "",
        market_id: str = "",
    ) -> None:
        self.ticker = ticker
        self.grid = grid
        self.event = event
        self.series = series
        self.title = title
        self.market_id = market_id
        self.open_s: int | None = None
        """When trading opens, Unix seconds."""
        self.close_s: int | None = None
        """When trading closes, Unix seconds."""
        self.yes = ModelSide()
        self.no = ModelSide()

    def side(self, side: Side) -> ModelSide:
        """Return one side's bids."""
        return self.yes if side == "yes" else self.no

    def room(self, side: Side) -> int:
        """Return how many slots are free between the best bid of a side and the first that would trade."""
        mine, other = (self.yes, self.no) if side == "yes" else (self.no, self.yes)
        top = len(self.grid.prices) - 1 - (other.slots[-1] if other.slots else -1)
        return top - (mine.slots[-1] if mine.slots else -1) - 1

    def change(self, side: Side, slot: int, change: int) -> int:
        """
        Change the size in a slot of one side and return the slot's price.

        Raises:
            ValueError: the slot is not on the grid, the bid would trade, or too little rests there.
        """
        price = self.grid.prices[slot] if slot >= 0 else None
        if price is None:
            raise ValueError(f"slot {slot} is not on the grid {self.grid.name}")
        mine, other = (self.yes, self.no) if side == "yes" else (self.no, self.yes)
        if change > 0 and other.slots and slot + other.slots[-1] >= len(self.grid.prices) - 1:
            raise ValueError(f"a {side} bid in slot {slot} would trade with the {other.slots[-1]} opposite")
        mine.change(slot, change)
        return price

    def levels(self, side: Side) -> list[tuple[int, int]]:
        """Return one side as (price, size), ascending."""
        prices, held = self.grid.prices, self.side(side)
        return [(prices[slot], held.sizes[slot]) for slot in held.slots]


class ExchangeModel:
    """All markets of a simulated exchange, by ticker."""

    def __init__(self) -> None:
        self._markets: dict[str, ModelMarket] = {}

    def add(self, market: ModelMarket) -> None:
        """
        List a market.

        Raises:
            ValueError: its ticker is taken.
        """
        if market.ticker in self._markets:
            raise ValueError(f"market {market.ticker!r} is listed already")
        self._markets[market.ticker] = market

    def remove(self, ticker: str) -> None:
        """Take a settled market off the lists; KeyError if it is not there."""
        del self._markets[ticker]

    def __getitem__(self, ticker: str) -> ModelMarket:
        return self._markets[ticker]

    def __iter__(self) -> Iterator[ModelMarket]:
        return iter(self._markets.values())

    def __len__(self) -> int:
        return len(self._markets)
