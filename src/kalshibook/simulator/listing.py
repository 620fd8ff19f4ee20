"""The exchange's lists as REST shows them: which markets, in which order, from where on. Pure."""

import base64
import binascii
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec

from kalshibook.simulator.exchange import ModelMarket, Status
from kalshibook.simulator.venue import Venue

__all__ = ["STATUS_FILTERS", "BadQuery", "MarketFilter", "Page", "decode_cursor", "encode_cursor", "select"]

STATUS_FILTERS: Final = {
    "unopened": frozenset({Status.INITIALIZED}),
    "open": frozenset({Status.ACTIVE}),
    "paused": frozenset({Status.INACTIVE}),
    "closed": frozenset({Status.CLOSED, Status.DETERMINED, Status.DISPUTED, Status.AMENDED}),
    "settled": frozenset({Status.FINALIZED}),
}
"""What `status` selects."""


class BadQuery(Exception):  # noqa: N818 - an answer, not a failure
    """A parameter cannot be; the message says which and why."""


class MarketFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which markets are wanted; what is None or empty does not matter."""

    status: str = ""
    event_ticker: str = ""
    series_ticker: str = ""
    tickers: tuple[str, ...] = ()
    combos: bool | None = None
    """Only multivariate markets, or none of them."""
    min_created_s: int | None = None
    max_created_s: int | None = None
    min_close_s: int | None = None
    max_close_s: int | None = None
    min_settled_s: int | None = None
    max_settled_s: int | None = None
    min_updated_s: int | None = None
    max_updated_s: int | None = None


def encode_cursor(ordinal: int) -> str:
    """Return the cursor of what follows a place in the lists."""
    return base64.urlsafe_b64encode(b"after:%d" % ordinal).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    """
    Return the place from which a list goes on; 0 without a cursor.

    Raises:
        BadQuery: it is none of ours.
    """
    if not cursor:
        return 0
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (binascii.Error, ValueError):
        text = b""
    name, _, number = text.partition(b":")
    if name != b"after" or not number.isdigit():
        raise BadQuery("invalid cursor")
    return int(number) + 1


class Page(NamedTuple):
    """Part of a list of markets."""

    markets: list[ModelMarket | int]
    """In the order of the list; a quiet market that never changed stands as its place only."""
    cursor: str
    """Of the next part; empty at the end."""


def select(venue: Venue, wanted: MarketFilter, start: int, limit: int) -> Page:
    """
    Return a page of markets.

    Args:
        venue: whose markets.
        wanted: which.
        start: the place to begin at.
        limit: how many.
    """
    fits = _judge(wanted, venue.now_us)
    page: list[ModelMarket | int] = []
    last = start - 1
    if not (wanted.tickers or wanted.event_ticker or wanted.series_ticker):
        first, end = _quiet_range(venue, wanted, fits)
        for ordinal in range(max(first, start), end):
            market = ordinal if venue.model.is_quiet(ordinal) else venue.model.at(ordinal)
            if market is None or not (isinstance(market, int) or fits(market)):
                continue
            if len(page) == limit:
                return Page(page, encode_cursor(last))
            page.append(market)
            last = ordinal
        start = max(start, end)
    for market in _candidates(venue, wanted, start):
        if fits(market):
            if len(page) == limit:
                return Page(page, encode_cursor(last))
            page.append(market)
            last = market.ordinal
    return Page(page, "")


def _quiet_range(venue: Venue, wanted: MarketFilter, fits: Callable[[ModelMarket], bool]) -> tuple[int, int]:
    """Return the places of quiet markets that are wanted, all or none: they are alike but for their kind."""
    quiet = venue.model.quiet
    if quiet is None:
        return 0, 0
    first, end = quiet.range_of(wanted.combos)
    return (first, end) if first < end and fits(quiet.bare(first)) else (0, 0)


def _candidates(venue: Venue, wanted: MarketFilter, start: int) -> Iterator[ModelMarket]:
    model = venue.model
    if wanted.tickers:
        named = [market for ticker in wanted.tickers if (market := model.get(ticker)) is not None]
        return iter(sorted((one for one in named if one.ordinal >= start), key=lambda one: one.ordinal))
    if wanted.event_ticker:
        return model.of_event(wanted.event_ticker, start)
    if wanted.series_ticker:
        return model.of_series(wanted.series_ticker, start)
    # Quiet markets were looked at before: these are the ones that changed, and those that were never quiet.
    return model.listed(start, kept_only=True)


def _judge(wanted: MarketFilter, now_us: int) -> Callable[[ModelMarket], bool]:
    statuses = STATUS_FILTERS[wanted.status] if wanted.status else None
    tickers = frozenset(wanted.tickers)
    ranges = [
        (name, low, high)
        for name, low, high in (
            ("created", wanted.min_created_s, wanted.max_created_s),
            ("close", wanted.min_close_s, wanted.max_close_s),
            ("settled", wanted.min_settled_s, wanted.max_settled_s),
            ("updated", wanted.min_updated_s, wanted.max_updated_s),
        )
        if low is not None or high is not None
    ]

    def fits(market: ModelMarket) -> bool:
        if market.visible_us > now_us:
            return False
        if statuses is not None and market.status not in statuses:
            return False
        if wanted.combos is not None and market.is_combo is not wanted.combos:
            return False
        if wanted.event_ticker and market.event != wanted.event_ticker:
            return False
        if wanted.series_ticker and market.series != wanted.series_ticker:
            return False
        if tickers and market.ticker not in tickers:
            return False
        return all(_within(_time_of(market, name), low, high) for name, low, high in ranges)

    return fits


def _time_of(market: ModelMarket, name: str) -> int | None:
    if name == "created":
        return market.created_us // 1_000_000
    if name == "updated":
        return market.updated_us // 1_000_000
    return market.close_s if name == "close" else market.settled_s


def _within(value: int | None, low: int | None, high: int | None) -> bool:
    if value is None:
        return False
    return (low is None or value >= low) and (high is None or value <= high)
