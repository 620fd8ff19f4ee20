"""A made-up market for tests over a real socket, and a book folded from frames by a client."""

import random
from decimal import Decimal
from typing import Any

from kalshibook.store import Book, BookStore
from kalshibook.wire import Side
from tests.store.builders import TICKER, Script

MARK = 4_950


class Market:
    """Moves one market's book at random, never to an impossible size."""

    def __init__(self, store: BookStore, *, ticker: str = TICKER, seed: int = 7) -> None:
        self.script = Script(store)
        self.ticker = ticker
        self.random = random.Random(seed)
        self.sizes: dict[Side, dict[int, int]] = {"yes": {}, "no": {}}

    def snapshot(self) -> None:
        """Send a snapshot with a few levels a side."""
        for side in self.sizes:
            prices = self.random.sample(range(100, 4_900, 100), 12)
            self.sizes[side] = {price: self.random.randrange(1, 100_000) for price in prices}
        self.script.snapshot(self.sizes["yes"], self.sizes["no"], ticker=self.ticker)

    def moves(self, count: int) -> None:
        """Send deltas: new levels, changed ones and emptied ones."""
        for _ in range(count):
            side: Side = self.random.choice(("yes", "no"))
            price = self.random.randrange(100, 4_900, 100)
            rests = self.sizes[side].get(price, 0)
            change = (
                -rests if rests and self.random.random() < 0.3 else self.random.randrange(1 - rests, 10_000)
            )
            if change == 0:
                change = 1
            self.sizes[side][price] = rests + change
            self.script.delta(side, price, change, ticker=self.ticker)

    def finish(self) -> None:
        """Send a delta at a price that nothing else uses."""
        self.script.delta("yes", MARK, 100, ticker=self.ticker)


class FoldedBook:
    """A book as a client makes it from frames, knowing the exchange's documents only."""

    def __init__(self) -> None:
        self.sides: dict[str, dict[Decimal, Decimal]] = {}
        self.snapshots = 0
        self.deltas = 0

    @property
    def finished(self) -> bool:
        """Whether the mark of `Market.finish` is there."""
        return Decimal(MARK) / 10_000 in self.sides.get("yes", {})

    def apply(self, frame: dict[str, Any]) -> None:
        """Fold a snapshot or a delta."""
        message = frame["msg"]
        if frame["type"] == "orderbook_snapshot":
            self.snapshots += 1
            for side in ("yes", "no"):
                pairs = message.get(f"{side}_dollars_fp", [])
                self.sides[side] = {Decimal(price): Decimal(size) for price, size in pairs}
        else:
            self.deltas += 1
            price, levels = Decimal(message["price_dollars"]), self.sides[message["side"]]
            levels[price] = levels.get(price, Decimal(0)) + Decimal(message["delta_fp"])
            if not levels[price]:
                del levels[price]


def decimals(book: Book) -> dict[str, dict[Decimal, Decimal]]:
    """Return the store's book in the shape of a folded one."""
    return {
        side: {Decimal(level.price) / 10_000: Decimal(level.size) / 100 for level in ladder}
        for side, ladder in (("yes", book.yes), ("no", book.no))
    }
