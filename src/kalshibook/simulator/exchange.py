"""
The true books of a simulated exchange: mutable, exact, and impossible to bring into a false state.

Every change is checked: nothing goes below zero, off the grid or across the other side. So
whatever is told of these changes to a client adds up to a snapshot taken at any moment.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final, Protocol

from kalshibook.simulator.grids import Grid
from kalshibook.wire import Side

__all__ = ["COMBO_PREFIX", "ExchangeModel", "ModelMarket", "ModelSide", "QuietMarkets", "Status"]

COMBO_PREFIX: Final = "KXMVE"
"""How tickers of multivariate markets begin."""


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


class Status(StrEnum):
    """Where a market is in its life, in the exchange's words."""

    INITIALIZED = "initialized"
    ACTIVE = "active"
    INACTIVE = "inactive"
    CLOSED = "closed"
    DETERMINED = "determined"
    DISPUTED = "disputed"
    AMENDED = "amended"
    FINALIZED = "finalized"


class ModelMarket:
    """One market: its names, its grid, both sides, and what the exchange says of it."""

    __slots__ = (
        "close_s",
        "created_us",
        "event",
        "exchange_index",
        "grid",
        "last_price",
        "last_size",
        "market_id",
        "no",
        "open_interest",
        "open_s",
        "ordinal",
        "result",
        "series",
        "settled_s",
        "settlement_value",
        "status",
        "ticker",
        "title",
        "updated_us",
        "visible_us",
        "volume",
        "volume_ticks",
        "yes",
    )

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
        self.ordinal = 0
        """Its place in the exchange's lists."""
        self.exchange_index = 0
        """The matching engine that it trades on."""
        self.open_s: int | None = None
        """When trading opens, Unix seconds."""
        self.close_s: int | None = None
        """When trading closes, Unix seconds."""
        self.status = Status.INITIALIZED
        self.created_us = 0
        self.updated_us = 0
        """Last change that is not trading, as `updated_time` means it."""
        self.visible_us = 0
        """From when on REST knows it: somewhat later than the socket told of it."""
        self.result = ""
        self.settlement_value: int | None = None
        """What a YES contract paid, $0.0001."""
        self.settled_s: int | None = None
        self.last_price: int | None = None
        """YES price of the last trade, $0.0001."""
        self.last_size = 0
        self.volume = 0
        """Contracts traded, 0.01."""
        self.volume_ticks = 0
        """Their worth, in 0.01 contract times $0.0001."""
        self.open_interest = 0
        self.yes = ModelSide()
        self.no = ModelSide()

    @property
    def is_combo(self) -> bool:
        """Whether it is a multivariate market, which the exchange lists and tells of apart."""
        return self.ticker.startswith(COMBO_PREFIX)

    def is_in(self, *statuses: Status) -> bool:
        """Tell whether its status is one of these."""
        return self.status in statuses

    def best(self, side: Side) -> tuple[int, int] | None:
        """Return price and size of a side's best bid, on the scale of the side."""
        held = self.side(side)
        if not held.slots:
            return None
        slot = held.slots[-1]
        return self.grid.prices[slot], held.sizes[slot]

    def trade(self, yes_price: int, size: int) -> None:
        """Count a trade."""
        self.last_price, self.last_size = yes_price, size
        self.volume += size
        self.volume_ticks += size * yes_price
        self.open_interest += size

    def side(self, side: Side) -> ModelSide:
        """Return one side's bids."""
        return self.yes if side == "yes" else self.no

    def room(self, side: Side) -> int:
        """Return how many slots are free between the best bid of a side and the first that would trade."""
        mine, other = (self.yes, self.no) if side == "yes" else (self.no, self.yes)
        top = len(self.grid.prices) - 1 - (other.slots[-1] if other.slots else -1)
        return top - (mine.slots[-1] if mine.slots else -1) - 1

    def change(self, side: Side, slot: int, change: int, *, may_cross: bool = False) -> int:
        """
        Change the size in a slot of one side and return the slot's price.

        Args:
            side: whose bids.
            slot: where.
            change: signed, 0.01 contract.
            may_cross: take a bid that would trade, as recordings have between two frames of one moment.

        Raises:
            ValueError: the slot is not on the grid, the bid would trade, or too little rests there.
        """
        price = self.grid.prices[slot] if slot >= 0 else None
        if price is None:
            raise ValueError(f"slot {slot} is not on the grid {self.grid.name}")
        mine, other = (self.yes, self.no) if side == "yes" else (self.no, self.yes)
        if (
            change > 0
            and not may_cross
            and other.slots
            and slot + other.slots[-1] >= len(self.grid.prices) - 1
        ):
            raise ValueError(f"a {side} bid in slot {slot} would trade with the {other.slots[-1]} opposite")
        mine.change(slot, change)
        return price

    def regrid(self, grid: Grid) -> None:
        """
        Put the market on another grid; resting orders stay.

        Raises:
            ValueError: an order rests at a price that the new grid does not have.
        """
        moved = [[(grid.slot(price), size) for price, size in self.levels(side)] for side in ("yes", "no")]
        self.grid = grid
        for held, levels in zip((self.yes, self.no), moved, strict=True):
            held.slots = [slot for slot, _ in levels]
            held.sizes = dict(levels)

    def levels(self, side: Side) -> list[tuple[int, int]]:
        """Return one side as (price, size), ascending."""
        prices, held = self.grid.prices, self.side(side)
        return [(prices[slot], held.sizes[slot]) for slot in held.slots]


class QuietMarkets(Protocol):
    """Markets that are made when they are first needed, by ordinal 0 to `count` - 1."""

    count: int

    def market(self, ordinal: int) -> ModelMarket:
        """Make one, always the same, with its book."""

    def ordinal(self, ticker: str) -> int | None:
        """Find one by its ticker."""

    def bare(self, ordinal: int) -> ModelMarket:
        """Make one without its book."""

    def names(self, ordinal: int) -> tuple[str, str, str]:
        """Return series, event and ticker of one."""

    def kind(self, ordinal: int) -> tuple[str, bool]:
        """Return grid and whether it is a combo: all that sets one apart but names and quotes."""

    def title(self, ordinal: int) -> str:
        """Return what one asks."""

    def tops(self, ordinal: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the best bids of both sides of one, YES and NO, as (price, size)."""

    def series(self) -> list[str]:
        """Return the tickers of their series."""

    def range_of(self, combos: bool | None) -> tuple[int, int]:
        """Return the ordinals, first and end, of combos only, of none, or of all."""

    def event_range(self, event: str) -> range:
        """Return the ordinals of an event's markets."""

    def series_range(self, series: str) -> range:
        """Return the ordinals of a series' markets."""


class ExchangeModel:
    """
    All markets of a simulated exchange, by ticker.

    Most markets of a large exchange never move while anybody looks. Those are *quiet*: made afresh,
    always the same, each time somebody asks, and kept only from their first change on.
    """

    def __init__(self, quiet: QuietMarkets | None = None) -> None:
        self._markets: dict[str, ModelMarket] = {}
        self._quiet = quiet
        self._gone: set[int] = set()
        self._touched: dict[int, ModelMarket] = {}
        self._listed: list[ModelMarket | None] = []

    @property
    def quiet(self) -> QuietMarkets | None:
        """The quiet markets, if there are any."""
        return self._quiet

    def is_quiet(self, ordinal: int) -> bool:
        """Tell whether a place in the lists is that of a market that never changed."""
        return 0 <= ordinal < self.quiet_count and ordinal not in self._touched and ordinal not in self._gone

    @property
    def quiet_count(self) -> int:
        """How many ordinals belong to quiet markets, those that were touched since included."""
        return 0 if self._quiet is None else self._quiet.count

    def add(self, market: ModelMarket) -> None:
        """
        List a market behind all others.

        Raises:
            ValueError: its ticker is taken.
        """
        if market.ticker in self:
            raise ValueError(f"market {market.ticker!r} is listed already")
        market.ordinal = self.quiet_count + len(self._listed)
        self._listed.append(market)
        self._markets[market.ticker] = market

    def remove(self, ticker: str) -> None:
        """Take a settled market off the lists; KeyError if it is not there."""
        market = self[ticker]
        self._markets.pop(ticker, None)
        if market.ordinal < self.quiet_count:
            self._touched.pop(market.ordinal, None)
            self._gone.add(market.ordinal)
        else:
            self._listed[market.ordinal - self.quiet_count] = None

    def touch(self, ticker: str) -> ModelMarket:
        """Return a market to be changed: a quiet one is kept from now on. KeyError if there is none."""
        market = self[ticker]
        if market.ordinal < self.quiet_count and market.ordinal not in self._touched:
            self._touched[market.ordinal] = market
            self._markets[ticker] = market
        return market

    def get(self, ticker: str) -> ModelMarket | None:
        """Return a market to look at, None if it is not listed. What is returned may be a copy."""
        held = self._markets.get(ticker)
        if held is not None or self._quiet is None:
            return held
        ordinal = self._quiet.ordinal(ticker)
        return None if ordinal is None or ordinal in self._gone else self._quiet.market(ordinal)

    def at(self, ordinal: int) -> ModelMarket | None:
        """Return a market by its place in the lists, to look at."""
        if 0 <= ordinal < self.quiet_count:
            if ordinal in self._gone:
                return None
            assert self._quiet is not None
            return self._touched.get(ordinal) or self._quiet.market(ordinal)
        place = ordinal - self.quiet_count
        return self._listed[place] if 0 <= place < len(self._listed) else None

    def no_longer_quiet(self) -> Iterator[int]:
        """Yield the places of quiet markets that changed since, or are gone."""
        yield from self._touched
        yield from self._gone

    def listed(self, start: int = 0, *, kept_only: bool = False) -> Iterator[ModelMarket]:
        """
        Yield the markets in the order of the lists.

        Args:
            start: the ordinal to begin at.
            kept_only: leave out quiet markets that never changed.
        """
        if self._quiet is not None and start < self._quiet.count:
            if kept_only:
                yield from (self._touched[one] for one in sorted(self._touched) if one >= start)
            else:
                yield from self._quiet_from(start, self._quiet.count)
        for market in self._listed[max(0, start - self.quiet_count) :]:
            if market is not None:
                yield market

    def of_event(self, event: str, start: int = 0) -> Iterator[ModelMarket]:
        """Yield an event's markets, from an ordinal on."""
        if self._quiet is not None:
            yield from self._quiet_from(*self._within(self._quiet.event_range(event), start))
        yield from (
            one for one in self._listed[max(0, start - self.quiet_count) :] if one and one.event == event
        )

    def of_series(self, series: str, start: int = 0) -> Iterator[ModelMarket]:
        """Yield a series' markets, from an ordinal on."""
        if self._quiet is not None:
            yield from self._quiet_from(*self._within(self._quiet.series_range(series), start))
        yield from (
            one for one in self._listed[max(0, start - self.quiet_count) :] if one and one.series == series
        )

    def events(
        self, start: int = 0, *, series: str = "", tickers: Sequence[str] = (), combos: bool = False
    ) -> Iterator[list[ModelMarket]]:
        """
        Yield the markets of each event, by the place of the event's last market.

        Args:
            start: leave out events whose last market stands before this place.
            series: of this series only.
            tickers: these events only.
            combos: multivariate events, and no others.
        """
        if tickers:
            named = [list(self.of_event(event)) for event in tickers]
            found = sorted((one for one in named if one), key=lambda one: one[-1].ordinal)
        else:
            found = None
        for markets in self._grouped(start, series, combos=combos) if found is None else found:
            first, last = markets[0], markets[-1]
            if last.ordinal >= start and first.is_combo is combos and series in {"", first.series}:
                yield markets

    def _grouped(self, start: int, series: str, *, combos: bool) -> Iterator[list[ModelMarket]]:
        if self._quiet is not None:
            first, last = self._quiet.range_of(combos)
            if series:
                places = self._quiet.series_range(series)
                first, last = max(first, places.start), min(last, places.stop)
            # The events of quiet markets are made one by one: a page is no reason to walk past all.
            while first < last:
                places = self._quiet.event_range(self._quiet.bare(first).event)
                if places.stop > start:
                    markets = [*self._quiet_from(places.start, places.stop)]
                    if markets:
                        yield markets
                first = places.stop
        by_event: dict[str, list[ModelMarket]] = {}
        for market in self._listed:
            if market is not None:
                by_event.setdefault(market.event, []).append(market)
        yield from sorted(by_event.values(), key=lambda one: one[-1].ordinal)

    def series(self) -> list[str]:
        """Return the tickers of all series."""
        quiet = [] if self._quiet is None else self._quiet.series()
        return [*dict.fromkeys((*quiet, *(one.series for one in self._listed if one is not None)))]

    @property
    def kept_count(self) -> int:
        """How many markets are kept, and not made afresh each time."""
        return len(self._markets)

    @staticmethod
    def _within(places: range, start: int) -> tuple[int, int]:
        return max(places.start, start), places.stop

    def _quiet_from(self, first: int, last: int) -> Iterator[ModelMarket]:
        assert self._quiet is not None
        for ordinal in range(first, last):
            if ordinal not in self._gone:
                yield self._touched.get(ordinal) or self._quiet.market(ordinal)

    def held(self) -> Iterator[ModelMarket]:
        """Yield the markets that are kept: all but the quiet ones."""
        yield from self._markets.values()

    def is_kept(self, ticker: str) -> bool:
        """Tell whether a market is kept, so that its book may have changed."""
        return ticker in self._markets

    def __getitem__(self, ticker: str) -> ModelMarket:
        market = self.get(ticker)
        if market is None:
            raise KeyError(ticker)
        return market

    def __contains__(self, ticker: str) -> bool:
        if ticker in self._markets:
            return True
        if self._quiet is None:
            return False
        ordinal = self._quiet.ordinal(ticker)
        return ordinal is not None and ordinal not in self._gone

    def __iter__(self) -> Iterator[ModelMarket]:
        return self.listed()

    def __len__(self) -> int:
        return len(self._markets) + self.quiet_count - len(self._gone) - len(self._touched)
