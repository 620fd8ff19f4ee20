"""Bodies: valid JSON whatever is in a book."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from kalshibook.store import BookStore
from kalshibook.stream.encode import delta_tail, snapshot_tail, ticker_tail, top_tail
from kalshibook.wire import BookDelta, BookSnapshot, Ticker, Trade, decode_frame, read_frame
from tests.store.builders import Script, ticker_message

times = st.none() | st.integers(0, 9_999_999_999_999_999)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
sides = st.dictionaries(st.integers(1, 9_999), st.integers(1, 2**50), max_size=8)


def message(tail: bytes) -> Any:
    """Return the message of a tail."""
    return json.loads(b'{"type":"x"' + tail)["msg"]


@given(names, st.sampled_from(["yes", "no"]), st.integers(1, 9_999), st.integers(-(2**50), 2**50), times)
def test_delta_reads_back(name: str, side: Any, price: int, change: int, time_us: int | None) -> None:
    """What is written reads back as the same change, at whichever scale; times to the millisecond."""
    delta = BookDelta(name, side, price, change, time_us)
    for yes_scale in (False, True):
        frame = decode_frame(
            b'{"type":"orderbook_delta","sid":1,"seq":1' + delta_tail(delta, yes_scale=yes_scale)
        )
        found = read_frame(frame)
        assert isinstance(found, BookDelta)
        expected = 10_000 - price if yes_scale and side == "no" else price
        assert (name, side, expected, change) == (found.ticker, found.side, found.price, found.change)
        assert (None if time_us is None else time_us // 1_000 * 1_000) == found.exchange_us


@given(names, sides, sides)
def test_snapshot_reads_back(name: str, yes: dict[int, int], no: dict[int, int]) -> None:
    """What is written reads back as the same book, at whichever scale, ascending."""
    store = BookStore()
    Script(store).snapshot(yes, no, ticker=name)
    book = store.cut()[name]
    for yes_scale in (False, True):
        frame = decode_frame(
            b'{"type":"orderbook_snapshot","sid":1,"seq":1' + snapshot_tail(book, yes_scale=yes_scale)
        )
        found = read_frame(frame)
        assert isinstance(found, BookSnapshot)
        assert tuple(sorted(yes.items())) == found.yes
        prices = {10_000 - price if yes_scale else price: size for price, size in no.items()}
        assert tuple(sorted(prices.items())) == found.no


@given(names, sides, sides, times)
def test_top_and_ticker_are_json(
    name: str, yes: dict[int, int], no: dict[int, int], time_us: int | None
) -> None:
    """Whatever the book and whatever a producer's clock says, the frames are JSON and name the market."""
    store = BookStore()
    script = Script(store)
    script.apply(ticker_message(ticker=name, exchange_us=time_us, volume=1))
    script.snapshot(yes, no, ticker=name)
    book = store.cut()[name]
    assert name == message(top_tail(book))["market_ticker"]
    found = message(ticker_tail(book))
    assert (name, "0.01") == (found["market_ticker"], found["volume_fp"])
    frame = read_frame(decode_frame(b'{"type":"ticker","sid":1' + ticker_tail(book)))
    assert isinstance(frame, Ticker)
    assert 1 == frame.volume


@pytest.mark.parametrize("time_us", [10**18, -(10**18)])
def test_time_beyond_the_calendar(time_us: int) -> None:
    """A time that no calendar holds leaves out its text and keeps its number."""
    found = message(delta_tail(BookDelta("KX", "yes", 1, 1, time_us), yes_scale=False))
    assert "ts" not in found
    assert time_us // 1_000 == found["ts_ms"]


def test_owner_fields_are_stripped() -> None:
    """What concerns the owner of an order only does not reach anybody through us."""
    frame = decode_frame(
        b'{"type":"trade","sid":1,"seq":1,"msg":{"trade_id":"t","market_ticker":"KX","yes_price_dollars":"0.4000",'
        b'"count_fp":"1.00","client_order_id":"frog","subaccount":3,"last_update_reason":"Decrease"}}'
    )
    event = read_frame(frame)
    assert isinstance(event, Trade)
    assert {"trade_id", "market_ticker", "yes_price_dollars", "count_fp"} == json.loads(event.body).keys()
