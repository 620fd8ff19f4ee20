"""The channels, and the protocol's errors. Names and codes: Kalshi WebSocket reference, autumn 2026."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import msgspec

__all__ = ["CHANNELS", "DEFAULT_CHANNEL", "PRIVATE_CHANNELS", "Channel", "Code", "Refused"]


class Channel(msgspec.Struct, frozen=True):
    """What a channel is, as far as commands are concerned."""

    name: str
    sequenced: bool = True
    """Whether its frames carry `seq`; Kalshi's `ticker` does not."""
    takes_markets: bool = True
    """Whether it can be limited to markets; lifecycle channels cannot."""
    needs_markets: bool = False
    """Whether it must be: there is no firehose for depth."""
    takes_market_ids: bool = False
    """Whether Kalshi accepts `market_id(s)` on it."""
    tells_readiness: bool = False
    """Whether its frames can say that the store is behind its feed; Kalshi's have no word for it."""


CHANNELS: Final = {
    channel.name: channel
    for channel in (
        Channel("orderbook_delta", needs_markets=True),
        Channel("top_of_book", tells_readiness=True),
        Channel("ticker", sequenced=False, takes_market_ids=True),
        Channel("trade"),
        Channel("market_lifecycle_v2", takes_markets=False),
        Channel("multivariate_market_lifecycle", takes_markets=False),
    )
}
"""All that is served: Kalshi's public channels and our own `top_of_book`."""

DEFAULT_CHANNEL: Final = "top_of_book"
"""What a subscription without `channels` gets."""

PRIVATE_CHANNELS: Final = frozenset(
    {
        "fill",
        "market_positions",
        "user_orders",
        "communications",
        "order_group_updates",
        "cfbenchmarks_value",
        "cfbenchmarks_value_5hz",
        "pyth_value",
    }
)
"""Kalshi's other channels: nobody is given access to them here."""


class Code(IntEnum):
    """Codes of `error` frames; clients branch on the number, the text is for people."""

    UNREADABLE = 1
    PARAMS_REQUIRED = 2
    CHANNELS_REQUIRED = 3
    SIDS_REQUIRED = 4
    UNKNOWN_COMMAND = 5
    UNKNOWN_SID = 7
    UNKNOWN_CHANNEL = 8
    ACCESS = 9
    CHANNEL_ERROR = 10
    INVALID_PARAMETER = 11
    ONE_SID_REQUIRED = 12
    UNSUPPORTED_ACTION = 13
    MARKET_REQUIRED = 14
    ACTION_REQUIRED = 15
    TIMEOUT = 18
    SHARD_FACTOR_NOT_POSITIVE = 19
    SHARD_FACTOR_REQUIRED = 20
    SHARD_KEY_OUT_OF_RANGE = 21
    SHARD_FACTOR_TOO_LARGE = 22
    OVERFLOW = 25
    MARKET_LIMIT = 26
    TOO_MANY_REQUESTS = 27

    @property
    def text(self) -> str:
        """Return what Kalshi writes beside the code."""
        return _TEXTS[self]


_TEXTS: Final = {
    Code.UNREADABLE: "Unable to process message",
    Code.PARAMS_REQUIRED: "Params required",
    Code.CHANNELS_REQUIRED: "Channels required",
    Code.SIDS_REQUIRED: "Subscription IDs required",
    Code.UNKNOWN_COMMAND: "Unknown command",
    Code.UNKNOWN_SID: "Unknown subscription ID",
    Code.UNKNOWN_CHANNEL: "Unknown channel name",
    Code.ACCESS: "Authentication required",
    Code.CHANNEL_ERROR: "Channel error",
    Code.INVALID_PARAMETER: "Invalid parameter",
    Code.ONE_SID_REQUIRED: "Exactly one subscription ID is required",
    Code.UNSUPPORTED_ACTION: "Unsupported action",
    Code.MARKET_REQUIRED: "Market Ticker required",
    Code.ACTION_REQUIRED: "Action required",
    Code.TIMEOUT: "Command timeout",
    Code.SHARD_FACTOR_NOT_POSITIVE: "shard_factor must be > 0",
    Code.SHARD_FACTOR_REQUIRED: "shard_factor required with shard_key",
    Code.SHARD_KEY_OUT_OF_RANGE: "shard_key out of range",
    Code.SHARD_FACTOR_TOO_LARGE: "shard_factor must be <= 100",
    Code.OVERFLOW: "Subscription buffer overflow",
    Code.MARKET_LIMIT: "Subscription market limit exceeded",
    Code.TOO_MANY_REQUESTS: "Too many requests",
}


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """
    A command is answered with an error; the connection lives on.

    Attributes:
        code: of the protocol's table.
        detail: what was found, added to the table's text; empty when the text says it all.
        tickers: the markets concerned, if only some of those named are.
        sid: the subscription that the error is scoped to, or None.
    """

    def __init__(
        self, code: Code, detail: str = "", *, tickers: Sequence[str] = (), sid: int | None = None
    ) -> None:
        super().__init__(f"{code.text}: {detail}" if detail else code.text)
        self.code = code
        self.detail = detail
        self.tickers = tickers
        self.sid = sid
