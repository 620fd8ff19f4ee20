"""
Bulk top of book: many markets, one version, one answer.

This is the hot path. The answer is put together from fragments as bytes; nothing converts or
validates it on its way out, and an answer of many markets gives way to other tasks in between.
"""

import secrets
import zlib
from collections.abc import Iterable, Mapping
from typing import Final, final

import msgspec
import trio
from quart import Blueprint, Response, request
from quart_schema import document_querystring, document_request, document_response

from kalshibook.http.answers import NotFreshRow, TopsAnswer
from kalshibook.http.context import Context, choose_cut, page_limit, require_caught_up
from kalshibook.http.errors import ApiError, ErrorBody
from kalshibook.http.freshness import age_ms_of, why_not_fresh
from kalshibook.http.queries import (
    MAX_TICKER_LENGTH,
    Numbers,
    TopsBody,
    TopsQuery,
    cursor_after,
    read_body,
    read_cursor,
    read_offsets,
    read_query,
)
from kalshibook.store import Book, Cut

__all__ = ["tops_blueprint"]

_MARKETS_AT_ONCE: Final = 1_000
_COMPRESSED_FROM: Final = 1_024
_COMPRESSED_ELSEWHERE_FROM: Final = 65_536
_GZIP: Final = 31  # zlib's window bits for a gzip frame
_SELECTORS: Final = ("tickers", "prefix", "event", "series")


class _Head(msgspec.Struct):
    version: int
    offsets: Mapping[int, int]
    as_of: int
    now_ms: int
    behind: str | None
    missing: list[str]
    not_fresh: list[NotFreshRow]
    cursor: str


_Request = TopsQuery | TopsBody


def tops_blueprint(context: Context) -> Blueprint:
    """Return the bulk endpoints."""
    blueprint = Blueprint("tops", __name__)
    bulk = _Bulk(context)

    @blueprint.get("/v1/tops")
    @document_querystring(TopsQuery)
    @document_response(TopsAnswer)
    @document_response(ErrorBody, 400)
    @document_response(ErrorBody, 410)
    @document_response(ErrorBody, 413)
    @document_response(ErrorBody, 503)
    async def tops() -> Response:
        """
        Tops of many books from one version of the store.

        Named by `tickers`, or listed, sorted and paged, by `prefix`, `event`, `series` or none of
        them. With `max_age_ms`, a market that is awaiting, stale or older stands in `not_fresh` and
        not among `markets`; while the store itself is `behind`, the answer is 503. Send
        `If-None-Match` to get 304 while none of the books has changed.
        """
        query = read_query(TopsQuery, request.args)
        given = [name for name in _SELECTORS if getattr(query, name) is not None]
        if len(given) > 1:
            message = f"{' and '.join(map(repr, given))} exclude each other; give one"
            raise ApiError(400, "bad_request", message, {"parameters": given})
        offsets = read_offsets(query.min_offset)
        cut = choose_cut(context.store, as_of=query.as_of, version=query.version, min_offset=offsets)
        if query.tickers is not None:
            named = [ticker for ticker in query.tickers.split(",") if ticker]
            return await bulk.answer(query, cut, named)
        tickers, cursor = _page(context, query, cut)
        return await bulk.answer(query, cut, tickers, cursor=cursor)

    @blueprint.post("/v1/tops")
    @document_request(TopsBody)
    @document_response(TopsAnswer)
    @document_response(ErrorBody, 400)
    @document_response(ErrorBody, 410)
    @document_response(ErrorBody, 413)
    @document_response(ErrorBody, 503)
    async def tops_by_body() -> Response:
        """
        Tops of up to 10,000 named books from one version of the store.

        As the GET, for lists too long for a URL. It changes nothing, so `If-None-Match` with the
        same body is answered with 304 here too.
        """
        body = await request.get_data(as_text=False)
        assert isinstance(body, bytes)
        query = read_body(TopsBody, body)
        offsets = None
        if query.min_offset is not None:
            offsets = {int(partition): offset for partition, offset in query.min_offset.items()}
        cut = choose_cut(context.store, as_of=query.as_of, version=query.version, min_offset=offsets)
        return await bulk.answer(query, cut, query.tickers, salt=zlib.crc32(body))

    return blueprint


def _page(context: Context, query: TopsQuery, cut: Cut) -> tuple[list[str], str]:
    limit = page_limit(context, query.limit)
    # Kalshi builds a market's ticker as SERIES-EVENT-OUTCOME; few markets carry their event's name
    # as a fact, all carry it in their ticker (REST reference, "events").
    of_group = query.event or query.series
    prefix = f"{of_group}-" if of_group else query.prefix or ""
    tickers = cut.tickers(prefix=prefix, after=read_cursor(query.cursor), limit=limit + 1)
    more = len(tickers) > limit
    del tickers[limit:]
    return tickers, cursor_after(tickers[-1]) if more else ""


@final
class _Bulk:
    """Answers bulk requests of one application."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # Versions begin anew with every process, so tags of an earlier one must not match.
        self._epoch = secrets.token_hex(4)

    async def answer(
        self, query: _Request, cut: Cut, tickers: Iterable[str], *, cursor: str = "", salt: int = 0
    ) -> Response:
        wanted = list(dict.fromkeys(tickers))
        self._check_size(len(wanted), query.depth)
        books, missing = _select(cut, wanted)
        now_ms = self._context.now_us() // 1_000
        not_fresh: list[NotFreshRow] = []
        if query.max_age_ms is not None:
            require_caught_up(cut)
            books, not_fresh = _parted(books, now_ms, query.max_age_ms)
        headers = {
            "ETag": self._tag(cut, books, missing, not_fresh, cursor, salt),
            "X-Kalshibook-Version": str(cut.version),
            "Vary": "Accept-Encoding",
            "Cache-Control": "no-cache",
        }
        if _matches(headers["ETag"]):
            self._context.traffic.not_modified += 1
            return Response(b"", 304, headers)
        parts = await self._fragments(books, query.numbers, query.depth)
        head = _Head(
            cut.version,
            dict(cut.offsets),
            cut.applied_us // 1_000,
            now_ms,
            cut.behind,
            missing,
            not_fresh,
            cursor,
        )
        body = _joined(msgspec.json.encode(head), parts)
        if len(body) >= _COMPRESSED_FROM and request.accept_encodings["gzip"] > 0:
            body = await _compressed(body)
            headers["Content-Encoding"] = "gzip"
            self._context.traffic.compressed += 1
        return Response(body, 200, headers, content_type="application/json")

    def _check_size(self, markets: int, depth: int) -> None:
        options = self._context.options
        if markets > options.max_tickers:
            message = (
                f"{markets} tickers are asked for; at most {options.max_tickers} fit one request, split it"
            )
            details = {"found": markets, "limit": options.max_tickers}
            raise ApiError(413, "too_many_tickers", message, details)
        if markets * depth > options.max_levels:
            message = (
                f"{markets} markets at depth {depth} are over {options.max_levels} levels per side; "
                "ask for fewer markets or levels at once"
            )
            details = {"found": markets * depth, "limit": options.max_levels}
            raise ApiError(413, "too_many_levels", message, details)

    def _tag(
        self,
        cut: Cut,
        books: list[Book],
        missing: list[str],
        not_fresh: list[NotFreshRow],
        cursor: str,
        salt: int,
    ) -> str:
        # A set of books is told by its members and its newest change: versions rise by one with
        # every change of any book, so no two states of one set share their highest version.
        members = tuple([book.market.number for book in books])
        newest = max([book.version for book in books], default=0)
        rest = (*missing, *[(row.ticker, row.condition) for row in not_fresh], cursor, cut.behind)
        return f'W/"{self._epoch}-{newest}-{hash((members, rest, salt)) & 0xFFFFFFFFFFFFFFFF:x}"'

    async def _fragments(self, books: list[Book], numbers: Numbers, depth: int) -> list[bytes]:
        fragments = self._context.fragments
        if len(books) <= _MARKETS_AT_ONCE:
            return fragments.of(books, numbers, depth)
        parts: list[bytes] = []
        for start in range(0, len(books), _MARKETS_AT_ONCE):
            # Books are immutable, so giving way between two chunks cannot mix versions.
            parts += fragments.of(books[start : start + _MARKETS_AT_ONCE], numbers, depth)
            await trio.lowlevel.checkpoint()
        return parts


def _select(cut: Cut, tickers: list[str]) -> tuple[list[Book], list[str]]:
    books, missing = cut.select(tickers)
    for ticker in missing:
        if len(ticker) > MAX_TICKER_LENGTH:
            message = f"a ticker has {len(ticker)} characters; at most {MAX_TICKER_LENGTH} make one"
            raise ApiError(400, "bad_request", message, {"found": ticker[:80], "limit": MAX_TICKER_LENGTH})
    return books, missing


def _parted(books: list[Book], now_ms: int, max_age_ms: int) -> tuple[list[Book], list[NotFreshRow]]:
    fresh: list[Book] = []
    not_fresh: list[NotFreshRow] = []
    for book in books:
        age_ms = age_ms_of(book, now_ms * 1_000)
        reason = why_not_fresh(book, age_ms, max_age_ms)
        if reason is None:
            fresh.append(book)
        else:
            not_fresh.append(NotFreshRow(book.ticker, book.condition.value, age_ms, reason))
    return fresh, not_fresh


def _joined(head: bytes, parts: list[bytes]) -> bytes:
    opened = b'%b,"markets":[' % head[:-1]
    if not parts:
        return opened + b"]}"
    # The ends go into the first and last part, so that the answer is copied once and not twice.
    parts[0] = opened + parts[0]
    parts[-1] += b"]}"
    return b",".join(parts)


def _matches(tag: str) -> bool:
    given = request.if_none_match
    return bool(given) and (given.star_tag or given.contains_weak(tag[3:-1]))


async def _compressed(body: bytes) -> bytes:
    if len(body) < _COMPRESSED_ELSEWHERE_FROM:
        return _gzip(body)
    # zlib gives up the interpreter while it works, so the server goes on meanwhile.
    return await trio.to_thread.run_sync(_gzip, body)


def _gzip(body: bytes) -> bytes:
    # Level 1: three times as fast as the default for a tenth more bytes on such text.
    return zlib.compress(body, 1, _GZIP)
