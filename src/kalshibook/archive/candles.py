"""
Candles of a market, from every trade or from every change of its book. Pure.

A candle of the mid exists for each span in which the book has both sides at some moment, also when
nothing changed in it: its open is what the span before left. Twice the mid is stored, in $0.0001, so that
it stays an integer.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal, TypeAlias

import msgspec

from kalshibook.archive.rebuild import Archive, KnownTrade, book_from
from kalshibook.numbers import ONE_DOLLAR
from kalshibook.store import Book, Condition
from kalshibook.wire import Side

__all__ = ["Candle", "Kind", "candles", "mid_candles", "trade_candles"]

Kind: TypeAlias = Literal["trade", "mid"]


class Candle(msgspec.Struct, frozen=True):
    """One span."""

    at_us: int
    """Its begin."""
    open: int
    high: int
    low: int
    close: int
    volume: int
    """0.01 contract; 0 for the mid."""
    count: int
    """Trades, or values of the mid that differ from the one before."""


def candles(
    archive: Archive, kind: Kind, ticker: str, from_us: int, until_us: int, width_us: int
) -> list[Candle]:
    """Return a market's candles of a stretch of time."""
    if kind == "trade":
        return trade_candles(archive.trades(ticker, from_us, until_us), width_us)
    return mid_candles(archive, ticker, from_us, until_us, width_us)


def trade_candles(trades: Iterable[KnownTrade], width_us: int) -> list[Candle]:
    """Return the candles of trades; spans without one have none."""
    ordered = sorted(trades, key=lambda trade: (trade.at_us, trade.trade_id))
    found: list[Candle] = []
    for span, members in groupby(ordered, key=lambda trade: trade.at_us // width_us):
        inside = [*members]
        prices = [trade.yes_price for trade in inside]
        volume = sum(trade.size for trade in inside)
        found.append(
            Candle(span * width_us, prices[0], max(prices), min(prices), prices[-1], volume, len(inside))
        )
    return found


def mid_candles(archive: Archive, ticker: str, from_us: int, until_us: int, width_us: int) -> list[Candle]:
    """Return the candles of twice the mid, from the book at the begin and every change after it."""
    found: list[Candle] = []
    for span_us, values in _spans(_mids(archive, ticker, from_us, until_us), until_us, width_us):
        found.append(Candle(span_us, values[0], max(values), min(values), values[-1], 0, len(values) - 1))
    return found


def _mids(archive: Archive, ticker: str, from_us: int, until_us: int) -> Iterator[tuple[int, int | None]]:
    """Yield the time and twice the mid whenever it changes; None while a side is empty."""
    start_us = from_us
    book = book_from(archive, ticker, from_us)
    if book.condition is Condition.AWAITING:
        later = archive.snapshots_before(ticker, until_us - 1)
        if not later:
            return
        start_us = later[-1].at_us
        # Only so many are returned at once: the market's first is behind them.
        while later := archive.snapshots_before(ticker, start_us - 1):
            start_us = later[-1].at_us
        book = book_from(archive, ticker, start_us)
    sizes = _sizes(book)
    last = _mid(sizes)
    yield start_us, last
    # What was lost is in no change: behind each such stretch the book begins anew.
    lost = archive.coverage(ticker, start_us, until_us).lost(start_us, until_us)
    healed = deque(part.until_us for part in lost if part.until_us < until_us)
    changes = sorted(archive.changes(ticker, start_us + 1, until_us), key=lambda change: change.at_us)
    # What happens within the exchange's millisecond has no order to speak of: only its end is a value.
    for at_us, together in groupby(changes, key=lambda change: change.at_us):
        while healed and healed[0] < at_us:
            healed_us = healed.popleft()
            sizes = _sizes(book_from(archive, ticker, healed_us))
            if (mid := _mid(sizes)) != last:
                last = mid
                yield healed_us, mid
        for change in together:
            side = sizes[change.side]
            size = side.pop(change.price, 0) + change.change * change.count
            if size:
                side[change.price] = size
        mid = _mid(sizes)
        if mid != last:
            last = mid
            yield at_us, mid
    for healed_us in healed:
        mid = _mid(_sizes(book_from(archive, ticker, healed_us)))
        if mid != last:
            last = mid
            yield healed_us, mid


def _sizes(book: Book) -> dict[Side, dict[int, int]]:
    return {
        "yes": {level.price: level.size for level in book.yes},
        "no": {level.price: level.size for level in book.no},
    }


def _mid(sizes: dict[Side, dict[int, int]]) -> int | None:
    yes, no = sizes["yes"], sizes["no"]
    return max(yes) + ONE_DOLLAR - max(no) if yes and no else None


def _spans(
    mids: Iterator[tuple[int, int | None]], until_us: int, width_us: int
) -> Iterator[tuple[int, list[int]]]:
    held: int | None = None
    span = -1
    values: list[int] = []
    for at_us, mid in (*mids, (until_us - 1, None)):
        while span >= 0 and span < at_us // width_us:
            if values:
                yield span * width_us, values
            span += 1
            values = [] if held is None else [held]
        span = at_us // width_us
        held = mid
        if mid is not None:
            values.append(mid)
    if values:
        yield span * width_us, values
