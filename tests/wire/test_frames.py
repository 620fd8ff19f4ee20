"""Frames: one encoding chosen, optional keys missing, nothing guessed, nothing but WireError raised."""

import contextlib
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from kalshibook.errors import WireError
from kalshibook.wire import (
    BookDelta,
    BookSnapshot,
    EventFrame,
    GathererNotice,
    MarketDescription,
    MarketLifecycle,
    Other,
    PriceRange,
    Ticker,
    Trade,
    WireEvent,
    decode_frame,
    decode_head,
    market_frame,
    notice_frame,
    read_frame,
)
from kalshibook.wire.messages import (
    FRAME_TYPES,
    DeltaMessage,
    Frame,
    LifecycleMessage,
    SnapshotMessage,
    TickerMessage,
    TradeMessage,
)

TICKER = "KXFROG-26DEC01-T40"


def read(kind: str, message: dict[str, Any], **head: Any) -> WireEvent:
    """Read one frame from its parts."""
    return read_frame(decode_frame(msgspec.json.encode({"type": kind, "msg": message, **head})))


def error_of(kind: str, message: dict[str, Any], **head: Any) -> WireError:
    """Return the error that one frame must give."""
    with pytest.raises(WireError) as caught:
        read(kind, message, **head)
    return caught.value


def test_frame_types_are_kalshis() -> None:
    """Each frame class answers for one type of the wire; one of them is ours."""
    assert len(get_args(Frame)) == len(FRAME_TYPES)
    assert {"orderbook_snapshot", "orderbook_delta", "ticker", "trade", "market_lifecycle_v2"} < FRAME_TYPES


@pytest.mark.parametrize(
    ("frame", "event"),
    [
        (
            notice_frame("alive", interval_ms=1_000),
            GathererNotice("alive", "", "", 1_000, ""),
        ),
        (
            notice_frame("stale", reason="gap", detail="5 to 9 of sid 4"),
            GathererNotice("stale", "gap", "5 to 9 of sid 4", None, ""),
        ),
        (
            notice_frame("ended", reason="settled", market_ticker=TICKER),
            GathererNotice("ended", "settled", "", None, TICKER),
        ),
    ],
)
def test_a_gatherers_notice_is_read_as_written(frame: bytes, event: GathererNotice) -> None:
    """What one gatherer says of itself is a frame like any other, of a type that no exchange sends."""
    assert event == read_frame(decode_frame(frame))
    assert "gatherer_notice" == decode_head(frame).type


def test_a_notice_on_the_wire() -> None:
    """The agreed JSON, without what is not said."""
    assert {
        "type": "gatherer_notice",
        "msg": {"notice": "stale", "reason": "gap", "detail": "5 to 9"},
    } == msgspec.json.decode(notice_frame("stale", reason="gap", detail="5 to 9"))


GRID = (PriceRange(0, 1_000, 10), PriceRange(1_000, 10_000, 100))


@pytest.mark.parametrize(
    "market",
    [
        MarketDescription(
            TICKER, "active", 1_790_000_000_000_000, 1_790_000_900_000_000, "KXFROG", "Frogs", GRID
        ),
        MarketDescription(TICKER, "initialized", None, None, None, None, None),
    ],
)
def test_a_description_is_read_as_written(market: MarketDescription) -> None:
    """What the lists say of a market is a frame like any other, of a type that no exchange sends."""
    frame = market_frame(market)

    assert market == read_frame(decode_frame(frame))
    assert "gatherer_market" == decode_head(frame).type


def test_markets_on_one_grid_share_it() -> None:
    """A million markets are on a dozen grids, which are kept once each."""
    frames = [market_frame(MarketDescription(name, "active", None, None, None, None, GRID)) for name in "AB"]
    first, second = (read_frame(decode_frame(frame)) for frame in frames)
    assert isinstance(first, MarketDescription)
    assert isinstance(second, MarketDescription)

    assert first.price_ranges is second.price_ranges


def test_a_description_of_nothing_is_an_error() -> None:
    """It names its market, or it cannot be read."""
    error = error_of("gatherer_market", {"market_ticker": "", "status": "active"})

    assert "$.msg.market_ticker" == error.path


def test_a_notice_of_tomorrow_is_counted() -> None:
    """A kind that is not known here puts nothing in doubt and is no error."""
    assert Other("gatherer_notice/moved") == read("gatherer_notice", {"notice": "moved"})


@pytest.mark.parametrize("message", [{"notice": "alive"}, {"notice": "alive", "interval_ms": 0}])
def test_a_sign_of_life_says_when_the_next_is_due(message: dict[str, Any]) -> None:
    """Without it nobody could tell that it is missing."""
    assert "$.msg.interval_ms" == error_of("gatherer_notice", message).path


@pytest.mark.parametrize(
    ("yes", "message"),
    [
        ((), {}),
        (((4000, 7550),), {"yes_dollars_fp": [["0.4000", "75.50"]]}),
        (((4000, 7500),), {"yes_dollars": [["0.4000", 75]]}),
        (((4000, 7500),), {"yes": [[40, 75]]}),
        (((4000, 7550),), {"yes": [[41, 75]], "yes_dollars_fp": [["0.4000", "75.50"]]}),
        (((4000, 7500),), {"yes": [[41, 75]], "yes_dollars": [["0.4000", 75]]}),
        ((), {"yes": [[41, 75]], "no_dollars_fp": []}),
        ((), {"yes_dollars": [["0.4000", 75]], "no_dollars_fp": []}),
        ((), {"yes": [[41, 75]], "no_dollars": []}),
        ((), {"yes_dollars_fp": None}),
        ((), {"yes_dollars_fp": []}),
        (((100, 100), (9900, 200)), {"yes": [[1, 1], [99, 2]]}),
        (((100, 100),), {"yes": [[1, 1], [99, 0]]}),
    ],
)
def test_one_encoding_of_a_snapshot_is_read(
    yes: tuple[tuple[int, int], ...], message: dict[str, Any]
) -> None:
    """The newest encoding that either side has is the frame's; a side missing in it is empty."""
    event = read("orderbook_snapshot", {"market_ticker": TICKER, **message})

    assert BookSnapshot(TICKER, yes, (), None) == event


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("$.msg.yes_dollars_fp[0][0]", {"yes_dollars_fp": [["0.0000", "1.00"]]}),
        ("$.msg.yes_dollars_fp[0][0]", {"yes_dollars_fp": [["1.0000", "1.00"]]}),
        ("$.msg.no_dollars_fp[1][1]", {"no_dollars_fp": [["0.5000", "1.00"], ["0.6000", "-1.00"]]}),
        ("$.msg.no_dollars[0][1]", {"no_dollars": [["0.5000", -1]]}),
        ("$.msg.yes[0][0]", {"yes": [[0, 1]]}),
        ("$.msg.yes[0][0]", {"yes": [[100, 1]]}),
        ("$.msg.yes[0][0]", {"yes": [[-1, 1]]}),
        ("$.msg.yes[1][0]", {"yes": [[40, 1], [40, 1]]}),
        ("$.msg.yes[0][1]", {"yes": [[40, -1]]}),
        ("$.msg.yes[0][1]", {"yes": [[40, 2**63]]}),
        ("$.msg.yes[0][1]", {"yes": [[40, 1.5]]}),
        ("$.msg.yes[0][0]", {"yes": [["0.40", 1]]}),
        ("$.msg.yes_dollars_fp[0]", {"yes_dollars_fp": [["0.4000"]]}),
        ("$.msg.yes_dollars_fp[0]", {"yes_dollars_fp": [["0.4000", "1.00", "2.00"]]}),
        ("$.msg.yes_dollars_fp[0][1]", {"yes_dollars_fp": [["0.4000", None]]}),
        ("$.msg.market_ticker", {"market_ticker": ""}),
    ],
)
def test_unreadable_snapshots(path: str, message: dict[str, Any]) -> None:
    """One bad level refuses the whole snapshot, whatever its encoding."""
    assert path == error_of("orderbook_snapshot", {"market_ticker": TICKER, **message}).path


@pytest.mark.parametrize(
    ("price", "change", "message"),
    [
        (4000, 2550, {"price_dollars": "0.4000", "delta_fp": "25.50"}),
        (4000, -2500, {"price": 40, "delta": -25}),
        (4000, -2500, {"price_dollars": "0.4000", "delta": -25}),
        (4000, 2550, {"price": 41, "price_dollars": "0.4000", "delta": 26, "delta_fp": "25.50"}),
        (4000, 0, {"price": 40, "delta": 0}),
    ],
)
def test_one_encoding_of_a_delta_is_read(price: int, change: int, message: dict[str, Any]) -> None:
    """The more precise key of each pair counts."""
    event = read("orderbook_delta", {"market_ticker": TICKER, "side": "no", **message})

    assert BookDelta(TICKER, "no", price, change, None) == event


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("$.msg", {"delta_fp": "1.00"}),
        ("$.msg", {"price_dollars": "0.4000"}),
        ("$.msg.price", {"price": 0, "delta": 1}),
        ("$.msg.price", {"price": 100, "delta": 1}),
        ("$.msg.price", {"price": 4000, "delta": 1}),
        ("$.msg.price", {"price": 40.5, "delta": 1}),
        ("$.msg.price", {"price": True, "delta": 1}),
        ("$.msg.delta", {"price": 40, "delta": "1"}),
        ("$.msg.delta", {"price": 40, "delta": 10**20}),
        ("$.msg.delta", {"price": 40, "delta": -(10**20)}),
        ("$.msg.delta_fp", {"price": 40, "delta_fp": None, "delta": 1}),
        ("$.msg.price_dollars", {"price": 40, "price_dollars": "", "delta": 1}),
        ("$.msg.price_dollars", {"price_dollars": "1.0000", "delta_fp": "1"}),
        ("$.msg.side", {"side": "YES", "price": 40, "delta": 1}),
        ("$.msg.market_ticker", {"market_ticker": "", "price": 40, "delta": 1}),
        ("$.msg.ts", {"price": 40, "delta": 1, "ts": "yesterday"}),
        ("$.msg.ts", {"price": 40, "delta": 1, "ts": -1}),
        ("$.msg.ts_ms", {"price": 40, "delta": 1, "ts_ms": 10**18}),
        ("$.msg.ts_ms", {"price": 40, "delta": 1, "ts_ms": "1795348800020"}),
    ],
)
def test_unreadable_deltas(path: str, message: dict[str, Any]) -> None:
    """What is missing, of the wrong type or out of range is an error, never a 0 and never the older key."""
    assert path == error_of("orderbook_delta", {"market_ticker": TICKER, "side": "yes", **message}).path


@pytest.mark.parametrize(
    ("exchange_us", "times"),
    [
        (None, {}),
        (None, {"ts": None, "ts_ms": None}),
        (1_795_348_800_020_000, {"ts_ms": 1_795_348_800_020}),
        (1_795_348_800_020_000, {"ts_ms": 1_795_348_800_020, "ts": "2026-11-22T12:00:00.020999Z"}),
        (1_795_348_800_020_999, {"ts": "2026-11-22T12:00:00.020999Z"}),
        (1_795_348_800_000_000, {"ts": 1_795_348_800}),
    ],
)
def test_times_of_a_delta(exchange_us: int | None, times: dict[str, Any]) -> None:
    """Milliseconds first, then the text or the seconds; none is unknown."""
    event = read(
        "orderbook_delta", {"market_ticker": TICKER, "side": "yes", "price": 40, "delta": 1, **times}
    )

    assert isinstance(event, BookDelta)
    assert exchange_us == event.exchange_us


def test_a_ticker_with_nothing_but_its_market() -> None:
    """Every statistic that is not there is unknown, not 0."""
    assert Ticker(TICKER, None, None, None, None, None, None, None) == read(
        "ticker", {"market_ticker": TICKER}
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("$.msg.price_dollars", {"price_dollars": "0,40"}),
        ("$.msg.price_dollars", {"price_dollars": 0.4}),
        ("$.msg.price", {"price": 101}),
        ("$.msg.volume_fp", {"volume_fp": ""}),
        ("$.msg.volume_fp", {"volume_fp": "-1.00"}),
        ("$.msg.volume", {"volume": -1}),
        ("$.msg.open_interest_fp", {"open_interest_fp": "1e3"}),
        ("$.msg.last_trade_size_fp", {"last_trade_size_fp": "x"}),
        ("$.msg.dollar_volume", {"dollar_volume": 1.5}),
        ("$.msg.dollar_open_interest", {"dollar_open_interest": 2**63}),
    ],
)
def test_unreadable_tickers(path: str, message: dict[str, Any]) -> None:
    """A statistic that is there must be readable."""
    assert path == error_of("ticker", {"market_ticker": TICKER, **message}).path


TRADE = {"trade_id": "t1", "market_ticker": TICKER, "yes_price_dollars": "0.4300", "count_fp": "10.25"}


@pytest.mark.parametrize(
    ("taker", "keys"),
    [
        (None, {}),
        ("yes", {"taker_side": "yes"}),
        ("no", {"taker_book_side": "ask"}),
        ("yes", {"taker_book_side": "bid"}),
        ("no", {"taker_outcome_side": "no", "taker_side": "yes", "taker_book_side": "bid"}),
    ],
)
def test_the_takers_side(taker: str | None, keys: dict[str, Any]) -> None:
    """The newest key counts; without any the side is unknown."""
    event = read("trade", {**TRADE, **keys})

    assert isinstance(event, Trade)
    assert taker == event.taker_side


def test_a_trade_without_its_no_price() -> None:
    """The NO price adds nothing and may be missing."""
    event = read("trade", TRADE)

    assert isinstance(event, Trade)
    assert (4300, 1025, True, None) == (event.yes_price, event.size, event.consistent, event.exchange_us)


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("$.msg", {"yes_price_dollars": ...}),
        ("$.msg", {"count_fp": ...}),
        ("$.msg", {"trade_id": ...}),
        ("$.msg.count_fp", {"count_fp": "-1.00"}),
        ("$.msg.count", {"count_fp": ..., "count": -1}),
        ("$.msg.no_price", {"no_price": 101}),
        ("$.msg.yes_price", {"yes_price_dollars": ..., "yes_price": -1}),
        ("$.msg.taker_side", {"taker_side": "bid"}),
        ("$.msg.is_block_trade", {"is_block_trade": "false"}),
        ("$.msg.market_ticker", {"market_ticker": ""}),
    ],
)
def test_unreadable_trades(path: str, changes: dict[str, Any]) -> None:
    """An ellipsis takes the key away."""
    message = {name: value for name, value in {**TRADE, **changes}.items() if value is not ...}

    assert path == error_of("trade", message).path


def test_what_only_an_orders_owner_may_know_is_not_passed_on() -> None:
    """The body for other subscribers lacks the owner's fields and has all others as they came."""
    event = read("trade", {**TRADE, "client_order_id": "mine", "subaccount": 3, "last_update_reason": "x"})

    assert isinstance(event, Trade)
    assert TRADE == msgspec.json.decode(event.body)


def test_an_escaped_name_of_an_owners_field_is_the_same_name() -> None:
    """What is kept back is told by its meaning, not by its spelling."""
    frame = (
        b'{"type":"trade","msg":{"trade_id":"t","market_ticker":"A","yes_price":43,"count":1,'
        b'"client\\u005forder_id":"mine"}}'
    )

    event = read_frame(decode_frame(frame))

    assert isinstance(event, Trade)
    assert b"mine" not in event.body


@pytest.mark.parametrize(
    "frame",
    [
        b'{"type":"trade","msg":{"trade_id":"t","market_ticker":"A","yes_price":4,"count":1,"x":"\xff"}}',
        b'{"type":"market_lifecycle_v2","msg":{"market_ticker":"A","event_type":"settled","\xff":1}}',
        b'{"type":"event_lifecycle","msg":{"event_ticker":"E","title":"\xff"}}',
    ],
)
def test_a_body_that_is_no_text_is_refused(frame: bytes) -> None:
    """Bytes that are not UTF-8 would end every client to which the body is passed on."""
    with pytest.raises(WireError, match="UTF-8"):
        read_frame(decode_frame(frame))


def test_a_lifecycle_step_from_the_future() -> None:
    """An event type that is not known is counted under its name, not an error."""
    assert Other("market_lifecycle_v2/teleported") == read(
        "market_lifecycle_v2", {"market_ticker": TICKER, "event_type": "teleported"}
    )


@pytest.mark.parametrize(
    ("exchange_us", "message", "head"),
    [
        (None, {}, {}),
        (5_000_000, {"determination_ts": 5}, {}),
        (6_000_000, {"settled_ts": 6}, {}),
        (7_000, {"determination_ts": 5}, {"sending_ts_ms": 7}),
    ],
)
def test_times_of_a_lifecycle_step(
    exchange_us: int | None, message: dict[str, Any], head: dict[str, Any]
) -> None:
    """The time of sending, else the time of the step itself."""
    event = read("market_lifecycle_v2", {"market_ticker": TICKER, "event_type": "settled", **message}, **head)

    assert isinstance(event, MarketLifecycle)
    assert exchange_us == event.exchange_us


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("$.msg.settlement_value", {"settlement_value": "1.5"}),
        ("$.msg.settlement_value", {"settlement_value": 1}),
        ("$.msg.price_ranges[0].step", {"price_ranges": [{"start": "0", "end": "1", "step": "0.00001"}]}),
        ("$.msg.price_ranges[0]", {"price_ranges": [{"start": "0", "end": "1"}]}),
        ("$.msg.close_ts", {"close_ts": "2026-12-01T00:00:00Z"}),
        ("$.msg.open_ts", {"open_ts": 10**15}),
        ("$.msg.additional_metadata", {"additional_metadata": []}),
        ("$.msg.market_ticker", {"market_ticker": ""}),
    ],
)
def test_unreadable_lifecycle_steps(path: str, message: dict[str, Any]) -> None:
    """A time, a value or a grid that is there must be readable."""
    message = {"market_ticker": TICKER, "event_type": "determined", **message}

    assert path == error_of("market_lifecycle_v2", message).path


def test_event_frames_are_passed_on() -> None:
    """A frame about an event carries its ticker and its body."""
    event = read("event_lifecycle", {"event_ticker": "E", "title": "Frogs"}, sending_ts_ms=3)

    assert EventFrame("E", "event_lifecycle", 3_000, b'{"event_ticker":"E","title":"Frogs"}') == event


@pytest.mark.parametrize("kind", ["subscribed", "ok", "unsubscribed", "error"])
def test_control_frames_carry_no_market_data(kind: str) -> None:
    """They are counted by their type, whatever they say."""
    assert Other(kind) == read(kind, {"anything": [1]}, sid=7, seq=3)


@pytest.mark.parametrize(
    ("path", "head"),
    [
        ("$.seq", {"seq": 0}),
        ("$.seq", {"seq": -1}),
        ("$.seq", {"seq": 1.5}),
        ("$.seq", {"seq": "1"}),
        ("$.seq", {"seq": 2**63}),
        ("$.sid", {"sid": "7"}),
        ("$.sending_ts_ms", {"sending_ts_ms": -1}),
        ("$.sending_ts_ms", {"sending_ts_ms": 10**18}),
    ],
)
@pytest.mark.parametrize("kind", ["orderbook_delta", "ticker", "trade", "ok", "orderbook_l3"])
def test_unreadable_heads(kind: str, path: str, head: dict[str, Any]) -> None:
    """The keys that every frame may have are judged on every frame, also of unknown types."""
    message = {"side": "yes", "price": 40, "delta": 1, **TRADE}

    assert path == error_of(kind, message, **head).path


def test_the_head_of_any_frame() -> None:
    """Type, sid, number and time of sending can be had without knowing the type."""
    head = decode_head(b'{"type":"new","sid":7,"seq":9,"sending_ts_ms":5,"msg":[1]}')

    assert ("new", 7, 9, 5) == (head.type, head.sid, head.seq, head.sending_ts_ms)
    with pytest.raises(WireError):
        decode_head(b"[]")


FIELDS = [
    *(
        field
        for shape in (SnapshotMessage, DeltaMessage, TickerMessage, TradeMessage)
        for field in shape.__struct_fields__
    ),
    *LifecycleMessage.__struct_fields__,
    "event_ticker",
]
messages = st.fixed_dictionaries(
    {},
    optional={
        name: st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(["0.4000", "1.00", "-1.00", "yes", "no", "bid", "created", "", TICKER])
        | st.text(max_size=5)
        | st.lists(st.lists(st.text(max_size=4) | st.integers(0, 100), max_size=3), max_size=3)
        for name in FIELDS
    },
)


@given(st.sampled_from([*sorted(FRAME_TYPES), "new"]), messages)
def test_no_message_gets_past_the_reader(kind: str, message: dict[str, Any]) -> None:
    """Any mixture of known keys with odd values is read or refused, and what is read fits 64 bits."""
    with contextlib.suppress(WireError):
        event = read(kind, message)
        assert msgspec.json.decode(msgspec.json.encode(event), type=type(event)) == event


@given(st.text(max_size=50) | st.binary(max_size=50))
@example("\ud800")
@example('{"type":"\ud800"}')
@example(b'{"type":"trade","msg":' + b"[" * 100_000)
def test_no_text_gets_past_the_decoder(data: str | bytes) -> None:
    """Any text or bytes are a frame or a WireError."""
    with contextlib.suppress(WireError):
        read_frame(decode_frame(data))
