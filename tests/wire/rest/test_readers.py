"""What answers mean: exact numbers, None for what is absent, and one bad item that costs no other."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from kalshibook.errors import WireError
from kalshibook.numbers import format_price, format_size
from kalshibook.wire import BookSnapshot, PriceRange, rest

# As the SDK's model names them, October 2026.
MARKET: dict[str, Any] = {
    "ticker": "KXGOLD15M-26AUG050000-T4611.99",
    "event_ticker": "KXGOLD15M-26AUG050000",
    "market_type": "binary",
    "yes_sub_title": "4611.99 or above",
    "no_sub_title": "4611.99 or above",
    "created_time": "2026-08-04T23:00:00.123456Z",
    "updated_time": "2026-08-04T23:00:00Z",
    "open_time": "2026-08-04T23:45:00Z",
    "close_time": "2026-08-05T00:00:00Z",
    "expected_expiration_time": "0001-01-01T00:00:00Z",
    "latest_expiration_time": "2026-08-12T00:00:00Z",
    "settlement_timer_seconds": 60,
    "status": "active",
    "yes_bid_dollars": "0.0010",
    "yes_bid_size_fp": "437236.00",
    "yes_ask_dollars": "1.0000",
    "yes_ask_size_fp": "0.00",
    "no_bid_dollars": "0.0000",
    "no_ask_dollars": "0.9990",
    "last_price_dollars": "",
    "volume_fp": "0.00",
    "volume_24h_fp": "12.34",
    "result": "",
    "can_close_early": True,
    "open_interest_fp": "0.01",
    "notional_value_dollars": "1.0000",
    "previous_yes_bid_dollars": "0.0000",
    "previous_yes_ask_dollars": "0.5",
    "previous_price_dollars": "0.0000",
    "settlement_bounds_type": "default",
    "expiration_value": "",
    "strike_type": "greater_or_equal",
    "floor_strike": 4611.990000000000001,
    "custom_strike": {"a": 1},
    "rules_primary": "If …",
    "rules_secondary": "",
    "price_level_structure": "deci_cent",
    "price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0010"}],
    "exchange_index": 0,
    "a_field_of_next_year": {"x": [1]},
}


def page(key: str, *items: Any, cursor: str | None = "") -> bytes:
    """Return an answer with a list."""
    return msgspec.json.encode({key: items, "cursor": cursor})


def test_market() -> None:
    """Numbers are exact; what nobody bids, offers or ever traded is None; strikes keep every digit."""
    data = msgspec.json.encode({"market": MARKET}).replace(b"4611.99}", b"4611.99}")
    data = data.replace(b'"floor_strike":4611.99', b'"floor_strike":4611.990000000000001')

    market = rest.read_market(data)

    assert (10, 43_723_600) == (market.yes_bid, market.yes_bid_size)
    assert (None, None, None, 9_990) == (market.yes_ask, market.yes_ask_size, market.no_bid, market.no_ask)
    assert (None, None, 5_000) == (market.last_price, market.previous_yes_bid, market.previous_yes_ask)
    assert (0, 1_234, 1, 10_000) == (
        market.volume,
        market.volume_24h,
        market.open_interest,
        market.notional,
    )
    assert "4611.990000000000001" == market.floor_strike
    assert b'{"a":1}' == market.custom_strike
    assert 1_785_884_400_123_456 == market.created_us
    assert market.expected_expiration_us is None
    assert (PriceRange(0, 10_000, 10),) == market.price_ranges
    assert not market.is_combo
    assert market.ticker == rest.read_listing(data).ticker
    assert market.close_us == rest.read_listing(data).close_us


def test_listing_says_what_the_market_says() -> None:
    """The registry's short reading agrees with the whole one, field by field."""
    combo = MARKET | {"ticker": "KXMVENBA-1", "mve_collection_ticker": "C", "close_time": ""}

    short = rest.read_listings(page("markets", MARKET, combo, cursor="more"))
    whole = rest.read_markets(page("markets", MARKET, combo, cursor="more"))

    names = rest.Listing.__struct_fields__
    assert "more" == short.cursor == whole.cursor
    assert [[getattr(market, name) for name in names] for market in whole.items] == [
        [getattr(listing, name) for name in names] for listing in short.items
    ]
    assert [False, True] == [listing.is_combo for listing in short.items]
    assert short.items[1].close_us is None


@pytest.mark.parametrize("read", [rest.read_listings, rest.read_markets])
@pytest.mark.parametrize(
    ("bad", "path"),
    [
        ({"ticker": 5, "status": "active"}, "$.markets[1].ticker"),
        ({"ticker": "", "status": "active"}, "$.markets[1].ticker"),
        ({"status": "active"}, "$.markets[1]"),
        ({"ticker": "B", "status": "active", "close_time": "tomorrow"}, "$.markets[1].close_time"),
    ],
)
def test_one_bad_market_costs_no_other(read: Any, bad: dict[str, Any], path: str) -> None:
    """What cannot be read is told with its path; the rest of the page and its cursor are there."""
    found = read(page("markets", MARKET, bad, MARKET | {"ticker": "C"}, cursor="more"))

    assert [MARKET["ticker"], "C"] == [item.ticker for item in found.items]
    assert [path] == [error.path for error in found.rejected]
    assert "more" == found.cursor


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"<html>", b'{"cursor":""}', b'{"markets":null}', b'{"markets":{}}', b"\xff"]
)
@pytest.mark.parametrize("read", [rest.read_listings, rest.read_markets])
def test_what_is_no_page_is_an_error(read: Any, data: bytes) -> None:
    """An answer without its list is not an empty list."""
    with pytest.raises(WireError):
        read(data)


@pytest.mark.parametrize(
    "name", ["yes_bid_dollars", "last_price_dollars", "volume_fp", "yes_bid_size_fp", "floor_strike"]
)
def test_number_that_cannot_be_read_is_never_a_zero(name: str) -> None:
    """Too fine, or no number at all: the market is rejected with the field's path."""
    value = {"a": 1} if name == "floor_strike" else "0.00001"

    found = rest.read_markets(page("markets", MARKET | {name: value}))

    assert [f"$.markets[0].{name}"] == [error.path for error in found.rejected]


LEVELS = st.dictionaries(st.integers(1, 9_999), st.integers(1, 10**12), max_size=20)


@given(LEVELS, LEVELS)
def test_book_is_what_was_written(yes: dict[int, int], no: dict[int, int]) -> None:
    """Any book, written as the exchange does, is read back exactly, alone and in bulk."""
    sides = {
        f"{name}_dollars": [(format_price(price), format_size(size)) for price, size in levels.items()]
        for name, levels in (("yes", yes), ("no", no))
    }
    expected = BookSnapshot("A", tuple(yes.items()), tuple(no.items()), None)

    alone = rest.read_orderbook(msgspec.json.encode({"orderbook_fp": sides}), "A")
    bulk = rest.read_orderbooks(
        msgspec.json.encode({"orderbooks": [{"ticker": "A", "orderbook_fp": sides}, {"ticker": "B"}]})
    )

    assert expected == alone
    assert (expected,) == bulk.items
    assert ["$.orderbooks[1]"] == [error.path for error in bulk.rejected]


@pytest.mark.parametrize(
    ("old", "yes"),
    [
        ({"yes": [[40, 3]], "no": None}, ((4_000, 300),)),
        ({"yes": [[40, 3]], "no": None, "yes_dollars": [["0.405", 3]]}, ((4_050, 300),)),
    ],
)
def test_book_as_it_was_before_march_2026(old: dict[str, Any], yes: tuple[tuple[int, int], ...]) -> None:
    """Whole contracts; of two encodings the more precise one."""
    assert BookSnapshot("A", yes, (), None) == rest.read_orderbook(
        msgspec.json.encode({"orderbook": old}), "A"
    )


def test_book_without_a_known_key_is_not_empty() -> None:
    """A change of format is an error, not a book with nothing in it."""
    with pytest.raises(WireError, match="format is not known"):
        rest.read_orderbook(b'{"orderbook_v9":{}}', "A")


def test_trades() -> None:
    """A trade of REST becomes the value that a trade of the socket becomes."""
    trade = {
        "trade_id": "t-1",
        "ticker": "A",
        "count_fp": "0.25",
        "yes_price_dollars": "0.3333",
        "no_price_dollars": "0.6667",
        "taker_book_side": "ask",
        "created_time": "2026-08-05T00:00:00.000001Z",
        "is_block_trade": True,
    }

    found = rest.read_trades(page("trades", trade, trade | {"count_fp": "-1"}, cursor=None))

    (read,) = found.items
    assert ("t-1", "A", 3_333, 25, "no", True, True, 1_785_888_000_000_001) == (
        read.trade_id,
        read.ticker,
        read.yes_price,
        read.size,
        read.taker_side,
        read.is_block_trade,
        read.consistent,
        read.exchange_us,
    )
    assert ["$.trades[1].count_fp"] == [error.path for error in found.rejected]
    assert "" == found.cursor


def test_events_and_series() -> None:
    """Multipliers keep their digits, null is None, nested markets come along."""
    event = {"event_ticker": "E", "series_ticker": "S", "markets": [MARKET], "fee_multiplier_override": None}
    series = {"ticker": "S", "title": "Gold", "fee_multiplier": 0.5, "tags": None, "last_updated_ts": 7}

    (read,) = rest.read_events(page("events", event)).items
    beside = rest.read_event(msgspec.json.encode({"event": {"event_ticker": "E"}, "markets": [MARKET]}))
    (one,) = rest.read_series(msgspec.json.encode({"series": [series]})).items

    assert read.markets is not None
    assert [MARKET["ticker"]] == [market.ticker for market in read.markets]
    assert read.markets == beside.markets
    assert read.fee_multiplier_override is None
    assert ("0.5", (), 7_000_000) == (one.fee_multiplier, one.tags, one.updated_us)
    assert () == rest.read_series(b'{"series":null}').items


def test_exchange_status_and_schedule() -> None:
    """Whether it trades, shard by shard, and when it does not."""
    status = rest.read_exchange_status(
        b'{"exchange_active":true,"trading_active":false,"exchange_index_statuses":'
        b'[{"exchange_index":2,"description":"crypto","exchange_active":true,"trading_active":true}]}'
    )
    schedule = rest.read_exchange_schedule(
        b'{"schedule":{"standard_hours":[{"start_time":"2026-01-01T00:00:00Z","end_time":null,"monday":'
        b'[{"open_time":"08:00","close_time":"03:00"}]}],"maintenance_windows":'
        b'[{"start_datetime":"2026-08-06T07:00:00Z","end_datetime":"2026-08-06T09:00:00Z"}]}}'
    )

    assert (True, False, None) == (status.exchange_active, status.trading_active, status.resume_us)
    assert [(2, "crypto", True)] == [
        (shard.exchange_index, shard.description, shard.trading_active) for shard in status.shards
    ]
    assert (("monday", "08:00", "03:00"),) == schedule.hours[0].sessions
    assert [7_200_000_000] == [window.end_us - window.start_us for window in schedule.maintenance]
    with pytest.raises(WireError, match=r"monday\[0\]"):
        rest.read_exchange_schedule(b'{"schedule":{"standard_hours":[{"monday":[{}]}]}}')


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"code":"not_found","message":"no such market","details":"A"}', "not_found: no such market: A"),
        (b'{"error":"too many requests"}', "too many requests"),
        (b'{"error":{"code":"x","message":"y","details":{"a":1}}}', 'x: y: {"a":1}'),
        (b'{"code":7}', "7"),
        (b"<html>bad gateway</html>", "<html>bad gateway</html>"),
        (b'{"message":5}', '{"message":5}'),
        (b"\xff", "\ufffd"),
        (b"", "no reason given"),
    ],
)
def test_refusal_is_always_words(body: bytes, words: str) -> None:
    """Whatever comes with an error status can be told; a megabyte of it is cut."""
    assert words == str(rest.read_refusal(body))
    assert 300 == len(str(rest.read_refusal(b"x" * 1_000_000)))
