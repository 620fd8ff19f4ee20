"""
Markets that never move by themselves: made when somebody asks, always the same, and forgotten again.

A large exchange lists a million markets of which a few thousand trade. A market of this kind costs no
memory: its name is reckoned from its place in the lists and back, its book from a hash.
"""

import re
from collections.abc import Iterator
from typing import Final, final

from kalshibook.simulator.exchange import COMBO_PREFIX, ModelMarket, Status
from kalshibook.simulator.grids import GRIDS
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
_GRIDS: Final = ("linear_cent", "linear_cent", "tapered_deci_cent", "deci_cent")


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
        # From its own place, so that it does not matter who is asked for first.
        draws = _draws((ordinal + 1) * 0x9E37_79B9_7F4A_7C15 + self._seed * 0xD1B5_4A32_D192_ED03)
        prices, stride = market.grid.prices, market.grid.stride
        best = int(len(prices) * (0.1 + 0.8 * (next(draws) & 0xFFFF) / 65_536))
        for side, top in (("yes", best), ("no", len(prices) - 1 - best - 2 * stride)):
            held = market.yes if side == "yes" else market.no
            for place in range(_LEAST_LEVELS + (next(draws) & 3)):
                slot = top - place * (1 + (next(draws) & 1)) * stride
                if slot >= 0 and slot not in held.sizes:
                    held.change(slot, LEVEL_SIZES[next(draws) % len(LEVEL_SIZES)])
        return market

    def bare(self, ordinal: int) -> ModelMarket:
        """Make a market without a book."""
        is_combo = ordinal >= self.plain
        place = ordinal - self.plain if is_combo else ordinal
        event_number, member = divmod(place, EVENT_MARKETS)
        series_number, event_place = divmod(event_number, SERIES_EVENTS)
        if is_combo:
            series = f"{COMBO_PREFIX}REED{series_number:04d}"
            event = f"{series}-S{event_place:02d}"
            ticker, grid = f"{event}-{member:02d}", "center_deci_edge_centi_cent"
        else:
            series = f"KXREED{series_number:04d}"
            event = f"{series}-{event_place:02d}"
            ticker, grid = f"{event}-T{member:02d}", _GRIDS[series_number % len(_GRIDS)]
        market = ModelMarket(
            ticker,
            GRIDS[grid],
            event=event,
            series=series,
            title=f"Reed {series_number} bends {member} degrees",
            market_id=market_id_of(ordinal),
        )
        market.ordinal = ordinal
        market.exchange_index = int(is_combo)
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
        return range(first, min(first + EVENT_MARKETS * SERIES_EVENTS, self._end_of(first)))

    def series(self) -> list[str]:
        """Return the tickers of their series."""
        step = EVENT_MARKETS * SERIES_EVENTS
        firsts = (*range(0, self.plain, step), *range(self.plain, self.count, step))
        return [self.bare(first).series for first in firsts]

    def _end_of(self, ordinal: int) -> int:
        return self.plain if ordinal < self.plain else self.count


def _draws(state: int) -> Iterator[int]:
    # SplitMix64: a million books are filled at a few microseconds each, without a generator to seed.
    while True:
        state = (state + 0x9E37_79B9_7F4A_7C15) & _MASK
        mixed = ((state ^ state >> 30) * 0xBF58_476D_1CE4_E5B9) & _MASK
        mixed = ((mixed ^ mixed >> 27) * 0x94D0_49BB_1331_11EB) & _MASK
        yield mixed ^ mixed >> 31
