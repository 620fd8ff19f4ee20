"""
What a client says to the exchange, and what the exchange answers. Pure.

Shapes: Kalshi WebSocket reference, autumn 2026. Which scale NO levels are on is not said by any
frame, and the default is announced to change, so it is pinned with every subscription.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Final, Literal

import msgspec

__all__ = [
    "Code",
    "ErrorBody",
    "Head",
    "add_markets",
    "decode_error",
    "decode_head",
    "decode_subscribed",
    "decode_ticker",
    "decode_tickers",
    "delete_markets",
    "get_snapshot",
    "list_subscriptions",
    "subscribe",
]


class Code(IntEnum):
    """Errors of the exchange that are acted on; of the others only the number is known here."""

    UNKNOWN_SID = 7
    UNKNOWN_CHANNEL = 8
    AUTHENTICATION_REQUIRED = 9
    CHANNEL_ERROR = 10
    """Terminal: the subscription is over."""
    INVALID_PARAMETER = 11
    UNSUPPORTED_ACTION = 13
    MARKET_REQUIRED = 14
    COMMAND_TIMEOUT = 18
    BUFFER_OVERFLOW = 25
    """Terminal: we read too slowly, or the burst was too large."""
    MARKET_LIMIT = 26
    TOO_MANY_REQUESTS = 27


class Head(msgspec.Struct, frozen=True, gc=False):
    """What is read of every frame."""

    type: str
    sid: int | None = None
    seq: int | None = None
    id: int | None = None
    msg: msgspec.Raw = msgspec.Raw(b"{}")


class ErrorBody(msgspec.Struct, frozen=True, gc=False):
    """`msg` of an `error`."""

    code: int = 0
    msg: str = ""
    market_ticker: str | None = None
    market_tickers: list[str] | None = None

    @property
    def tickers(self) -> tuple[str, ...]:
        """Return the markets that it names."""
        named = tuple(self.market_tickers or ())
        return named or ((self.market_ticker,) if self.market_ticker else ())


class _Subscribed(msgspec.Struct, frozen=True, gc=False):
    channel: str
    sid: int


class _Ok(msgspec.Struct, frozen=True, gc=False):
    market_tickers: list[str] | None = None


class _Subject(msgspec.Struct, frozen=True, gc=False):
    market_ticker: str


_head: Final = msgspec.json.Decoder(Head)
_error: Final = msgspec.json.Decoder(ErrorBody)
_subscribed: Final = msgspec.json.Decoder(_Subscribed)
_ok: Final = msgspec.json.Decoder(_Ok)
_subject: Final = msgspec.json.Decoder(_Subject)

decode_head: Final = _head.decode
"""Read the head of a frame; raises `msgspec.DecodeError` for what is none."""


def decode_error(head: Head) -> ErrorBody:
    """Read an `error`; one that cannot be read has code 0."""
    try:
        return _error.decode(head.msg)
    except (msgspec.DecodeError, UnicodeError):
        return ErrorBody(msg="unreadable")


def decode_subscribed(head: Head) -> tuple[str, int] | None:
    """Return channel and sid of a `subscribed`, or None if it has none."""
    try:
        body = _subscribed.decode(head.msg)
    except (msgspec.DecodeError, UnicodeError):
        return None
    return body.channel, body.sid


def decode_tickers(head: Head) -> list[str] | None:
    """Return the full market list of an `ok`, or None if it has none."""
    try:
        return _ok.decode(head.msg).market_tickers
    except (msgspec.DecodeError, UnicodeError):
        return None  # the list of subscriptions, which is an array


def decode_ticker(head: Head) -> str | None:
    """Return the market of a frame, or None."""
    try:
        return _subject.decode(head.msg).market_ticker
    except (msgspec.DecodeError, UnicodeError):
        return None


def subscribe(number: int, channel: str, tickers: Iterable[str] | None = None) -> bytes:
    """Subscribe to a channel: to these markets, or to all."""
    params: dict[str, Any] = {"channels": [channel]}
    if tickers is not None:
        params["market_tickers"] = list(tickers)
    if channel == "orderbook_delta":
        params["use_yes_price"] = False
    return _command(number, "subscribe", params)


def add_markets(number: int, sid: int, tickers: Iterable[str]) -> bytes:
    """Add markets to a subscription; each gets a snapshot."""
    return _update(number, sid, "add_markets", tickers)


def delete_markets(number: int, sid: int, tickers: Iterable[str]) -> bytes:
    """Take markets from a subscription."""
    return _update(number, sid, "delete_markets", tickers)


def get_snapshot(number: int, sid: int, tickers: Iterable[str]) -> bytes:
    """Ask for snapshots of markets that are subscribed to."""
    return _update(number, sid, "get_snapshot", tickers)


def list_subscriptions(number: int) -> bytes:
    """Ask for the list of subscriptions: the cheapest thing that is answered."""
    return _command(number, "list_subscriptions", None)


def _update(
    number: int,
    sid: int,
    action: Literal["add_markets", "delete_markets", "get_snapshot"],
    tickers: Iterable[str],
) -> bytes:
    params = {"action": action, "sid": sid, "market_tickers": list(tickers)}
    return _command(number, "update_subscription", params)


def _command(number: int, name: str, params: dict[str, Any] | None) -> bytes:
    command: dict[str, Any] = {"id": number, "cmd": name}
    if params is not None:
        command["params"] = params
    return msgspec.json.encode(command)
