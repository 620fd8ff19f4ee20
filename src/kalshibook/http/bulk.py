"""
The answer to a bulk request: many markets, one version, put together from fragments as bytes.

This is the hot path. Nothing converts or validates an answer on its way out, and one of many markets
gives way to other tasks in between. A list that is asked for again, as pollers do, is neither read nor
looked up again, and of its books only those that have changed since are looked at.
"""

import secrets
import zlib
from collections.abc import Iterable, Mapping
from itertools import compress, count
from operator import is_not
from typing import Final, NamedTuple, final
from urllib.parse import parse_qsl

import msgspec
import trio
from werkzeug.datastructures import MultiDict
from werkzeug.http import parse_accept_header, parse_etags

from kalshibook.http.answers import NotFreshRow
from kalshibook.http.context import Context, choose_cut, page_limit, require_caught_up
from kalshibook.http.errors import ApiError
from kalshibook.http.freshness import age_ms_of, why_not_fresh
from kalshibook.http.queries import (
    MAX_TICKER_LENGTH,
    TopsBody,
    TopsQuery,
    cursor_after,
    read_body,
    read_cursor,
    read_offsets,
    read_query,
)
from kalshibook.store import Book, Cut

__all__ = ["Answer", "Bulk", "Wants"]

_MARKETS_AT_ONCE: Final = 1_000
_COMPRESSED_FROM: Final = 1_024
_COMPRESSED_ELSEWHERE_FROM: Final = 65_536
_GZIP: Final = 31  # zlib's window bits for a gzip frame
_SELECTORS: Final = ("tickers", "prefix", "event", "series")


class Wants(NamedTuple):
    """What a request's headers ask for, as they came."""

    none_match: str | None = None
    """``If-None-Match``."""
    encodings: str | None = None
    """``Accept-Encoding``."""


class Answer(NamedTuple):
    """A success, ready to be sent."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Head(msgspec.Struct):
    version: int
    offsets: Mapping[int, int]
    as_of: int
    now_ms: int
    behind: str | None
    missing: list[str]
    not_fresh: list[NotFreshRow]
    cursor: str


@final
class _Asked:
    """What was asked, and of the last answer what the next one can use."""

    def __init__(self, query: TopsQuery | TopsBody, tickers: Iterable[str], salt: int = 0) -> None:
        self.query = query
        self.salt = salt
        """Tells apart the tags of what the books do not: the body that asked."""
        self.cursor = ""
        """For the page after this one."""
        self._tickers = list(dict.fromkeys(tickers))
        self.size = len(self._tickers)
        """How many markets, each counted once."""
        self._numbers: tuple[int, ...] = ()
        self._books: list[Book] = []
        self._fragments: list[bytes] = []

    @property
    def is_current(self) -> bool:
        """Whether the newest books are wanted, so that asking again may get others."""
        return self.query.version is None and self.query.as_of is None

    def found(self, cut: Cut) -> tuple[list[Book], list[str]]:
        """Return the books, and the tickers that no message has named."""
        if self._numbers:
            return cut.numbered(self._numbers), []
        numbers, missing = cut.numbers(self._tickers)
        for ticker in missing:
            if len(ticker) > MAX_TICKER_LENGTH:
                message = f"a ticker has {len(ticker)} characters; at most {MAX_TICKER_LENGTH} make one"
                raise ApiError(
                    400, "bad_request", message, {"found": ticker[:80], "limit": MAX_TICKER_LENGTH}
                )
        if not missing and self.is_current:
            # Numbers never change hands: the names have done their work. Older versions know fewer.
            self._numbers, self._tickers = tuple(numbers), []
        return cut.numbered(numbers), missing

    def members(self, books: list[Book]) -> tuple[int, ...]:
        """Return the numbers of the books, which are all that were found or a part of them."""
        if len(books) == len(self._numbers):
            return self._numbers
        return tuple([book.market.number for book in books])

    def changed(self, books: list[Book]) -> list[int]:
        """Return the places of the books that are not those of the last answer."""
        if len(books) != len(self._books):
            return list(range(len(books)))
        return [*compress(count(), map(is_not, books, self._books))]

    def answered(self, books: list[Book], places: list[int], fragments: list[bytes]) -> list[bytes]:
        """
        Take over the fragments of what has changed, and return those of all books.

        Args:
            books: all of the answer.
            places: of `changed`.
            fragments: one for each place.
        """
        if len(places) == len(books):
            held = fragments
        else:
            held = self._fragments
            for place, fragment in zip(places, fragments, strict=True):
                held[place] = fragment
        self._books, self._fragments = books, held
        return [*held]


@final
class Bulk:
    """Answers bulk requests of one application."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # Versions begin anew with every process, so tags of an earlier one must not match.
        self._epoch = secrets.token_hex(4)
        self._asked: dict[tuple[str, bytes], _Asked] = {}
        self._markets = 0

    async def by_query(self, query_string: bytes, wants: Wants) -> Answer:
        """
        Answer a GET.

        Raises:
            ApiError: it cannot be answered so.
            ReadError: the store cannot, now.
        """
        asked = self._again("GET", query_string)
        if asked is not None:
            return await self._answer(asked, self._cut(asked.query), wants)
        # As werkzeug reads it, so that Quart's own `request.args` could stand here.
        pairs = parse_qsl(query_string.decode(), keep_blank_values=True, errors="werkzeug.url_quote")
        query = read_query(TopsQuery, MultiDict(pairs))
        given = [name for name in _SELECTORS if getattr(query, name) is not None]
        if len(given) > 1:
            message = f"{' and '.join(map(repr, given))} exclude each other; give one"
            raise ApiError(400, "bad_request", message, {"parameters": given})
        cut = self._cut(query)
        if query.tickers is None:
            return await self._answer(self._page(query, cut), cut, wants)
        asked = _Asked(query, (ticker for ticker in query.tickers.split(",") if ticker))
        answer = await self._answer(asked, cut, wants)
        self._keep("GET", query_string, asked)
        return answer

    async def by_body(self, body: bytes, wants: Wants) -> Answer:
        """
        Answer a POST; errors as of `by_query`.

        Raises:
            ApiError: it cannot be answered so.
            ReadError: the store cannot, now.
        """
        asked = self._again("POST", body)
        if asked is not None:
            return await self._answer(asked, self._cut(asked.query), wants)
        query = read_body(TopsBody, body)
        asked = _Asked(query, query.tickers, zlib.crc32(body))
        answer = await self._answer(asked, self._cut(query), wants)
        self._keep("POST", body, asked)
        return answer

    def _cut(self, query: TopsQuery | TopsBody) -> Cut:
        offsets = query.min_offset
        reached = (
            read_offsets(offsets)
            if isinstance(offsets, str) or offsets is None
            else {int(partition): offset for partition, offset in offsets.items()}
        )
        return choose_cut(self._context.store, as_of=query.as_of, version=query.version, min_offset=reached)

    def _page(self, query: TopsQuery, cut: Cut) -> _Asked:
        limit = page_limit(self._context, query.limit)
        # Kalshi builds a market's ticker as SERIES-EVENT-OUTCOME; few markets carry their event's name
        # as a fact, all carry it in their ticker (REST reference, "events").
        of_group = query.event or query.series
        prefix = f"{of_group}-" if of_group else query.prefix or ""
        tickers = cut.tickers(prefix=prefix, after=read_cursor(query.cursor), limit=limit + 1)
        more = len(tickers) > limit
        del tickers[limit:]
        asked = _Asked(query, tickers)
        asked.cursor = cursor_after(tickers[-1]) if more else ""
        return asked

    def _again(self, method: str, text: bytes) -> _Asked | None:
        asked = self._asked.pop((method, text), None)
        if asked is not None:
            # Put back last: the first is the one least recently asked.
            self._asked[method, text] = asked
        return asked

    def _keep(self, method: str, text: bytes, asked: _Asked) -> None:
        most = self._context.options.cached_fragments
        if not asked.is_current or asked.size > most:
            return
        before = self._asked.pop((method, text), None)
        self._asked[method, text] = asked
        self._markets += asked.size - (0 if before is None else before.size)
        while self._markets > most:
            self._markets -= self._asked.pop(next(iter(self._asked))).size

    async def _answer(self, asked: _Asked, cut: Cut, wants: Wants) -> Answer:
        query, traffic = asked.query, self._context.traffic
        self._check_size(asked.size, query.depth)
        books, missing = asked.found(cut)
        now_ms = self._context.now_us() // 1_000
        not_fresh: list[NotFreshRow] = []
        if query.max_age_ms is not None:
            require_caught_up(cut)
            books, not_fresh = _parted(books, now_ms, query.max_age_ms)
        headers = {
            "ETag": self._tag(asked, cut, books, missing, not_fresh),
            "X-Kalshibook-Version": str(cut.version),
            "Vary": "Accept-Encoding",
            "Cache-Control": "no-cache",
        }
        if _matches(headers["ETag"], wants.none_match):
            traffic.not_modified += 1
            return Answer(304, headers, b"")
        parts = await self._fragments(asked, books)
        head = _Head(
            cut.version,
            dict(cut.offsets),
            cut.applied_us // 1_000,
            now_ms,
            cut.behind,
            missing,
            not_fresh,
            asked.cursor,
        )
        body = _joined(msgspec.json.encode(head), parts)
        headers["Content-Type"] = "application/json"
        if len(body) >= _COMPRESSED_FROM and wants.encodings and _is_gzip_wanted(wants.encodings):
            body = await _compressed(body)
            headers["Content-Encoding"] = "gzip"
            traffic.compressed += 1
        return Answer(200, headers, body)

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
        self, asked: _Asked, cut: Cut, books: list[Book], missing: list[str], not_fresh: list[NotFreshRow]
    ) -> str:
        # A set of books is told by its members and its newest change: versions rise by one with
        # every change of any book, so no two states of one set share their highest version.
        members = asked.members(books)
        newest = max([book.version for book in books], default=0)
        rest = (*missing, *[(row.ticker, row.condition) for row in not_fresh], asked.cursor, cut.behind)
        return f'W/"{self._epoch}-{newest}-{hash((members, rest, asked.salt)) & 0xFFFFFFFFFFFFFFFF:x}"'

    async def _fragments(self, asked: _Asked, books: list[Book]) -> list[bytes]:
        query, fragments = asked.query, self._context.fragments
        places = asked.changed(books)
        if len(places) <= _MARKETS_AT_ONCE:
            fresh = fragments.of([books[place] for place in places], query.numbers, query.depth)
            fragments.reused += len(books) - len(places)
            return asked.answered(books, places, fresh)
        parts: list[bytes] = []
        for start in range(0, len(books), _MARKETS_AT_ONCE):
            # Books are immutable, so giving way between two chunks cannot mix versions.
            parts += fragments.of(books[start : start + _MARKETS_AT_ONCE], query.numbers, query.depth)
            await trio.lowlevel.checkpoint()
        return asked.answered(books, list(range(len(books))), parts)


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


def _matches(tag: str, none_match: str | None) -> bool:
    if not none_match:
        return False
    given = parse_etags(none_match)
    return given.star_tag or given.contains_weak(tag[3:-1])


def _is_gzip_wanted(encodings: str) -> bool:
    return parse_accept_header(encodings)["gzip"] > 0


async def _compressed(body: bytes) -> bytes:
    if len(body) < _COMPRESSED_ELSEWHERE_FROM:
        return _gzip(body)
    # zlib gives up the interpreter while it works, so the server goes on meanwhile.
    return await trio.to_thread.run_sync(_gzip, body)


def _gzip(body: bytes) -> bytes:
    # Level 1: three times as fast as the default for a tenth more bytes on such text.
    return zlib.compress(body, 1, _GZIP)
