"""
Kalshi's frames, written: fixed-point numbers in, bytes as the exchange sends them out.

Shapes: Kalshi WebSocket reference, autumn 2026. A side without levels has no key, levels ascend,
prices have 4 decimals and counts 2, and `sending_ts_ms` closes every frame. Deprecated keys are
left out, so that nobody comes to rely on them here.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from kalshibook.numbers import ONE_DOLLAR, format_price, format_size
from kalshibook.wire import Side

__all__ = [
    "delta_frame",
    "delta_tail",
    "lifecycle_frame",
    "message_tail",
    "snapshot_frame",
    "snapshot_tail",
    "ticker_frame",
    "trade_frame",
    "trade_tail",
]


@lru_cache(maxsize=65_536)
def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def delta_tail(ticker: str, side: Side, price: int, change: int, *, ts_ms: int, market_id: str = "") -> bytes:
    """
    Write what follows the number in an `orderbook_delta`; the same for every subscription.

    Args:
        ticker: the market.
        side: whose bids.
        price: $0.0001, on the scale that the subscription wants.
        change: signed, 0.01 contract.
        ts_ms: exchange time, Unix milliseconds.
        market_id: the exchange's other name of the market.
    """
    return (
        f',"msg":{{"market_ticker":{_quoted(ticker)},'
        f'"market_id":"{market_id}","price_dollars":"{format_price(price)}","delta_fp":"{format_size(change)}",'
        f'"side":"{side}","ts_ms":{ts_ms}}},"sending_ts_ms":{ts_ms}}}'
    ).encode()


def delta_frame(
    ticker: str, side: Side, price: int, change: int, *, sid: int, seq: int, ts_ms: int, market_id: str = ""
) -> bytes:
    """
    Write an `orderbook_delta`.

    Args:
        ticker: the market.
        side: whose bids.
        price: $0.0001, on the scale of the side.
        change: signed, 0.01 contract.
        sid: the subscription.
        seq: the frame's number on it.
        ts_ms: exchange time, Unix milliseconds.
        market_id: the exchange's other name of the market.
    """
    tail = delta_tail(ticker, side, price, change, ts_ms=ts_ms, market_id=market_id)
    return b'{"type":"orderbook_delta","sid":%d,"seq":%d%b' % (sid, seq, tail)


def snapshot_tail(
    ticker: str,
    yes: Iterable[tuple[int, int]],
    no: Iterable[tuple[int, int]],
    *,
    ts_ms: int,
    market_id: str = "",
) -> bytes:
    """
    Write what follows the number in an `orderbook_snapshot`.

    Args:
        ticker: the market.
        yes: resting YES bids as (price, size), each price once, in any order.
        no: resting NO bids, on the scale that the subscription wants.
        ts_ms: when it is sent, Unix milliseconds; a snapshot has no exchange time of its own.
        market_id: the exchange's other name of the market.
    """
    sides = "".join(_levels(key, levels) for key, levels in (("yes", yes), ("no", no)))
    return (
        f',"msg":{{"market_ticker":{_quoted(ticker)},'
        f'"market_id":"{market_id}"{sides}}},"sending_ts_ms":{ts_ms}}}'
    ).encode()


def snapshot_frame(
    ticker: str,
    yes: Iterable[tuple[int, int]],
    no: Iterable[tuple[int, int]],
    *,
    sid: int,
    seq: int,
    ts_ms: int,
    market_id: str = "",
) -> bytes:
    """
    Write an `orderbook_snapshot`.

    Args:
        ticker: the market.
        yes: resting YES bids as (price, size), each price once, in any order.
        no: resting NO bids, on the NO scale.
        sid: the subscription.
        seq: the frame's number on it.
        ts_ms: when it is sent, Unix milliseconds; a snapshot has no exchange time of its own.
        market_id: the exchange's other name of the market.
    """
    tail = snapshot_tail(ticker, yes, no, ts_ms=ts_ms, market_id=market_id)
    return b'{"type":"orderbook_snapshot","sid":%d,"seq":%d%b' % (sid, seq, tail)


def _levels(key: str, levels: Iterable[tuple[int, int]]) -> str:
    pairs = ",".join(f'["{format_price(price)}","{format_size(size)}"]' for price, size in sorted(levels))
    return f',"{key}_dollars_fp":[{pairs}]' if pairs else ""


def trade_tail(ticker: str, trade_id: str, yes_price: int, size: int, taker: Side, *, ts_ms: int) -> bytes:
    """
    Write what follows the number in a `trade`.

    Args:
        ticker: the market.
        trade_id: unique.
        yes_price: $0.0001.
        size: 0.01 contract.
        taker: the outcome that the taker ends up long; the maker's level is on the other side.
        ts_ms: exchange time, Unix milliseconds.
    """
    return (
        f',"msg":{{"trade_id":{_quoted(trade_id)},'
        f'"market_ticker":{_quoted(ticker)},"yes_price_dollars":"{format_price(yes_price)}",'
        f'"no_price_dollars":"{format_price(ONE_DOLLAR - yes_price)}","count_fp":"{format_size(size)}",'
        f'"taker_outcome_side":"{taker}","taker_book_side":"{"bid" if taker == "yes" else "ask"}",'
        f'"is_block_trade":false,"ts_ms":{ts_ms}}},"sending_ts_ms":{ts_ms}}}'
    ).encode()


def trade_frame(
    ticker: str, trade_id: str, yes_price: int, size: int, taker: Side, *, sid: int, seq: int, ts_ms: int
) -> bytes:
    """
    Write a `trade`.

    Args:
        ticker: the market.
        trade_id: unique.
        yes_price: $0.0001.
        size: 0.01 contract.
        taker: the outcome that the taker ends up long; the maker's level is on the other side.
        sid: the subscription.
        seq: the frame's number on it.
        ts_ms: exchange time, Unix milliseconds.
    """
    tail = trade_tail(ticker, trade_id, yes_price, size, taker, ts_ms=ts_ms)
    return b'{"type":"trade","sid":%d,"seq":%d%b' % (sid, seq, tail)


def message_tail(message: Mapping[str, Any], *, ts_ms: int) -> bytes:
    """Write what follows sid and number in a frame with this `msg`."""
    return b',"msg":%b,"sending_ts_ms":%d}' % (msgspec.json.encode(message), ts_ms)


def ticker_frame(ticker: str, fields: Mapping[str, Any], *, sid: int, ts_ms: int) -> bytes:
    """
    Write a `ticker`, which has no number.

    Args:
        ticker: the market.
        fields: of `msg` beside `market_ticker` and `ts_ms`, as on the wire.
        sid: the subscription.
        ts_ms: exchange time, Unix milliseconds.
    """
    message = {"market_ticker": ticker, **fields, "ts_ms": ts_ms}
    return msgspec.json.encode({"type": "ticker", "sid": sid, "msg": message, "sending_ts_ms": ts_ms})


def lifecycle_frame(
    ticker: str, event_type: str, fields: Mapping[str, Any], *, sid: int, seq: int, ts_ms: int
) -> bytes:
    """
    Write a `market_lifecycle_v2`.

    Args:
        ticker: the market.
        event_type: such as ``created``.
        fields: of `msg` beside those two, as on the wire; times in seconds.
        sid: the subscription.
        seq: the frame's number on it.
        ts_ms: when it is sent, Unix milliseconds.
    """
    message = {"market_ticker": ticker, "event_type": event_type, **fields}
    return msgspec.json.encode(
        {"type": "market_lifecycle_v2", "sid": sid, "seq": seq, "msg": message, "sending_ts_ms": ts_ms}
    )
