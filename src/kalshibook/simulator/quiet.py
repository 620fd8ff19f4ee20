"""
Markets that never move by themselves: made when somebody asks, always the same, and forgotten again.

A large exchange lists a million markets of which a few thousand trade. A market of this kind costs no
memory: its name is reckoned from its place in the lists and back, its book from a hash.
"""

import re
from typing import Final, final

from kalshibook.simulator.exchange import COMBO_PREFIX, ModelMarket, Status
from kalshibook.simulator.grids import GRIDS, Grid
from kalshibook.simulator.measured import LEVEL_SIZES
from kalshibook.simulator.naming import market_id_of

__all__ = ["EVENT_MARKETS", "SERIES_EVENTS", "QuietPond"]

EVENT_MARKETS: Final = 20
"""Markets of one event."""
SERIES_EVENTS: Final = 100
"""Events of one series."""
_LEAST_LEVELS: Final = 3
"""Of a side, if they fit; up to three more."""
_MASK: Final = (1 << 64) - 1
_LASTS_S: Final = 90 * 86_400

_PLAIN = re.compile(r"KXREED(\d{4})-(\d{2})-T(\d{2})", re.ASCII)
_COMBO = re.compile(rf"{COMBO_PREFIX}REED(\d{{4}})-S(\d{{2}})-(\d{{2}})", re.ASCII)
_GRIDS: Final = tuple(
    GRIDS[name] for name in ("linear_cent", "linear_cent", "tapered_deci_cent", "deci_cent")
)
_COMBO_GRID: Final = GRIDS["center_deci_edge_centi_cent"]
_SERIES_MARKETS: Final = EVENT_MARKETS * SERIES_EVENTS
_SIZES: Final = len(LEVEL_SIZES)
# Which draws a side's levels are from.
_YES: Final = 1
_NO: Final = 101
_STRIDE: Final = 0x9E37_79B9_7F4A_7C15
_MIX_2: Final = 0xD1B5_4A32_D192_ED03


@final
class QuietPond:
    """So many quiet markets, by ordinal from 0: first the ordinary ones, then the combos."""

    def __init__(self, count: int, combos: float, seed: int, start_s: int) -> None:
        self.count = count
        self.plain: Final = count - round(count * combos)
        """How many of them are ordinary."""
        self._seed = seed
        self._start_s = start_s

    def market(self, ordinal: int) -> ModelMarket:
        """Make a market with its book."""
        market = self.bare(ordinal)
        state, (yes, no) = self._state(ordinal), self._tops(ordinal, market.grid)
        for side, top, first in ((market.yes, yes, _YES), (market.no, no, _NO)):
            levels = [top]
            for place in range(first + 1, first + _LEAST_LEVELS + (_draw(state, first) & 3)):
                drawn = _draw(state, place)
                slot = levels[-1][0] - (1 + (drawn & 1)) * market.grid.stride
                if slot < 0:
                    break
                levels.append((slot, LEVEL_SIZES[(drawn >> 1) % _SIZES]))
            side.slots = [slot for slot, _ in reversed(levels)]
            side.sizes = dict(levels)
        return market

    def tops(self, ordinal: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the best bids of both sides, YES and NO, as (price, size), without making the market."""
        grid = self._grid(ordinal)
        (yes_slot, yes_size), (no_slot, no_size) = self._tops(ordinal, grid)
        return (grid.prices[yes_slot], yes_size), (grid.prices[no_slot], no_size)

    def _tops(self, ordinal: int, grid: Grid) -> tuple[tuple[int, int], tuple[int, int]]:
        drawn = _draw(self._state(ordinal), 0)
        slots = len(grid.prices)
        best = int(slots * (0.1 + 0.8 * (drawn & 0xFFFF) / 65_536))
        return (
            (best, LEVEL_SIZES[(drawn >> 16 & 0xFFFF) % _SIZES]),
            (max(0, slots - 1 - best - 2 * grid.stride), LEVEL_SIZES[(drawn >> 32 & 0xFFFF) % _SIZES]),
        )

    def _state(self, ordinal: int) -> int:
        # From its own place, so that it does not matter who is asked for first.
        return (ordinal + 1) * _STRIDE + self._seed * _MIX_2

    def _grid(self, ordinal: int) -> Grid:
        if ordinal >= self.plain:
            return _COMBO_GRID
        return _GRIDS[ordinal // _SERIES_MARKETS % len(_GRIDS)]

    def kind(self, ordinal: int) -> tuple[str, bool]:
        """Return grid and whether it is a combo: all that sets one apart but names and quotes."""
        return self._grid(ordinal).name, ordinal >= self.plain

    def title(self, ordinal: int) -> str:
        """Return what one asks."""
        return f"The reed bends {ordinal % EVENT_MARKETS} degrees"

    def names(self, ordinal: int) -> tuple[str, str, str]:
        """Return series, event and ticker of a market."""
        is_combo = ordinal >= self.plain
        event_number, member = divmod(ordinal - self.plain if is_combo else ordinal, EVENT_MARKETS)
        series_number, event_place = divmod(event_number, SERIES_EVENTS)
        if is_combo:
            series = f"{COMBO_PREFIX}REED{series_number:04d}"
            event = f"{series}-S{event_place:02d}"
            return series, event, f"{event}-{member:02d}"
        series = f"KXREED{series_number:04d}"
        event = f"{series}-{event_place:02d}"
        return series, event, f"{event}-T{member:02d}"

    def bare(self, ordinal: int) -> ModelMarket:
        """Make a market without a book."""
        series, event, ticker = self.names(ordinal)
        market = ModelMarket(
            ticker,
            self._grid(ordinal),
            event=event,
            series=series,
            title=self.title(ordinal),
            market_id=market_id_of(ordinal),
        )
        market.ordinal = ordinal
        market.exchange_index = int(ordinal >= self.plain)
        market.status = Status.ACTIVE
        market.open_s = self._start_s - 86_400
        market.close_s = self._start_s + _LASTS_S
        market.created_us = market.updated_us = market.open_s * 1_000_000
        return market

    def ordinal(self, ticker: str) -> int | None:
        """Find a market by its ticker."""
        is_combo = ticker.startswith(COMBO_PREFIX)
        found = (_COMBO if is_combo else _PLAIN).fullmatch(ticker)
        if found is None:
            return None
        series, event, member = map(int, found.groups())
        place = (series * SERIES_EVENTS + event) * EVENT_MARKETS + member
        if member >= EVENT_MARKETS or event >= SERIES_EVENTS:
            return None
        ordinal = place + self.plain if is_combo else place
        return ordinal if ordinal < (self.count if is_combo else self.plain) else None

    def range_of(self, combos: bool | None) -> tuple[int, int]:
        """Return the ordinals, first and end, of combos only, of none, or of all."""
        return self.plain if combos else 0, self.plain if combos is False else self.count

    def event_range(self, event: str) -> range:
        """Return the ordinals of an event's markets."""
        last = "-00" if event.startswith(COMBO_PREFIX) else "-T00"
        first = self.ordinal(event + last)
        if first is None:
            return range(0)
        return range(first, min(first + EVENT_MARKETS, self._end_of(first)))

    def series_range(self, series: str) -> range:
        """Return the ordinals of a series' markets."""
        last = "-S00-00" if series.startswith(COMBO_PREFIX) else "-00-T00"
        first = self.ordinal(series + last)
        if first is None:
            return range(0)
        return range(first, min(first + _SERIES_MARKETS, self._end_of(first)))

    def series(self) -> list[str]:
        """Return the tickers of their series."""
        firsts = (*range(0, self.plain, _SERIES_MARKETS), *range(self.plain, self.count, _SERIES_MARKETS))
        return [self.names(first)[0] for first in firsts]

    def _end_of(self, ordinal: int) -> int:
        return self.plain if ordinal < self.plain else self.count


def _draw(state: int, place: int) -> int:
    # SplitMix64 (Steele and others, 2014): its draws can be had in any order, the best bids without the rest.
    mixed = (state + (place + 1) * _STRIDE) & _MASK
    mixed = ((mixed ^ mixed >> 30) * 0xBF58_476D_1CE4_E5B9) & _MASK
    mixed = ((mixed ^ mixed >> 27) * 0x94D0_49BB_1331_11EB) & _MASK
    return mixed ^ mixed >> 31
