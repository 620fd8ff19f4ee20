"""One book with all its stamps, and the list of markets."""

from itertools import islice

import trio
from quart import Blueprint, Response, request
from quart_schema import document_querystring, document_response

from kalshibook.errors import Stale
from kalshibook.http.answers import BookAnswer, LevelRow, MarketRow, MarketsAnswer, StampsRow
from kalshibook.http.context import Context, choose_cut, json_response, page_limit, require_caught_up
from kalshibook.http.errors import ErrorBody
from kalshibook.http.fragments import dollars, milliseconds, size_text, top_row, updated_us
from kalshibook.http.freshness import age_ms_of, why_not_fresh
from kalshibook.http.queries import (
    BookQuery,
    MarketsQuery,
    cursor_after,
    read_cursor,
    read_offsets,
    read_query,
)
from kalshibook.numbers import format_price, format_size
from kalshibook.store import Book, Condition, Cut, Ladder, Stamps

__all__ = ["books_blueprint"]

# A search that matches little walks many markets. It stops here and hands out a cursor, so that one
# request costs the server some 20 ms at most, whatever it asks.
_EXAMINED_AT_ONCE = 20_000


def books_blueprint(context: Context) -> Blueprint:
    """Return the endpoints of single books and of the list of markets."""
    blueprint = Blueprint("books", __name__)

    @blueprint.get("/v1/books/<ticker>")
    @document_querystring(BookQuery)
    @document_response(BookAnswer)
    @document_response(ErrorBody, 400)
    @document_response(ErrorBody, 404)
    @document_response(ErrorBody, 410)
    @document_response(ErrorBody, 503)
    async def book(ticker: str) -> Response:
        """
        One book: status and stamps at the top, then each level with the stamps of its last change.

        A book in doubt is shown and says so; with `max_age_ms` a book that is awaiting, stale or
        older is refused with status 503.
        """
        query = read_query(BookQuery, request.args)
        cut = choose_cut(
            context.store, as_of=query.as_of, version=query.version, min_offset=read_offsets(query.min_offset)
        )
        found = cut[ticker]
        now_us = context.now_us()
        if query.max_age_ms is not None:
            require_caught_up(cut, ticker)
            _require_fresh(found, now_us, query.max_age_ms)
        return json_response(_book_answer(found, cut, now_us, query.depth))

    @blueprint.get("/v1/markets")
    @document_querystring(MarketsQuery)
    @document_response(MarketsAnswer)
    @document_response(ErrorBody, 400)
    async def markets() -> Response:
        """Markets of every condition, sorted by ticker, searched, filtered and paged."""
        query = read_query(MarketsQuery, request.args)
        limit, after = page_limit(context, query.limit), read_cursor(query.cursor)
        cut = context.store.cut()
        # In a thread: the walk is plain Python, and a cut may be read from any.
        books, cursor = await trio.to_thread.run_sync(_find, cut, query, after, limit)
        rows = [_market_row(book) for book in books]
        return json_response(MarketsAnswer(cut.version, context.now_us() // 1_000, cut.behind, cursor, rows))

    return blueprint


def _require_fresh(book: Book, now_us: int, max_age_ms: int) -> None:
    age_ms = age_ms_of(book, now_us)
    reason = why_not_fresh(book, age_ms, max_age_ms)
    if reason is not None:
        raise Stale(book.ticker, reason, age_ms=age_ms, max_age_ms=max_age_ms)


def _book_answer(book: Book, cut: Cut, now_us: int, depth: int) -> BookAnswer:
    top, market, activity, origin = top_row(book), book.market, book.activity, book.origin
    known = book.copy is not Condition.AWAITING
    return BookAnswer(
        ticker=market.ticker,
        condition=book.condition.value,
        stale_reason=book.stale_reason,
        status=market.status,
        close_ms=milliseconds(market.close_us),
        result=market.result,
        settlement_value_dollars=dollars(market.settlement_value),
        open_ms=milliseconds(market.open_us),
        event_ticker=market.event_ticker,
        title=market.title,
        yes_bid_dollars=top.yes_bid_dollars,
        yes_bid_size_fp=top.yes_bid_size_fp,
        yes_ask_dollars=top.yes_ask_dollars,
        yes_ask_size_fp=top.yes_ask_size_fp,
        no_bid_dollars=top.no_bid_dollars,
        no_ask_dollars=top.no_ask_dollars,
        last_price_dollars=dollars(activity.last_price),
        volume_fp=size_text(activity.volume),
        open_interest_fp=size_text(activity.open_interest),
        updated_ms=milliseconds(updated_us(book)),
        age_ms=age_ms_of(book, now_us),
        now_ms=now_us // 1_000,
        stamps=None if book.stamps is None else _stamps_row(book.stamps),
        source=None if origin is None else origin.source,
        connection=None if origin is None else origin.connection,
        sid=None if origin is None else origin.sid,
        sequence=book.sequence,
        book_version=book.version,
        version=cut.version,
        as_of=cut.applied_us // 1_000,
        behind=cut.behind,
        yes_levels=len(book.yes),
        no_levels=len(book.no),
        yes=_level_rows(book.yes, depth) if known else None,
        no=_level_rows(book.no, depth) if known else None,
    )


def _level_rows(ladder: Ladder, depth: int) -> list[LevelRow]:
    return [
        LevelRow(format_price(level.price), format_size(level.size), _stamps_row(level.stamps))
        for level in islice(ladder, depth or None)
    ]


def _stamps_row(stamps: Stamps) -> StampsRow:
    return StampsRow(
        stamps.exchange_us,
        stamps.received_us,
        stamps.published_us,
        stamps.kafka_us,
        stamps.consumed_us,
        stamps.applied_us,
        stamps.kafka_latency_us,
        stamps.latency_us,
    )


def _market_row(book: Book) -> MarketRow:
    top, market = top_row(book), book.market
    return MarketRow(
        ticker=market.ticker,
        title=market.title,
        event_ticker=market.event_ticker,
        condition=top.condition,
        stale_reason=book.stale_reason,
        status=top.status,
        close_ms=milliseconds(market.close_us),
        result=market.result,
        yes_bid_dollars=top.yes_bid_dollars,
        yes_bid_size_fp=top.yes_bid_size_fp,
        yes_ask_dollars=top.yes_ask_dollars,
        yes_ask_size_fp=top.yes_ask_size_fp,
        last_price_dollars=dollars(book.activity.last_price),
        volume_fp=size_text(book.activity.volume),
        updated_ms=top.updated_ms,
    )


def _find(cut: Cut, query: MarketsQuery, after: str, limit: int) -> tuple[list[Book], str]:
    tickers = cut.tickers(after=after, limit=_EXAMINED_AT_ONCE + 1)
    search = query.search.casefold()
    found: list[Book] = []
    for index, ticker in enumerate(tickers[:_EXAMINED_AT_ONCE]):
        book = cut[ticker]
        if _fits(book, search, query):
            found.append(book)
            if len(found) == limit:
                return found, cursor_after(ticker) if index + 1 < len(tickers) else ""
    more = len(tickers) > _EXAMINED_AT_ONCE
    return found, cursor_after(tickers[_EXAMINED_AT_ONCE - 1]) if more else ""


def _fits(book: Book, search: str, query: MarketsQuery) -> bool:
    market = book.market
    if query.condition is not None and book.condition != query.condition:
        return False
    if query.status is not None and (market.status or "unknown") != query.status:
        return False
    return not search or search in market.ticker.casefold() or search in (market.title or "").casefold()
