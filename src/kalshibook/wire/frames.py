"""
Kalshi's WebSocket frames: decoded in one pass, and read into fixed-point events.

The shapes are in `wire.messages`. Where one frame carries several encodings exactly one is read,
the most precise, chosen by key name.
"""

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar, get_args

import msgspec
from msgspec import UNSET, UnsetType

from kalshibook.errors import WireError
from kalshibook.numbers import (
    ONE_DOLLAR,
    format_price,
    known_level_price,
    known_size_change,
    parse_level_price,
    parse_price,
    parse_size,
    parse_size_change,
)
from kalshibook.wire.events import (
    BookDelta,
    BookSnapshot,
    EventFrame,
    GathererNotice,
    LifecycleEvent,
    MarketDescription,
    MarketLifecycle,
    NoticeKind,
    Other,
    PriceRange,
    Ticker,
    Trade,
    WireEvent,
)
from kalshibook.wire.fields import (
    read_body,
    read_cents,
    read_contracts,
    read_fixed_levels,
    read_level_cents,
    read_levels,
    read_price_ranges,
    read_signed_contracts,
    read_taker,
)
from kalshibook.wire.messages import (
    FRAME_TYPES,
    ComboLifecycleFrame,
    DeltaFrame,
    DeltaMessage,
    EventFeeFrame,
    EventLifecycleFrame,
    EventMessage,
    Frame,
    FrameHead,
    LifecycleFrame,
    LifecycleMessage,
    MarketFrame,
    MarketMessage,
    NoticeFrame,
    NoticeMessage,
    PriceRangeMessage,
    SnapshotFrame,
    TickerFrame,
    TradeFrame,
    TradeMessage,
)
from kalshibook.wire.times import parse_time

__all__ = [
    "UNREADABLE",
    "decode_frame",
    "decode_head",
    "market_frame",
    "notice_frame",
    "read_frame",
    "wire_error",
]

# Nesting beyond the interpreter's limit is refused by msgspec with RecursionError; text with a lone
# surrogate, which cannot be UTF-8, with UnicodeError. All three are faults of the message.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)

_frame_decoder = msgspec.json.Decoder(Frame)
_head_decoder = msgspec.json.Decoder(FrameHead)
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_trade_decoder = msgspec.json.Decoder(TradeMessage)
_lifecycle_decoder = msgspec.json.Decoder(LifecycleMessage)
_event_decoder = msgspec.json.Decoder(EventMessage)
_encoder = msgspec.json.Encoder()

T = TypeVar("T")

_MESSAGE_PATH = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)


def wire_error(error: Exception, path: str = "$") -> WireError:
    """Turn msgspec's error into ours: same reason, its path below `path`."""
    match = _MESSAGE_PATH.match(str(error))
    found, reason = (match["path"], match["reason"]) if match else (None, str(error))
    return WireError(path + (found or "$")[1:], reason)


def _decode(
    decode: Callable[[bytes | str | msgspec.Raw], T], data: bytes | str | msgspec.Raw, path: str
) -> T:
    try:
        return decode(data)
    except UNREADABLE as error:
        raise wire_error(error, path) from None


def decode_head(data: bytes | str, path: str = "$") -> FrameHead:
    """
    Read only what every frame has, also of types that are not known here.

    Raises:
        WireError: not JSON, not an object, without a `type`, or a key of the wrong type.
    """
    return _decode(_head_decoder.decode, data, path)


def decode_frame(data: bytes | str, path: str = "$") -> Frame | Other:
    """
    Decode one frame; a type that is not known here becomes `Other`.

    Raises:
        WireError: not JSON, not a frame, or a field that does not fit, with the field's path.
    """
    try:
        frame: Frame = _frame_decoder.decode(data)
    except UNREADABLE as error:
        head = decode_head(data, path)
        if head.type not in FRAME_TYPES:
            return Other(head.type)
        raise wire_error(error, path) from None
    return frame


def read_frame(frame: Frame | Other, path: str = "$") -> WireEvent:
    """
    Turn a decoded frame into its event: strings become fixed-point numbers, one encoding is chosen.

    Raises:
        WireError: a number or a combination of fields that cannot be read; never a silent 0.
    """
    if type(frame) is DeltaFrame:
        return _read_delta(frame, path)
    if type(frame) is Other:
        return frame
    reader = _READERS.get(type(frame))
    return Other(str(frame.__struct_config__.tag)) if reader is None else reader(frame, path)


def _read_delta(frame: DeltaFrame, path: str) -> BookDelta:
    message = frame.msg
    ticker = message.market_ticker
    # The tables first: a path is only made for an error, and costs as much as a whole delta.
    price = known_level_price(message.price_dollars)
    change = known_size_change(message.delta_fp)
    ts_ms = message.ts_ms
    if price is None or change is None or ts_ms is None or not ticker:
        return _judge_delta(message, f"{path}.msg")
    return BookDelta(ticker, message.side, price, change, ts_ms * 1_000)


def _judge_delta(message: DeltaMessage, at: str) -> BookDelta:
    if not message.market_ticker:
        raise WireError(f"{at}.market_ticker", "the ticker is empty")
    if message.price_dollars is not UNSET:
        price = parse_level_price(message.price_dollars, f"{at}.price_dollars")
    elif message.price is not UNSET:
        price = read_level_cents(message.price, f"{at}.price")
    else:
        raise WireError(at, "neither price_dollars nor price is there: the format is not known")
    if message.delta_fp is not UNSET:
        change = parse_size_change(message.delta_fp, f"{at}.delta_fp")
    elif message.delta is not UNSET:
        change = read_signed_contracts(message.delta, f"{at}.delta")
    else:
        raise WireError(at, "neither delta_fp nor delta is there: the format is not known")
    exchange_us = _exchange_us(message.ts_ms, message.ts, f"{at}.ts")
    return BookDelta(message.market_ticker, message.side, price, change, exchange_us)


def _read_snapshot(frame: SnapshotFrame, path: str) -> BookSnapshot:
    message, at = frame.msg, f"{path}.msg"
    if not message.market_ticker:
        raise WireError(f"{at}.market_ticker", "the ticker is empty")
    # The newest encoding that either side carries is the frame's encoding: a side whose key
    # is missing in it is empty, and is not looked for in an older one.
    if message.yes_dollars_fp is not UNSET or message.no_dollars_fp is not UNSET:
        yes = read_fixed_levels(message.yes_dollars_fp, f"{at}.yes_dollars_fp")
        no = read_fixed_levels(message.no_dollars_fp, f"{at}.no_dollars_fp")
    elif message.yes_dollars is not UNSET or message.no_dollars is not UNSET:
        yes = read_levels(message.yes_dollars, f"{at}.yes_dollars", parse_level_price, read_contracts)
        no = read_levels(message.no_dollars, f"{at}.no_dollars", parse_level_price, read_contracts)
    else:
        yes = read_levels(message.yes, f"{at}.yes", read_level_cents, read_contracts)
        no = read_levels(message.no, f"{at}.no", read_level_cents, read_contracts)
    return BookSnapshot(message.market_ticker, yes, no, _milliseconds(frame.sending_ts_ms))


def _read_ticker(frame: TickerFrame, path: str) -> Ticker:
    message, at = frame.msg, f"{path}.msg"
    if not message.market_ticker:
        raise WireError(f"{at}.market_ticker", "the ticker is empty")
    last_price: int | None = None
    if message.price_dollars is not UNSET:
        # An empty string means never traded (seen live in November 2025); so does a size of 0.
        last_price = (
            parse_price(message.price_dollars, f"{at}.price_dollars") if message.price_dollars else None
        )
    elif message.price is not UNSET:
        last_price = read_cents(message.price, f"{at}.price")
    return Ticker(
        message.market_ticker,
        last_price or None,
        _optional_size(message.last_trade_size_fp, f"{at}.last_trade_size_fp") or None,
        _optional_size(message.volume_fp, f"{at}.volume_fp", message.volume),
        _optional_size(message.open_interest_fp, f"{at}.open_interest_fp", message.open_interest),
        message.dollar_volume,
        message.dollar_open_interest,
        _exchange_us(message.ts_ms, message.ts, f"{at}.ts"),
    )


def _read_trade(frame: TradeFrame, path: str) -> Trade:
    at = f"{path}.msg"
    message = _decode(_trade_decoder.decode, frame.msg, at)
    if not message.market_ticker:
        raise WireError(f"{at}.market_ticker", "the ticker is empty")
    if message.yes_price_dollars is not UNSET:
        yes_price = parse_price(message.yes_price_dollars, f"{at}.yes_price_dollars")
    elif message.yes_price is not UNSET:
        yes_price = read_cents(message.yes_price, f"{at}.yes_price")
    else:
        raise WireError(at, "neither yes_price_dollars nor yes_price is there: the format is not known")
    no_price = ONE_DOLLAR - yes_price
    if message.no_price_dollars is not UNSET:
        no_price = parse_price(message.no_price_dollars, f"{at}.no_price_dollars")
    elif message.no_price is not UNSET:
        no_price = read_cents(message.no_price, f"{at}.no_price")
    if message.count_fp is not UNSET:
        size = parse_size(message.count_fp, f"{at}.count_fp")
    elif message.count is not UNSET:
        size = read_contracts(message.count, f"{at}.count")
    else:
        raise WireError(at, "neither count_fp nor count is there: the format is not known")
    return Trade(
        message.market_ticker,
        message.trade_id,
        yes_price,
        size,
        read_taker(message.taker_outcome_side, message.taker_side, message.taker_book_side),
        message.is_block_trade,
        yes_price + no_price == ONE_DOLLAR,
        _exchange_us(message.ts_ms, message.ts, f"{at}.ts"),
        _public_body(frame.msg, at),
    )


def _read_lifecycle(frame: LifecycleFrame | ComboLifecycleFrame, path: str) -> WireEvent:
    at = f"{path}.msg"
    message = _decode(_lifecycle_decoder.decode, frame.msg, at)
    if not message.market_ticker:
        raise WireError(f"{at}.market_ticker", "the ticker is empty")
    channel = str(frame.__struct_config__.tag)
    if message.event_type not in _LIFECYCLE_EVENTS:
        return Other(f"{channel}/{message.event_type}")
    ranges = message.price_ranges
    value = message.settlement_value
    extra = message.additional_metadata
    happened_s = message.determination_ts or message.settled_ts
    return MarketLifecycle(
        message.market_ticker,
        message.event_type,  # type: ignore[arg-type]  # checked just above
        channel,  # type: ignore[arg-type]  # the tag of either frame type
        _seconds(message.open_ts),
        _seconds(message.close_ts),
        message.result,
        None if value is None else parse_price(value, f"{at}.settlement_value"),
        extra.event_ticker if extra else None,
        extra.title if extra else None,
        None if ranges is None else read_price_ranges(ranges, f"{at}.price_ranges"),
        _milliseconds(frame.sending_ts_ms) or _seconds(happened_s),
        read_body(frame.msg, at),
    )


def _read_event(frame: EventLifecycleFrame | EventFeeFrame, path: str) -> EventFrame:
    at = f"{path}.msg"
    message = _decode(_event_decoder.decode, frame.msg, at)
    kind: Any = str(frame.__struct_config__.tag)
    return EventFrame(
        message.event_ticker, kind, _milliseconds(frame.sending_ts_ms), read_body(frame.msg, at)
    )


def _read_description(frame: MarketFrame, path: str) -> MarketDescription:
    message, at = frame.msg, f"{path}.msg"
    if not message.market_ticker:
        raise WireError(f"{at}.market_ticker", "the ticker is empty")
    ranges = message.price_ranges
    return MarketDescription(
        message.market_ticker,
        message.status,
        _seconds(message.open_ts),
        _seconds(message.close_ts),
        message.event_ticker,
        message.title,
        None if ranges is None else read_price_ranges(ranges, f"{at}.price_ranges"),
    )


def market_frame(market: MarketDescription) -> bytes:
    """Return the frame of what is known of a market; times in it are whole seconds."""
    ranges = market.price_ranges
    message = MarketMessage(
        market.ticker,
        market.status,
        None if market.open_us is None else market.open_us // _SECOND_US,
        None if market.close_us is None else market.close_us // _SECOND_US,
        market.event_ticker,
        market.title,
        None if ranges is None else [_band_message(band) for band in ranges],
    )
    return _encoder.encode(MarketFrame(msg=message))


def _band_message(band: PriceRange) -> PriceRangeMessage:
    return PriceRangeMessage(format_price(band.start), format_price(band.end), format_price(band.step))


def _read_notice(frame: NoticeFrame, path: str) -> GathererNotice | Other:
    message, at = frame.msg, f"{path}.msg"
    kind = _NOTICES.get(message.notice)
    if kind is None:
        # A gatherer of tomorrow may have more to say; what it is called is counted.
        return Other(f"gatherer_notice/{message.notice}"[:_LONGEST_KIND])
    if kind == "alive" and not message.interval_ms:
        raise WireError(f"{at}.interval_ms", "a sign of life must say when the next one is due")
    return GathererNotice(kind, message.reason, message.detail, message.interval_ms, message.market_ticker)


def notice_frame(
    notice: NoticeKind,
    *,
    reason: str = "",
    detail: str = "",
    interval_ms: int | None = None,
    market_ticker: str = "",
) -> bytes:
    """
    Return the frame of a gatherer's notice; `GathererNotice` says what each means.

    Args:
        notice: alive, stale or ended.
        reason: one of a few words, such as ``gap``.
        detail: what was found, for people.
        interval_ms: when the next `alive` is due; for that kind only.
        market_ticker: the only market concerned, or empty.
    """
    message = NoticeMessage(notice, reason, detail, interval_ms, market_ticker)
    return _encoder.encode(NoticeFrame(msg=message))


_READERS: Final[dict[type, Callable[[Any, str], WireEvent]]] = {
    SnapshotFrame: _read_snapshot,
    TickerFrame: _read_ticker,
    TradeFrame: _read_trade,
    LifecycleFrame: _read_lifecycle,
    ComboLifecycleFrame: _read_lifecycle,
    EventLifecycleFrame: _read_event,
    EventFeeFrame: _read_event,
    MarketFrame: _read_description,
    NoticeFrame: _read_notice,
}

_LIFECYCLE_EVENTS: Final = frozenset(get_args(LifecycleEvent))
_NOTICES: Final[dict[str, NoticeKind]] = {kind: kind for kind in get_args(NoticeKind)}
_LONGEST_KIND: Final = 100
_SECOND_US: Final = 1_000_000

# What the exchange tells the owner of an order only; it must not reach other subscribers.
_OWNER_FIELDS: Final = frozenset({"client_order_id", "subaccount", "last_update_reason"})


def _public_body(body: msgspec.Raw, path: str) -> bytes:
    raw = read_body(body, path)
    fields = _object_decoder.decode(raw)
    if _OWNER_FIELDS.isdisjoint(fields):
        return raw
    return msgspec.json.encode({name: value for name, value in fields.items() if name not in _OWNER_FIELDS})


def _optional_size(text: str | UnsetType, path: str, contracts: int | UnsetType = UNSET) -> int | None:
    if text is not UNSET:
        return parse_size(text, path)
    if contracts is not UNSET:
        return read_contracts(contracts, path.removesuffix("_fp"))
    return None


def _milliseconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds * 1_000


def _seconds(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * 1_000_000


def _exchange_us(ts_ms: int | None, ts: str | int | None, path: str) -> int | None:
    """Choose the preferred `ts_ms`, else `ts`: RFC 3339 text on deltas, whole seconds elsewhere."""
    if ts_ms is not None:
        return ts_ms * 1_000
    if ts is None:
        return None
    if isinstance(ts, int):
        return ts * 1_000_000
    return parse_time(ts, path)
