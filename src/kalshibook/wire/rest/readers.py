"""Kalshi's REST answers: decoded, and read into values of fixed-point numbers."""

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from kalshibook.errors import WireError
from kalshibook.numbers import ONE_DOLLAR, parse_level_price, parse_price, parse_size
from kalshibook.wire.events import BookSnapshot, PriceRange, Trade
from kalshibook.wire.fields import (
    read_body,
    read_contracts,
    read_fixed_levels,
    read_level_cents,
    read_levels,
    read_price_ranges,
    read_taker,
)
from kalshibook.wire.frames import UNREADABLE
from kalshibook.wire.rest.messages import (
    BookMessage,
    BooksMessage,
    EventMessage,
    ListingMessage,
    ListingsMessage,
    ListMessage,
    MarketMessage,
    SeriesMessage,
    TradeMessage,
)
from kalshibook.wire.rest.pieces import decode_answer, read_optional_time
from kalshibook.wire.rest.values import (
    COMBO_PREFIX,
    Event,
    Listing,
    Market,
    Page,
    Series,
)

__all__ = [
    "read_event",
    "read_events",
    "read_listing",
    "read_listings",
    "read_market",
    "read_markets",
    "read_orderbook",
    "read_orderbooks",
    "read_series",
    "read_trades",
]

T = TypeVar("T")

_listings: Final = msgspec.json.Decoder(ListingsMessage)
_listing: Final = msgspec.json.Decoder(ListingMessage)
_list: Final = msgspec.json.Decoder(ListMessage)
_market: Final = msgspec.json.Decoder(MarketMessage)
_event: Final = msgspec.json.Decoder(EventMessage)
_series: Final = msgspec.json.Decoder(SeriesMessage)
_trade: Final = msgspec.json.Decoder(TradeMessage)
_book: Final = msgspec.json.Decoder(BookMessage)
_books: Final = msgspec.json.Decoder(BooksMessage)


def read_listings(data: bytes) -> Page[Listing]:
    """
    Read a page of markets, as far as a registry needs them.

    Raises:
        WireError: it is no page of markets at all.
    """
    try:
        page = _listings.decode(data)
    except UNREADABLE:
        # One market that does not fit spoils the whole answer: now each is read by itself.
        return _page(
            data, "markets", lambda item, path: _read_listing(decode_answer(_listing, item, path), path)
        )
    items: list[Listing] = []
    rejected: list[WireError] = []
    for index, message in enumerate(page.markets):
        try:
            items.append(_read_listing(message, f"$.markets[{index}]"))
        except WireError as error:
            rejected.append(error)
    return Page(tuple(items), page.cursor or "", tuple(rejected))


def read_listing(data: bytes) -> Listing:
    """
    Read one market, as far as a registry needs it.

    Raises:
        WireError: it cannot be read.
    """
    item = decode_answer(_list, data, "$").market
    if item is UNSET:
        raise WireError("$.market", "there is no market in the answer")
    return _read_listing(decode_answer(_listing, item, "$.market"), "$.market")


def read_markets(data: bytes) -> Page[Market]:
    """
    Read a page of markets.

    Raises:
        WireError: it is no page of markets at all.
    """
    return _page(data, "markets", lambda item, path: _read_market(decode_answer(_market, item, path), path))


def read_market(data: bytes) -> Market:
    """
    Read one market.

    Raises:
        WireError: it cannot be read.
    """
    item = decode_answer(_list, data, "$").market
    if item is UNSET:
        raise WireError("$.market", "there is no market in the answer")
    return _read_market(decode_answer(_market, item, "$.market"), "$.market")


def read_events(data: bytes) -> Page[Event]:
    """
    Read a page of events.

    Raises:
        WireError: it is no page of events at all.
    """
    return _page(data, "events", lambda item, path: _read_event(decode_answer(_event, item, path), path))


def read_event(data: bytes) -> Event:
    """
    Read one event; its markets may stand in it or beside it.

    Raises:
        WireError: it cannot be read.
    """
    answer = decode_answer(_list, data, "$")
    if answer.event is UNSET:
        raise WireError("$.event", "there is no event in the answer")
    event = _read_event(decode_answer(_event, answer.event, "$.event"), "$.event")
    if event.markets is None and answer.markets is not UNSET:
        page = read_markets(data)
        if page.rejected:
            raise page.rejected[0]
        event = msgspec.structs.replace(event, markets=page.items)
    return event


def read_series(data: bytes) -> Page[Series]:
    """
    Read a list of series, which is not paged today.

    Raises:
        WireError: it is no list of series at all.
    """
    return _page(data, "series", lambda item, path: _read_series(decode_answer(_series, item, path), path))


def read_trades(data: bytes) -> Page[Trade]:
    """
    Read a page of trades, as the values that the socket's trades become; `body` is REST's object.

    Raises:
        WireError: it is no page of trades at all.
    """
    return _page(data, "trades", _read_trade)


def read_orderbook(data: bytes, ticker: str) -> BookSnapshot:
    """
    Read one market's book; it has no time of its own, and the answer does not name the market.

    Raises:
        WireError: it cannot be read.
    """
    return _read_book(decode_answer(_book, data, "$"), ticker, "$")


def read_orderbooks(data: bytes) -> Page[BookSnapshot]:
    """
    Read several books; a market that was asked for may be missing.

    Raises:
        WireError: it is no list of books at all.
    """
    raws = decode_answer(_books, data, "$").orderbooks

    def read(item: msgspec.Raw, path: str) -> BookSnapshot:
        message = decode_answer(_book, item, path)
        return _read_book(message, message.ticker, path)

    items, rejected = _each(raws, "$.orderbooks", read)
    return Page(items, "", rejected)


def _page(data: bytes, key: str, read: Callable[[msgspec.Raw, str], T]) -> Page[T]:
    answer = decode_answer(_list, data, "$")
    raws = getattr(answer, key)
    if raws is UNSET:
        raise WireError(f"$.{key}", "there is no such list in the answer")
    items, rejected = _each(raws or (), f"$.{key}", read)
    return Page(items, answer.cursor or "", rejected)


def _each(
    raws: Iterable[msgspec.Raw], path: str, read: Callable[[msgspec.Raw, str], T]
) -> tuple[tuple[T, ...], tuple[WireError, ...]]:
    items: list[T] = []
    rejected: list[WireError] = []
    for index, raw in enumerate(raws):
        try:
            items.append(read(raw, f"{path}[{index}]"))
        except WireError as error:
            rejected.append(error)
    return tuple(items), tuple(rejected)


def _read_listing(message: ListingMessage, path: str) -> Listing:
    if not message.ticker:
        raise WireError(f"{path}.ticker", "the ticker is empty")
    return Listing(
        message.ticker,
        message.event_ticker,
        message.status,
        read_optional_time(message.open_time, f"{path}.open_time"),
        read_optional_time(message.close_time, f"{path}.close_time"),
        _is_combo(message.ticker, message.mve_collection_ticker),
        message.title or "",
        _ranges(message, path),
    )


def _is_combo(ticker: str, collection: str | None) -> bool:
    return bool(collection) or ticker.startswith(COMBO_PREFIX)


def _read_market(message: MarketMessage, path: str) -> Market:
    if not message.ticker:
        raise WireError(f"{path}.ticker", "the ticker is empty")

    def quote(name: str) -> int | None:
        return _quote(getattr(message, name), f"{path}.{name}")

    def size(name: str) -> int | None:
        return _size(getattr(message, name), f"{path}.{name}")

    def time(name: str) -> int | None:
        return read_optional_time(getattr(message, name), f"{path}.{name}")

    yes_bid, yes_ask = quote("yes_bid_dollars"), quote("yes_ask_dollars")
    return Market(
        ticker=message.ticker,
        event_ticker=message.event_ticker,
        market_type=message.market_type or "",
        status=message.status,
        title=message.title or "",
        subtitle=message.subtitle or "",
        yes_sub_title=message.yes_sub_title or "",
        no_sub_title=message.no_sub_title or "",
        created_us=time("created_time"),
        updated_us=time("updated_time"),
        open_us=time("open_time"),
        close_us=time("close_time"),
        expected_expiration_us=time("expected_expiration_time"),
        latest_expiration_us=time("latest_expiration_time"),
        occurrence_us=time("occurrence_datetime"),
        fee_waiver_expiration_us=time("fee_waiver_expiration_time"),
        settlement_us=time("settlement_ts"),
        settlement_timer_s=message.settlement_timer_seconds,
        yes_bid=yes_bid,
        yes_bid_size=None if yes_bid is None else size("yes_bid_size_fp"),
        yes_ask=yes_ask,
        yes_ask_size=None if yes_ask is None else size("yes_ask_size_fp"),
        no_bid=quote("no_bid_dollars"),
        no_ask=quote("no_ask_dollars"),
        last_price=quote("last_price_dollars"),
        previous_yes_bid=quote("previous_yes_bid_dollars"),
        previous_yes_ask=quote("previous_yes_ask_dollars"),
        previous_price=quote("previous_price_dollars"),
        volume=size("volume_fp"),
        volume_24h=size("volume_24h_fp"),
        open_interest=size("open_interest_fp"),
        notional=_dollars(message.notional_value_dollars, f"{path}.notional_value_dollars"),
        result=message.result or "",
        settlement_value=_dollars(message.settlement_value_dollars, f"{path}.settlement_value_dollars"),
        settlement_bounds_type=message.settlement_bounds_type or "",
        settlement_floor=_dollars(message.settlement_floor_dollars, f"{path}.settlement_floor_dollars"),
        expiration_value=message.expiration_value or "",
        can_close_early=message.can_close_early,
        early_close_condition=message.early_close_condition or "",
        strike_type=message.strike_type or "",
        floor_strike=_number(message.floor_strike, f"{path}.floor_strike"),
        cap_strike=_number(message.cap_strike, f"{path}.cap_strike"),
        functional_strike=message.functional_strike,
        custom_strike=_json(message.custom_strike),
        rules_primary=message.rules_primary or "",
        rules_secondary=message.rules_secondary or "",
        mve_collection_ticker=message.mve_collection_ticker or "",
        mve_selected_legs=_json(message.mve_selected_legs),
        primary_participant_key=message.primary_participant_key or "",
        price_level_structure=message.price_level_structure or "",
        price_ranges=_ranges(message, path),
        is_provisional=message.is_provisional,
        exchange_index=message.exchange_index,
        is_combo=_is_combo(message.ticker, message.mve_collection_ticker),
    )


def _ranges(message: MarketMessage | ListingMessage, path: str) -> tuple[PriceRange, ...] | None:
    if message.price_ranges is None:
        return None
    return read_price_ranges(message.price_ranges, f"{path}.price_ranges")


def _read_event(message: EventMessage, path: str) -> Event:
    markets = None
    if message.markets is not None:
        markets = tuple(
            _read_market(one, f"{path}.markets[{index}]") for index, one in enumerate(message.markets)
        )
    return Event(
        event_ticker=message.event_ticker,
        series_ticker=message.series_ticker,
        title=message.title or "",
        sub_title=message.sub_title or "",
        category=message.category or "",
        collateral_return_type=message.collateral_return_type or "",
        mutually_exclusive=message.mutually_exclusive,
        strike_us=read_optional_time(message.strike_date, f"{path}.strike_date"),
        strike_period=message.strike_period or "",
        fee_type_override=message.fee_type_override,
        fee_multiplier_override=_number(message.fee_multiplier_override, f"{path}.fee_multiplier_override"),
        settlement_sources=_json(message.settlement_sources),
        product_metadata=_json(message.product_metadata),
        updated_us=read_optional_time(message.last_updated_ts, f"{path}.last_updated_ts"),
        exchange_index=message.exchange_index,
        markets=markets,
    )


def _read_series(message: SeriesMessage, path: str) -> Series:
    return Series(
        ticker=message.ticker,
        title=message.title or "",
        frequency=message.frequency or "",
        category=message.category or "",
        categories=tuple(message.categories or ()),
        tags=tuple(message.tags or ()),
        fee_type=message.fee_type or "",
        fee_multiplier=_number(message.fee_multiplier, f"{path}.fee_multiplier"),
        contract_url=message.contract_url or "",
        contract_terms_url=message.contract_terms_url or "",
        settlement_sources=_json(message.settlement_sources),
        product_metadata=_json(message.product_metadata),
        additional_prohibitions=tuple(message.additional_prohibitions or ()),
        volume=_size(message.volume_fp, f"{path}.volume_fp"),
        updated_us=read_optional_time(message.last_updated_ts, f"{path}.last_updated_ts"),
        exchange_index=message.exchange_index,
    )


def _read_trade(item: msgspec.Raw, path: str) -> Trade:
    message = decode_answer(_trade, item, path)
    if not message.ticker:
        raise WireError(f"{path}.ticker", "the ticker is empty")
    yes_price = parse_price(message.yes_price_dollars, f"{path}.yes_price_dollars")
    no_price = ONE_DOLLAR - yes_price
    if message.no_price_dollars is not None:
        no_price = parse_price(message.no_price_dollars, f"{path}.no_price_dollars")
    return Trade(
        message.ticker,
        message.trade_id,
        yes_price,
        parse_size(message.count_fp, f"{path}.count_fp"),
        read_taker(message.taker_outcome_side, message.taker_side, message.taker_book_side),
        message.is_block_trade,
        yes_price + no_price == ONE_DOLLAR,
        read_optional_time(message.created_time, f"{path}.created_time"),
        read_body(item, path),
    )


def _read_book(message: BookMessage, ticker: str, path: str) -> BookSnapshot:
    if not ticker:
        raise WireError(f"{path}.ticker", "the ticker is empty")
    if message.orderbook_fp is not UNSET:
        sides, at = message.orderbook_fp, f"{path}.orderbook_fp"
        yes = read_fixed_levels(sides.yes_dollars, f"{at}.yes_dollars")
        no = read_fixed_levels(sides.no_dollars, f"{at}.no_dollars")
    elif message.orderbook is not UNSET:
        old, at = message.orderbook, f"{path}.orderbook"
        if old.yes_dollars is not UNSET or old.no_dollars is not UNSET:
            yes = read_levels(old.yes_dollars, f"{at}.yes_dollars", parse_level_price, read_contracts)
            no = read_levels(old.no_dollars, f"{at}.no_dollars", parse_level_price, read_contracts)
        else:
            yes = read_levels(old.yes, f"{at}.yes", read_level_cents, read_contracts)
            no = read_levels(old.no, f"{at}.no", read_level_cents, read_contracts)
    else:
        # Else a change of format would look like books that are empty.
        raise WireError(path, "neither orderbook_fp nor orderbook is there: the format is not known")
    return BookSnapshot(ticker, yes, no, None)


def _quote(text: str | None, path: str) -> int | None:
    """Read a price at which something rests or traded: the ends of the scale stand for nothing there."""
    if not text:
        return None
    price = parse_price(text, path)
    return price if 0 < price < ONE_DOLLAR else None


def _dollars(text: str | None, path: str) -> int | None:
    return parse_price(text, path) if text else None


def _size(text: str | None, path: str) -> int | None:
    return parse_size(text, path) if text else None


def _json(raw: msgspec.Raw | UnsetType) -> bytes | None:
    if raw is UNSET:
        return None
    data = bytes(raw)
    return None if data == b"null" else data


def _number(raw: msgspec.Raw | UnsetType, path: str) -> str | None:
    data = _json(raw)
    if data is None:
        return None
    text = data.decode("ascii", "replace").strip('"')
    if not text:
        return None
    if text[0] not in "-0123456789":
        raise WireError(path, f"{text!r} is not a number")
    return text
