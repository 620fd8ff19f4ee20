"""
The order books in Kalshi's own REST shape, for clients written against Kalshi.

Paths, parameters and answers are those of Kalshi's REST reference ("Get Market Orderbook", "Get
Multiple Market Orderbooks"): both keys always present, ascending, the best level last, `depth`
counted from the best. That shape has no word for a book that is unknown or in doubt, and an empty
list would be a lie; so a single book is then refused (404, 503), and in the list of many it is
left out and named in ``X-Kalshibook-Omitted``. A store that is behind the exchange refuses all.
"""

import msgspec
from quart import Blueprint, Response, request
from quart_schema import document_querystring, document_response

from kalshibook.errors import NotReady, Stale
from kalshibook.http.context import Context, require_caught_up
from kalshibook.http.errors import KALSHI_ROOT, ErrorBody
from kalshibook.http.fragments import levels_best_first
from kalshibook.http.freshness import age_ms_of
from kalshibook.http.queries import KalshiBookQuery, KalshiBooksQuery, read_query
from kalshibook.store import Book, Condition, Ladder

__all__ = ["OrderbookAnswer", "OrderbookFp", "OrderbooksAnswer", "TickerOrderbook", "kalshi_blueprint"]

_OMITTED_HEADER_LENGTH = 4_000


class OrderbookFp(msgspec.Struct, frozen=True):
    """Resting bids of both sides as (price, count), ascending, the best last."""

    yes_dollars: list[tuple[str, str]]
    no_dollars: list[tuple[str, str]]


class OrderbookAnswer(msgspec.Struct, frozen=True):
    """As Kalshi's ``GET /markets/{ticker}/orderbook``."""

    orderbook_fp: OrderbookFp


class TickerOrderbook(msgspec.Struct, frozen=True):
    """One of several books."""

    ticker: str
    orderbook_fp: OrderbookFp


class OrderbooksAnswer(msgspec.Struct, frozen=True):
    """As Kalshi's ``GET /markets/orderbooks``."""

    orderbooks: list[TickerOrderbook]


def kalshi_blueprint(context: Context) -> Blueprint:
    """Return the endpoints in Kalshi's shape."""
    blueprint = Blueprint("kalshi", __name__, url_prefix=f"{KALSHI_ROOT}v2")
    store, serve_stale = context.store, context.options.serve_stale

    @blueprint.get("/markets/<ticker>/orderbook")
    @document_querystring(KalshiBookQuery)
    @document_response(OrderbookAnswer)
    @document_response(ErrorBody, 400)
    @document_response(ErrorBody, 404)
    @document_response(ErrorBody, 503)
    async def orderbook(ticker: str) -> Response:
        """
        One order book in Kalshi's shape.

        Status 503 while the first snapshot is awaited; and, unless the setting `http.serve_stale`
        allows it, while the book is in doubt or the store is behind the exchange. Headers tell
        condition, version and age.
        """
        query = read_query(KalshiBookQuery, request.args, ignore_unknown=True)
        cut = store.cut()
        book = cut[ticker]
        age_ms = age_ms_of(book, context.now_us())
        if not serve_stale:
            require_caught_up(cut, ticker)
        _require_known(book, age_ms, serve_stale=serve_stale)
        answer = OrderbookAnswer(_shaped(book, query.depth))
        headers = {
            "X-Kalshibook-Condition": _told(book),
            "X-Kalshibook-Version": str(cut.version),
            "X-Kalshibook-Age-Ms": str(age_ms),
        }
        return _response(answer, headers)

    @blueprint.get("/markets/orderbooks")
    @document_querystring(KalshiBooksQuery)
    @document_response(OrderbooksAnswer)
    @document_response(ErrorBody, 400)
    @document_response(ErrorBody, 503)
    async def orderbooks() -> Response:
        """
        Up to 100 order books in Kalshi's shape, all from one version.

        Unknown, awaiting and (unless allowed) stale markets are left out and named, with the
        reason, in the header `X-Kalshibook-Omitted`.
        """
        query = read_query(KalshiBooksQuery, request.args, ignore_unknown=True)
        cut = store.cut()
        if not serve_stale:
            require_caught_up(cut)
        rows: list[TickerOrderbook] = []
        omitted: list[str] = []
        for ticker in dict.fromkeys(query.tickers):
            book = cut.get(ticker)
            if book is None:
                omitted.append(f"{ascii(ticker)[1:-1]}=unknown")
            elif book.copy is Condition.AWAITING or (book.copy is Condition.STALE and not serve_stale):
                omitted.append(f"{ascii(ticker)[1:-1]}={book.copy}")
            else:
                rows.append(TickerOrderbook(ticker, _shaped(book, 0)))
        headers = {"X-Kalshibook-Version": str(cut.version)}
        if omitted:
            headers["X-Kalshibook-Omitted"] = ", ".join(omitted)[:_OMITTED_HEADER_LENGTH]
        return _response(OrderbooksAnswer(rows), headers)

    return blueprint


def _require_known(book: Book, age_ms: int | None, *, serve_stale: bool) -> None:
    if book.copy is Condition.AWAITING:
        message = f"market {book.ticker!r} awaits its first snapshot; its book is unknown, not empty"
        raise NotReady(message, ticker=book.ticker)
    if book.copy is Condition.STALE and not serve_stale:
        raise Stale(book.ticker, book.stale_reason or "in doubt", age_ms=age_ms, max_age_ms=None)


def _told(book: Book) -> str:
    # A closed market whose copy is in doubt is both; here the doubt is what the reader must know.
    return (Condition.STALE if book.copy is Condition.STALE else book.condition).value


def _shaped(book: Book, depth: int) -> OrderbookFp:
    return OrderbookFp(_ascending(book.yes, depth), _ascending(book.no, depth))


def _ascending(ladder: Ladder, depth: int) -> list[tuple[str, str]]:
    levels = levels_best_first(ladder, depth or None)
    levels.reverse()
    return levels


def _response(answer: msgspec.Struct, headers: dict[str, str]) -> Response:
    # Kalshi's own answers pass a cache of some seconds; ours must not be kept anywhere.
    headers["Cache-Control"] = "no-store"
    return Response(msgspec.json.encode(answer), 200, headers, content_type="application/json")
