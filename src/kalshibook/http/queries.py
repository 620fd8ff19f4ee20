"""
What a request may ask: one struct per endpoint, read from a query string or a JSON body.

The same structs describe the parameters in ``/openapi.json``, so what is documented is what is
checked. An unknown name is refused: a misspelt ``dpeth=5`` that is ignored is a wrong answer.
"""

import base64
import binascii
import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta
from werkzeug.datastructures import MultiDict

from kalshibook.http.errors import ApiError

__all__ = [
    "MAX_TICKER_LENGTH",
    "BookQuery",
    "IncidentsQuery",
    "KalshiBookQuery",
    "KalshiBooksQuery",
    "MarketsQuery",
    "NoQuery",
    "Numbers",
    "TopsBody",
    "TopsQuery",
    "cursor_after",
    "read_before",
    "read_body",
    "read_cursor",
    "read_offsets",
    "read_query",
]

MAX_TICKER_LENGTH: Final = 200
"""Characters; Kalshi's own bound (REST reference, bulk order books)."""

_MAX_DEPTH: Final = 10_000
_MAX_INTEGER: Final = 2**53 - 1  # beyond it JavaScript's numbers are not exact

Numbers: TypeAlias = Literal["dollars", "ticks"]

_Ticker: TypeAlias = Annotated[str, Meta(max_length=MAX_TICKER_LENGTH)]
_Depth: TypeAlias = Annotated[
    int, Meta(ge=0, le=_MAX_DEPTH, description="Levels per side, best first; 0 leaves them out.")
]
_BookDepth: TypeAlias = Annotated[
    int, Meta(ge=0, le=_MAX_DEPTH, description="Levels per side, best first; 0 is all.")
]
_MaxAge: TypeAlias = Annotated[
    int,
    Meta(
        ge=0,
        le=_MAX_INTEGER,
        description="Oldest acceptable age of a market's last message, in ms; others are refused.",
    ),
]
_AsOf: TypeAlias = Annotated[
    int,
    Meta(
        ge=0, le=_MAX_INTEGER, description="Answer from the newest version of that moment or before, Unix ms."
    ),
]
_Version: TypeAlias = Annotated[
    int, Meta(ge=0, le=_MAX_INTEGER, description="Answer from exactly this version of the store.")
]
_OffsetText: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,5}:[0-9]{1,15}(,[0-9]{1,5}:[0-9]{1,15})*$",
        description="Offsets that must be consumed, partition:offset, comma-separated; else status 503.",
        examples=["0:123,1:456"],
    ),
]
_Partition: TypeAlias = Annotated[str, Meta(pattern="^[0-9]{1,5}$")]
_Offset: TypeAlias = Annotated[int, Meta(ge=0, le=_MAX_INTEGER)]
_Limit: TypeAlias = Annotated[
    int, Meta(ge=1, le=1_000_000, description="Rows on a page; the server's own limit may be lower.")
]
_Cursor: TypeAlias = Annotated[
    str, Meta(max_length=400, description="`cursor` of the page before; empty for the first.")
]
_NumbersField: TypeAlias = Annotated[
    Numbers,
    Meta(
        description="`dollars`: strings as Kalshi writes them. `ticks`: integers, $0.0001 and 0.01 contract."
    ),
]


class NoQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing can be asked."""


class TopsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which markets, by name or by one of three filters, and how fresh."""

    tickers: (
        Annotated[str, Meta(description="Tickers, comma-separated; duplicates are answered once.")] | None
    ) = None
    prefix: Annotated[_Ticker, Meta(description="Markets whose ticker begins so.")] | None = None
    event: (
        Annotated[_Ticker, Meta(min_length=1, description="Markets of an event, by its ticker.")] | None
    ) = None
    series: (
        Annotated[_Ticker, Meta(min_length=1, description="Markets of a series, by its ticker.")] | None
    ) = None
    limit: _Limit | None = None
    cursor: _Cursor = ""
    depth: _Depth = 0
    numbers: _NumbersField = "dollars"
    max_age_ms: _MaxAge | None = None
    min_offset: _OffsetText | None = None
    as_of: _AsOf | None = None
    version: _Version | None = None


class TopsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which markets by name, and how fresh."""

    tickers: list[str]
    depth: _Depth = 0
    numbers: _NumbersField = "dollars"
    max_age_ms: _MaxAge | None = None
    min_offset: dict[_Partition, _Offset] | None = None
    as_of: _AsOf | None = None
    version: _Version | None = None


class BookQuery(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a book, and how fresh."""

    depth: _BookDepth = 0
    max_age_ms: _MaxAge | None = None
    min_offset: _OffsetText | None = None
    as_of: _AsOf | None = None
    version: _Version | None = None


class MarketsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which markets to list."""

    search: Annotated[_Ticker, Meta(description="Stands in the ticker or the title, in any case.")] = ""
    status: (
        Annotated[
            Literal[
                "initialized",
                "active",
                "inactive",
                "closed",
                "determined",
                "disputed",
                "amended",
                "finalized",
                "unknown",
            ],
            Meta(description="Trading status; `unknown` where no lifecycle message was seen."),
        ]
        | None
    ) = None
    condition: (
        Annotated[Literal["awaiting", "live", "stale", "closed"], Meta(description="Condition of our copy.")]
        | None
    ) = None
    limit: _Limit | None = None
    cursor: _Cursor = ""


class IncidentsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which incidents to list."""

    limit: _Limit | None = None
    cursor: _Cursor = ""


class KalshiBookQuery(msgspec.Struct, frozen=True, kw_only=True):
    """As Kalshi's own endpoint."""

    depth: Annotated[int, Meta(ge=0, le=100, description="Levels per side from the best; 0 is all.")] = 0


class KalshiBooksQuery(msgspec.Struct, frozen=True, kw_only=True):
    """As Kalshi's own endpoint."""

    tickers: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=MAX_TICKER_LENGTH)]],
        Meta(min_length=1, max_length=100, description="Given once for each market."),
    ]


Query = TypeVar("Query", bound=msgspec.Struct)

_FIELD: Final = re.compile(r" - at `\$\.?([A-Za-z_]*)")


def read_query(model: type[Query], arguments: MultiDict[str, str], *, ignore_unknown: bool = False) -> Query:
    """
    Read a query string.

    Args:
        model: what may be asked.
        arguments: what was asked.
        ignore_unknown: pass over unknown names, as Kalshi does.

    Raises:
        ApiError: 400, naming the parameter, what was found and what is expected.
    """
    known = model.__struct_fields__
    values: dict[str, object] = {}
    for name, given in arguments.lists():
        if name not in known:
            if ignore_unknown:
                continue
            raise _unknown(name, known)
        if name == "tickers":
            values[name] = given if model is KalshiBooksQuery else ",".join(given)
        elif len(given) > 1:
            message = f"parameter {name!r} is given {len(given)} times; give it once"
            raise ApiError(400, "bad_request", message, {"parameter": name})
        else:
            values[name] = given[0]
    try:
        query = msgspec.convert(values, model, strict=False)
    except msgspec.ValidationError as error:
        raise _bad_parameter(error, values) from None
    for name, given_value in values.items():
        # Reading text as numbers, msgspec reads "null" as None: a filter that is silently no filter.
        if getattr(query, name) is None:
            message = f"parameter {name!r} is {given_value!r}; leave it out to ask for nothing"
            raise ApiError(400, "bad_request", message, {"parameter": name})
    return query


def read_body(model: type[Query], body: bytes) -> Query:
    """
    Read a JSON body.

    Raises:
        ApiError: 400, with the JSON path, or the place where the JSON ends to be JSON.
    """
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `")
        path = place.replace("`", "") or "$"
        message = f"the body does not fit at {path}: {reason}"
        raise ApiError(400, "bad_request", message, {"path": path, "reason": reason}) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f'the body is not JSON: {error}; send an object such as {{"tickers": ["A"]}}'
        raise ApiError(400, "bad_request", message, {"reason": str(error)}) from None


def read_offsets(text: str | None) -> Mapping[int, int] | None:
    """Read ``0:123,1:456``, which `read_query` has found to be so."""
    if text is None:
        return None
    pairs = (pair.split(":") for pair in text.split(","))
    return {int(partition): int(offset) for partition, offset in pairs}


def cursor_after(place: str) -> str:
    """Write the cursor of a page that ends with `place`."""
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def read_before(cursor: str) -> int | None:
    """
    Read the cursor of a list that is paged by falling ids; empty begins at the newest.

    Raises:
        ApiError: 400, no page gave such a cursor.
    """
    if not cursor:
        return None
    if cursor.isascii() and cursor.isdecimal() and len(cursor) <= 18:
        return int(cursor)
    message = f"parameter 'cursor' is {cursor[:80]!r}, which no page gave; begin without it"
    raise ApiError(400, "bad_request", message, {"parameter": "cursor"})


def read_cursor(cursor: str) -> str:
    """
    Return where the page before ended.

    Raises:
        ApiError: 400, it is none of ours.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        place = raw.decode()
    except (binascii.Error, ValueError):
        place = ""
    if cursor and cursor_after(place) != cursor:
        message = f"parameter 'cursor' is {cursor[:80]!r}, which no page gave; begin without it"
        raise ApiError(400, "bad_request", message, {"parameter": "cursor"})
    return place


def _unknown(name: str, known: tuple[str, ...]) -> ApiError:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
    details = {"parameter": name[:80], "known": known}
    return ApiError(400, "unknown_parameter", f"parameter {name[:80]!r} is unknown; {hint}", details)


def _bad_parameter(error: msgspec.ValidationError, values: Mapping[str, object]) -> ApiError:
    text = str(error)
    match = _FIELD.search(text)
    if match is None:
        return ApiError(400, "bad_request", text, {"reason": text})
    name, reason = match.group(1), text[: match.start()]
    found = str(values.get(name, ""))[:80]
    details = {"parameter": name, "found": found, "reason": reason}
    return ApiError(400, "bad_request", f"parameter {name!r} is {found!r}: {reason}", details)
