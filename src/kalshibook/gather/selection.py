"""Which markets are gathered: by series, event, ticker, beginning and state, combinations or not. Pure."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, final

from kalshibook.gather.options import GatherOptions
from kalshibook.wire import MarketLifecycle
from kalshibook.wire.rest import Listing, Request, markets_request
from kalshibook.wire.rest.requests import ComboFilter, StatusFilter
from kalshibook.wire.rest.values import COMBO_PREFIX

__all__ = ["Selection"]

# A list of a hundred tickers of the usual length is a URL of some 4 kB.
_TICKERS_PER_CALL: Final = 100

_LIST_OF: Final[dict[str, StatusFilter]] = {
    "initialized": "unopened",
    "active": "open",
    "inactive": "paused",
}


@final
class Selection:
    """
    A filter, and what must be asked to find what passes it.

    A market passes when any of series, events, tickers and prefixes names it, or when none of them is
    given. The exchange itself knows which series a market belongs to; where only a ticker is at hand
    (a lifecycle message), its beginning is taken for its series, as the exchange names them. A
    market that this misjudges is found by the next sweep.
    """

    def __init__(self, options: GatherOptions) -> None:
        self._series = frozenset(options.series)
        self._events = frozenset(options.events)
        self._tickers = frozenset(options.tickers)
        self._prefixes = tuple(options.prefixes)
        self._statuses = options.statuses
        self._with_combos = options.combos
        self._page = options.page_markets
        self._takes_all = not (self._series or self._events or self._tickers or self._prefixes)

    def requests(self) -> list[Request]:
        """Return the lists that together hold every market that may pass, each by its first page."""
        combos: ComboFilter | None = None if self._with_combos else "exclude"
        requests = []
        for status in self._statuses:
            if self._takes_all or self._prefixes:
                requests.append(markets_request(limit=self._page, status=status, combos=combos))
                continue
            requests += [
                markets_request(limit=self._page, status=status, combos=combos, series_ticker=series)
                for series in sorted(self._series)
            ]
            requests += [
                markets_request(limit=self._page, status=status, combos=combos, event_ticker=event)
                for event in sorted(self._events)
            ]
            requests += [
                markets_request(limit=self._page, status=status, tickers=chunk)
                for chunk in _chunks(sorted(self._tickers))
            ]
        return requests

    def admits(self, listing: Listing, request: Request | None = None) -> bool:
        """
        Tell whether a market of a REST answer passes.

        Args:
            listing: the market.
            request: the list that it was in: what a series' own list holds belongs to that series.
        """
        if listing.is_combo and not self._with_combos:
            return False
        known = _LIST_OF.get(listing.status)
        if known is not None and known not in self._statuses:
            return False
        if self._takes_all:
            return True
        if request is not None and dict(request.query).get("series_ticker") in self._series:
            return True
        return self._is_named(listing.ticker, listing.event_ticker)

    def admits_created(self, event: MarketLifecycle) -> bool:
        """Tell whether a market that was just created passes; it has not opened yet."""
        if "unopened" not in self._statuses or (_is_combo(event.ticker) and not self._with_combos):
            return False
        return self._takes_all or self._is_named(event.ticker, event.event_ticker or "")

    def may_admit(self, ticker: str) -> bool:
        """Tell whether a market of which only the ticker is known is worth a question."""
        if _is_combo(ticker) and not self._with_combos:
            return False
        return self._takes_all or self._is_named(ticker, "")

    def _is_named(self, ticker: str, event_ticker: str) -> bool:
        if ticker in self._tickers or ticker.startswith(self._prefixes):
            return True
        event = event_ticker or ticker.rpartition("-")[0]
        if event in self._events:
            return True
        return (event or ticker).partition("-")[0] in self._series


def _is_combo(ticker: str) -> bool:
    return ticker.startswith(COMBO_PREFIX)


def _chunks(tickers: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(tickers)
    while chunk := list(islice(remaining, _TICKERS_PER_CALL)):
        yield chunk
