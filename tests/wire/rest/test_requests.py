"""What is asked: paths, parameters, paging."""

import pytest

from kalshibook.errors import WireError
from kalshibook.wire import rest


def test_targets() -> None:
    """Path and query as the exchange reads them: what is not set is not sent."""
    targets = {
        rest.markets_request().target: "/markets?limit=1000",
        rest.markets_request(
            limit=10, tickers=["A-1", "B-2.5"], status="open", combos="exclude", min_close_s=5, cursor="c+/="
        ).target: (
            "/markets?limit=10&tickers=A-1%2CB-2.5&status=open&mve_filter=exclude&min_close_ts=5"
            "&cursor=c%2B%2F%3D"
        ),
        rest.market_request("KXGOLD-26-T4611.99").target: "/markets/KXGOLD-26-T4611.99",
        rest.market_request("../a?b").target: "/markets/..%2Fa%3Fb",
        rest.orderbook_request("A").target: "/markets/A/orderbook?depth=0",
        rest.orderbooks_request(["A", "B"]).target: "/markets/orderbooks?tickers=A&tickers=B",
        rest.trades_request(ticker="A", min_s=0, is_block_trade=False).target: (
            "/markets/trades?limit=1000&ticker=A&min_ts=0&is_block_trade=false"
        ),
        rest.events_request(status="open", with_nested_markets=True).target: (
            "/events?limit=200&status=open&with_nested_markets=true"
        ),
        rest.multivariate_events_request().target: "/events/multivariate?limit=200",
        rest.event_request("E").target: "/events/E",
        rest.series_request(category="Politics & Co").target: "/series?category=Politics+%26+Co",
        rest.exchange_status_request().target: "/exchange/status",
        rest.exchange_schedule_request().target: "/exchange/schedule",
    }

    assert list(targets.values()) == list(targets)


@pytest.mark.parametrize("count", [0, 101])
def test_books_in_one_call_are_bounded(count: int) -> None:
    """The exchange answers up to a hundred; more is the caller's error."""
    with pytest.raises(ValueError, match=f"{count} tickers"):
        rest.orderbooks_request([f"A-{number}" for number in range(count)])


@pytest.mark.parametrize("cursor", ["", None])
def test_any_falsy_cursor_ends(cursor: str | None) -> None:
    """One guide says empty, another null."""
    assert rest.next_request(rest.markets_request(), cursor) is None


def test_next_page_keeps_the_question() -> None:
    """Only the cursor changes; one that leads back to its own page is refused, else it would never end."""
    first = rest.markets_request(status="open")

    second = rest.next_request(first, "one")
    assert second is not None
    third = rest.next_request(second, "two")

    assert third is not None
    assert "/markets?limit=1000&status=open&cursor=two" == third.target
    with pytest.raises(WireError, match="leads back to itself"):
        rest.next_request(third, "two")
