"""Which markets are gathered."""

from typing import Any

import pytest

from kalshibook.gather.options import GatherOptions
from kalshibook.gather.selection import Selection
from kalshibook.wire.rest import Listing, markets_request
from tests.gather.test_registry import message


def selection(**options: Any) -> Selection:
    """Return a selection."""
    return Selection(GatherOptions(**options))


def market(ticker: str, event_ticker: str = "", status: str = "active") -> Listing:
    """Return a market."""
    return Listing(ticker, event_ticker, status, None, None, ticker.startswith("KXMVE"))


def test_everything_by_default() -> None:
    """One list a state; combinations among them."""
    every = selection()

    assert [
        "/markets?limit=1000&status=unopened",
        "/markets?limit=1000&status=open",
        "/markets?limit=1000&status=paused",
    ] == [request.target for request in every.requests()]
    assert every.admits(market("ANY"))
    assert every.admits(market("KXMVE-1"))
    assert every.may_admit("ANY")
    assert every.admits_created(message("created", "ANY"))


def test_series_events_tickers_and_prefixes() -> None:
    """Each names markets, and a market needs one of them; a series' own list is believed."""
    named = selection(series=("S", "OLD"), events=("T-1",), tickers=("X-9",), statuses=("open",))

    assert [
        "/markets?limit=1000&series_ticker=OLD&status=open",
        "/markets?limit=1000&series_ticker=S&status=open",
        "/markets?limit=1000&event_ticker=T-1&status=open",
        "/markets?limit=1000&tickers=X-9&status=open",
    ] == [request.target for request in named.requests()]
    for found in (market("S-1-A", "S-1"), market("T-1-B", "T-1"), market("T-1-B"), market("X-9")):
        assert named.admits(found)
        assert named.may_admit(found.ticker)
    for other in (market("SS-1-A", "SS-1"), market("T-2-B", "T-2"), market("X-99")):
        assert not named.admits(other)
        assert not named.may_admit(other.ticker)
    assert not named.admits(market("NEWNAME-1", "NEWNAME"))
    assert named.admits(market("NEWNAME-1", "NEWNAME"), markets_request(series_ticker="OLD"))

    prefixed = selection(prefixes=("KXBTC", "KXETH"), statuses=("open",))
    assert ["/markets?limit=1000&status=open"] == [request.target for request in prefixed.requests()]
    assert prefixed.admits(market("KXETHD-1"))
    assert not prefixed.admits(market("KXGOLD-1"))


def test_combos_in_or_out() -> None:
    """Out, they are not even listed."""
    without = selection(combos=False)

    assert all("mve_filter=exclude" in request.target for request in without.requests())
    assert not without.admits(market("KXMVE-1"))
    assert not without.may_admit("KXMVE-1")
    assert not without.admits_created(message("created", "KXMVE-1"))
    assert without.admits(market("A"))


@pytest.mark.parametrize(
    ("status", "admitted"),
    [("initialized", False), ("active", True), ("inactive", False), ("halted", True)],
)
def test_statuses_are_those_in_which_a_market_is_taken_in(status: str, admitted: bool) -> None:
    """An unheard-of word is no reason to miss a market."""
    only_open = selection(statuses=("open",))

    assert admitted == only_open.admits(market("A", status=status))
    assert not only_open.admits_created(message("created", "A"))


def test_pages_and_long_lists_of_tickers() -> None:
    """A page is as large as the setting says; tickers are asked for a hundred at a time."""
    many = selection(tickers=tuple(f"T-{n:03}" for n in range(250)), statuses=("open",), page_markets=7)

    counts = [len(dict(request.query)["tickers"].split(",")) for request in many.requests()]
    assert [100, 100, 50] == counts
    assert ["/markets?limit=7&status=open"] == [
        request.target for request in selection(page_markets=7, statuses=("open",)).requests()
    ]
