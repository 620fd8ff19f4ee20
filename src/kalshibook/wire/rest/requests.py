"""What is asked of the exchange's REST interface: paths and parameters, and the rule of paging."""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias
from urllib.parse import quote, urlencode

from kalshibook.errors import WireError

__all__ = [
    "MARKETS_PER_PAGE",
    "ORDERBOOKS_PER_CALL",
    "Request",
    "event_request",
    "events_request",
    "exchange_schedule_request",
    "exchange_status_request",
    "market_request",
    "markets_request",
    "multivariate_events_request",
    "next_request",
    "orderbook_request",
    "orderbooks_request",
    "series_request",
    "trades_request",
]

MARKETS_PER_PAGE: Final = 1_000
EVENTS_PER_PAGE: Final = 200
ORDERBOOKS_PER_CALL: Final = 100

StatusFilter: TypeAlias = Literal["unopened", "open", "paused", "closed", "settled"]
ComboFilter: TypeAlias = Literal["only", "exclude"]
Parameter: TypeAlias = tuple[str, str]


class Request(NamedTuple):
    """A GET of the exchange."""

    endpoint: str
    """Its name, for counts: one of a dozen, whatever the ticker."""
    path: str
    """Below the base of the REST addresses."""
    query: tuple[Parameter, ...] = ()

    @property
    def target(self) -> str:
        """Path and query string, ready to be appended to the base."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


def next_request(request: Request, cursor: str | None) -> Request | None:
    """
    Return the request for the page after `request`'s, or None after the last.

    Args:
        request: what was answered.
        cursor: what its answer said; any falsy value ends the list.

    Raises:
        WireError: it is the same cursor again, which would lead round in circles.
    """
    if not cursor:
        return None
    if ("cursor", cursor) in request.query:
        raise WireError("$.cursor", f"the page leads back to itself: {cursor!r}")
    kept = tuple(pair for pair in request.query if pair[0] != "cursor")
    return request._replace(query=(*kept, ("cursor", cursor)))


def markets_request(
    *,
    limit: int = MARKETS_PER_PAGE,
    cursor: str = "",
    event_ticker: str = "",
    series_ticker: str = "",
    tickers: Iterable[str] = (),
    status: StatusFilter | None = None,
    combos: ComboFilter | None = None,
    min_created_s: int | None = None,
    max_created_s: int | None = None,
    min_updated_s: int | None = None,
    min_close_s: int | None = None,
    max_close_s: int | None = None,
    min_settled_s: int | None = None,
    max_settled_s: int | None = None,
) -> Request:
    """
    Ask for markets; the time filters exclude each other as the exchange's reference says.

    Args:
        limit: page size.
        cursor: where to go on.
        event_ticker: of this event only.
        series_ticker: of this series only.
        tickers: these only.
        status: in this state only, by the exchange's words for filters.
        combos: combinations only, or none.
        min_created_s: created then or later, Unix seconds; likewise the others.
        max_created_s: created then or before.
        min_updated_s: changed, other than by trading, then or later.
        min_close_s: closing then or later.
        max_close_s: closing then or before.
        min_settled_s: settled then or later.
        max_settled_s: settled then or before.
    """
    return Request(
        "markets",
        "/markets",
        _query(
            limit=limit,
            event_ticker=event_ticker,
            series_ticker=series_ticker,
            tickers=",".join(tickers),
            status=status,
            mve_filter=combos,
            min_created_ts=min_created_s,
            max_created_ts=max_created_s,
            min_updated_ts=min_updated_s,
            min_close_ts=min_close_s,
            max_close_ts=max_close_s,
            min_settled_ts=min_settled_s,
            max_settled_ts=max_settled_s,
            cursor=cursor,
        ),
    )


def market_request(ticker: str) -> Request:
    """Ask for one market."""
    return Request("market", f"/markets/{_segment(ticker)}")


def orderbook_request(ticker: str, depth: int = 0) -> Request:
    """Ask for one book; a depth of 0 is all of it."""
    return Request("orderbook", f"/markets/{_segment(ticker)}/orderbook", _query(depth=depth))


def orderbooks_request(tickers: Sequence[str]) -> Request:
    """
    Ask for several books at once.

    Raises:
        ValueError: none, or more than the exchange answers in a call.
    """
    if not 1 <= len(tickers) <= ORDERBOOKS_PER_CALL:
        raise ValueError(f"{len(tickers)} tickers; one call takes 1 to {ORDERBOOKS_PER_CALL}")
    return Request("orderbooks", "/markets/orderbooks", tuple(("tickers", ticker) for ticker in tickers))


def trades_request(
    *,
    limit: int = 1_000,
    cursor: str = "",
    ticker: str = "",
    min_s: int | None = None,
    max_s: int | None = None,
    is_block_trade: bool | None = None,
) -> Request:
    """
    Ask for trades.

    Args:
        limit: page size.
        cursor: where to go on.
        ticker: of this market only.
        min_s: from then, Unix seconds.
        max_s: until then.
        is_block_trade: only those off the book, or only those on it.
    """
    block = None if is_block_trade is None else str(is_block_trade).lower()
    return Request(
        "trades",
        "/markets/trades",
        _query(limit=limit, ticker=ticker, min_ts=min_s, max_ts=max_s, is_block_trade=block, cursor=cursor),
    )


def events_request(
    *,
    limit: int = EVENTS_PER_PAGE,
    cursor: str = "",
    series_ticker: str = "",
    status: Literal["unopened", "open", "closed", "settled"] | None = None,
    with_nested_markets: bool = False,
    min_updated_s: int | None = None,
) -> Request:
    """Ask for events; those of combinations are not among them (`multivariate_events_request`)."""
    nested = "true" if with_nested_markets else None
    return Request(
        "events",
        "/events",
        _query(
            limit=limit,
            series_ticker=series_ticker,
            status=status,
            with_nested_markets=nested,
            min_updated_ts=min_updated_s,
            cursor=cursor,
        ),
    )


def multivariate_events_request(
    *, limit: int = EVENTS_PER_PAGE, cursor: str = "", series_ticker: str = ""
) -> Request:
    """Ask for the events of combinations."""
    query = _query(limit=limit, series_ticker=series_ticker, cursor=cursor)
    return Request("multivariate_events", "/events/multivariate", query)


def event_request(event_ticker: str, *, with_nested_markets: bool = False) -> Request:
    """Ask for one event."""
    nested = "true" if with_nested_markets else None
    return Request("event", f"/events/{_segment(event_ticker)}", _query(with_nested_markets=nested))


def series_request(*, category: str = "", min_updated_s: int | None = None) -> Request:
    """Ask for all series, in one page."""
    return Request("series", "/series", _query(category=category, min_updated_ts=min_updated_s))


def exchange_status_request() -> Request:
    """Ask whether the exchange is open."""
    return Request("exchange_status", "/exchange/status")


def exchange_schedule_request() -> Request:
    """Ask for hours and maintenance."""
    return Request("exchange_schedule", "/exchange/schedule")


def _query(**parameters: str | int | None) -> tuple[Parameter, ...]:
    return tuple((name, str(value)) for name, value in parameters.items() if value not in (None, ""))


def _segment(ticker: str) -> str:
    # Tickers hold letters, digits, dashes and dots; whatever else comes must not become another path.
    return quote(ticker, safe="")
