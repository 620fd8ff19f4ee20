"""Tick grids by the exchange's names for them (Kalshi REST reference, `price_ranges`, autumn 2026)."""

from typing import Final

import msgspec

from kalshibook.numbers import ONE_DOLLAR, TICKS_PER_CENT
from kalshibook.wire import PriceRange

__all__ = ["GRIDS", "Grid"]


class Grid(msgspec.Struct, frozen=True):
    """
    The prices at which orders may rest.

    A *slot* is a place in `prices`. All grids here are symmetric: the price in slot n-1-i is one
    dollar less the price in slot i, so slots can be compared across sides without prices.
    """

    name: str
    bands: tuple[PriceRange, ...]
    prices: tuple[int, ...]
    """Ascending, $0.0001, without $0 and $1."""
    stride: int
    """Slots per cent in the middle band: how far one step of a cent is."""

    def slot(self, price: int) -> int:
        """
        Return the slot of a price.

        Raises:
            ValueError: the price is not on the grid.
        """
        if len(self.prices) == ONE_DOLLAR - 1:
            # The finest grid has every price; the others are short enough to be searched.
            if not 0 < price < ONE_DOLLAR:
                raise ValueError(f"{price} is not on the grid {self.name}")
            return price - 1
        return self.prices.index(price)


def _grid(name: str, *bands: tuple[int, int, int]) -> Grid:
    prices = {price for start, end, step in bands for price in range(start, end + 1, step)}
    middle = next(step for start, end, step in bands if start <= ONE_DOLLAR // 2 <= end)
    return Grid(
        name,
        tuple(PriceRange(start, end, step) for start, end, step in bands),
        tuple(sorted(prices - {0, ONE_DOLLAR})),
        max(1, TICKS_PER_CENT // middle),
    )


GRIDS: Final = {
    grid.name: grid
    for grid in (
        _grid("linear_cent", (0, 10_000, 100)),
        _grid("tapered_deci_cent", (0, 1_000, 10), (1_000, 9_000, 100), (9_000, 10_000, 10)),
        _grid("deci_cent", (0, 10_000, 10)),
        _grid("center_whole_edge_half_cent", (0, 1_000, 50), (1_000, 9_000, 100), (9_000, 10_000, 50)),
        _grid("center_whole_edge_quint_cent", (0, 1_000, 20), (1_000, 9_000, 100), (9_000, 10_000, 20)),
        _grid("center_half_edge_half_cent", (0, 10_000, 50)),
        _grid("center_half_edge_quint_cent", (0, 1_000, 20), (1_000, 9_000, 50), (9_000, 10_000, 20)),
        _grid("center_half_edge_deci_cent", (0, 1_000, 10), (1_000, 9_000, 50), (9_000, 10_000, 10)),
        _grid("center_quint_edge_quint_cent", (0, 10_000, 20)),
        _grid("center_quint_edge_deci_cent", (0, 1_000, 10), (1_000, 9_000, 20), (9_000, 10_000, 10)),
        _grid("center_deci_edge_centi_cent", (0, 100, 1), (100, 9_900, 10), (9_900, 10_000, 1)),
        _grid("center_centi_edge_centi_cent", (0, 10_000, 1)),
    )
}
"""Grids by name."""
