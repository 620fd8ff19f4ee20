"""
Frame bodies: everything of a frame but who it is for.

A frame is opening, head and tail. The opening, `{"type":"trade"`, and the tail, `,"msg":{...}}`, are
the same for all clients and are made once; the head, `,"sid":3,"seq":17`, is made per client when
the frame is written. Prices and sizes are written as Kalshi writes them, with 4 and 2 decimals.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

import msgspec

from kalshibook.numbers import ONE_DOLLAR, format_price, format_size
from kalshibook.store import Book, Condition, Quote
from kalshibook.wire import BookDelta

__all__ = [
    "DELTA_OPENING",
    "MESSAGE_OPENING",
    "SNAPSHOT_OPENING",
    "TICKER_OPENING",
    "TOP_OPENING",
    "delta_tail",
    "json_text",
    "notice_opening",
    "notice_tail",
    "snapshot_tail",
    "ticker_tail",
    "top_tail",
]

MESSAGE_OPENING: Final = b',"msg":{'
"""How every tail begins whose message is an object."""


def notice_opening(kind: str) -> bytes:
    """Return the opening of a frame of a type."""
    return b'{"type":"%b"' % kind.encode()


DELTA_OPENING: Final = notice_opening("orderbook_delta")
SNAPSHOT_OPENING: Final = notice_opening("orderbook_snapshot")
TOP_OPENING: Final = notice_opening("top_of_book")
TICKER_OPENING: Final = notice_opening("ticker")

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - only ever shifted and printed, with its own Z
_encode_json = msgspec.json.Encoder().encode


def json_text(value: str | None) -> str:
    """Return text as JSON, quoted and escaped; null for None."""
    return _encode_json(value).decode()


def notice_tail(body: bytes) -> bytes:
    """Return the tail of a frame whose message is passed on as it came."""
    return b',"msg":%b}' % body


def delta_tail(event: BookDelta, *, yes_scale: bool) -> bytes:
    """
    Return the tail of an `orderbook_delta`.

    Args:
        event: the change; `price` on the scale of its side.
        yes_scale: whether NO levels are written at YES prices.
    """
    price = ONE_DOLLAR - event.price if yes_scale and event.side == "no" else event.price
    return (
        f',"msg":{{"market_ticker":{json_text(event.ticker)},"market_id":"",'
        f'"price_dollars":"{format_price(price)}","delta_fp":"{format_size(event.change)}",'
        f'"side":"{event.side}"{_delta_times(event.exchange_us)}}}}}'
    ).encode()


def snapshot_tail(book: Book, *, yes_scale: bool) -> bytes:
    """
    Return the tail of an `orderbook_snapshot`: levels ascending, the key of an empty side left out.

    Args:
        book: a live book.
        yes_scale: whether NO levels are written at YES prices.
    """
    sides = ""
    if book.yes:
        levels = ((level.price, level.size) for level in reversed([*book.yes]))
        sides += f',"yes_dollars_fp":[{_pairs(levels)}]'
    if book.no:
        # Ladders are walked from the highest price down; on the other scale that is upwards.
        levels = (
            ((ONE_DOLLAR - level.price, level.size) for level in book.no)
            if yes_scale
            else ((level.price, level.size) for level in reversed([*book.no]))
        )
        sides += f',"no_dollars_fp":[{_pairs(levels)}]'
    return f',"msg":{{"market_ticker":{json_text(book.ticker)},"market_id":""{sides}}}}}'.encode()


def top_tail(book: Book) -> bytes:
    """Return the tail of a `top_of_book`, our own channel: an absent side is null, the condition in-band."""
    market = book.market
    exchange_us = book.stamps.exchange_us if book.stamps is not None else None
    return (
        f',"msg":{{"market_ticker":{json_text(market.ticker)},'
        f"{_nullable_quote('yes_bid', book.yes_bid)},{_nullable_quote('yes_ask', book.yes_ask)},"
        f"{_nullable_quote('no_bid', book.no_bid)},{_nullable_quote('no_ask', book.no_ask)},"
        f'"condition":"{book.condition.value}","stale_reason":{json_text(book.stale_reason)},'
        f'"status":{json_text(None if market.status is None else market.status.value)},'
        f'"version":{book.version},"ts_ms":{"null" if exchange_us is None else exchange_us // 1_000}}}}}'
    ).encode()


def ticker_tail(book: Book) -> bytes:
    """
    Return the tail of a `ticker` in Kalshi's shape: an absent bid is 0.0000, an absent ask 1.0000.

    That shape has no word for doubt: quotes of a book that is not live are unknown and left out,
    like statistics that never arrived.
    """
    fields = f'"market_ticker":{json_text(book.ticker)},"market_id":""'
    if book.copy is Condition.LIVE:
        fields += _ticker_quote("yes_bid", book.yes_bid, "0.0000")
        fields += _ticker_quote("yes_ask", book.yes_ask, "1.0000")
    activity = book.activity
    if activity.last_price is not None:
        fields += f',"price_dollars":"{format_price(activity.last_price)}"'
    for name, size in (
        ("last_trade_size_fp", activity.last_size),
        ("volume_fp", activity.volume),
        ("open_interest_fp", activity.open_interest),
    ):
        if size is not None:
            fields += f',"{name}":"{format_size(size)}"'
    if activity.dollar_volume is not None:
        fields += f',"dollar_volume":{activity.dollar_volume}'
    if activity.dollar_open_interest is not None:
        fields += f',"dollar_open_interest":{activity.dollar_open_interest}'
    return f',"msg":{{{fields}{_ticker_times(book)}}}}}'.encode()


def _pairs(levels: Iterable[tuple[int, int]]) -> str:
    return ",".join([f'["{format_price(price)}","{format_size(size)}"]' for price, size in levels])


def _nullable_quote(name: str, quote: Quote | None) -> str:
    if quote is None:
        return f'"{name}_dollars":null,"{name}_size_fp":null'
    return f'"{name}_dollars":"{format_price(quote.price)}","{name}_size_fp":"{format_size(quote.size)}"'


def _ticker_quote(name: str, quote: Quote | None, absent: str) -> str:
    price, size = (absent, "0.00") if quote is None else (format_price(quote.price), format_size(quote.size))
    return f',"{name}_dollars":"{price}","{name}_size_fp":"{size}"'


def _delta_times(exchange_us: int | None) -> str:
    if exchange_us is None:
        return ""
    return f'{_text_time("ts", exchange_us)},"ts_ms":{exchange_us // 1_000}'


def _ticker_times(book: Book) -> str:
    times = [book.activity.exchange_us, book.stamps.exchange_us if book.stamps is not None else None]
    exchange_us = max((time for time in times if time is not None), default=None)
    if exchange_us is None:
        return ""
    seconds, milliseconds = exchange_us // 1_000_000, exchange_us // 1_000
    return f',"ts":{seconds},"ts_ms":{milliseconds}{_text_time("time", exchange_us)}'


def _text_time(name: str, exchange_us: int) -> str:
    second = _text_second(exchange_us // 1_000_000)
    return second and f',"{name}":"{second}.{exchange_us % 1_000_000:06d}Z"'


# Changes come many to a second, and a calendar is ten times the cost of all else that their times take.
@lru_cache(maxsize=256)
def _text_second(second: int) -> str:
    # A producer's clock may say anything; what no calendar holds is left out, as it is optional.
    try:
        return (_EPOCH + timedelta(seconds=second)).isoformat()
    except OverflowError:
        return ""
