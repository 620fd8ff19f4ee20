"""
Client commands: from a message to a command that is known to be well-formed, or the protocol's error.

The checks run in this order (protocol reference, "evaluation order for bad commands"): JSON and
types (1), `cmd` (5), `params` (2), channels (3) or sids (4), channel name (8), shards (19 to 22),
access (9), number of sids (12); then, by `checked_action` and `checked_markets`, once the session
has found the subscription (7): action there (15) and fit for the channel (13), values (11), market
given (14). Limits (26, 27) are the session's. A command is refused whole or done whole.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from kalshibook.stream.channels import CHANNELS, DEFAULT_CHANNEL, PRIVATE_CHANNELS, Channel, Code, Refused

__all__ = [
    "Command",
    "ListSubscriptions",
    "MarketParams",
    "Markets",
    "Subscribe",
    "SubscribeParams",
    "Unsubscribe",
    "UnsubscribeParams",
    "Update",
    "UpdateParams",
    "checked_action",
    "checked_markets",
    "decode_command",
    "decode_id",
]

Int64: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Action: TypeAlias = Literal["add_markets", "delete_markets", "get_snapshot"]


class _Head(msgspec.Struct, frozen=True):
    id: Int64 | None = None
    cmd: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")


class _IdOnly(msgspec.Struct, frozen=True):
    id: Int64 | None = None


class MarketParams(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters that name markets, as they came."""

    market_ticker: str | None = None
    market_tickers: list[str] | None = None
    market_id: str | None = None
    market_ids: list[str] | None = None
    market_prefixes: list[str] | None = None
    """Our extension: all markets that begin so, also those created later."""
    send_initial_snapshot: bool | None = None


class SubscribeParams(MarketParams, frozen=True, kw_only=True):
    """Parameters of `subscribe`."""

    channels: list[str] | None | UnsetType = UNSET
    skip_ticker_ack: bool | None = None
    use_yes_price: bool | None = None
    shard_factor: Int64 | None = None
    shard_key: Int64 | None = None


class UpdateParams(MarketParams, frozen=True, kw_only=True):
    """Parameters of `update_subscription`."""

    sid: Int64 | None = None
    sids: list[Int64] | None = None
    action: str | None = None


class UnsubscribeParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `unsubscribe`."""

    sids: list[Int64] | None = None


class Markets(msgspec.Struct, frozen=True):
    """Markets named by a command: each ticker and prefix once, none of them empty."""

    tickers: tuple[str, ...]
    prefixes: tuple[str, ...]
    every: bool
    """Whether no market was named, which asks for all."""


ALL_MARKETS: Final = Markets((), (), True)


class Subscribe(msgspec.Struct, frozen=True):
    """`subscribe`, with at least one channel, each once, all of them served."""

    channels: tuple[Channel, ...]
    params: SubscribeParams


class Unsubscribe(msgspec.Struct, frozen=True):
    """`unsubscribe`, with at least one sid, each once."""

    sids: tuple[int, ...]


class Update(msgspec.Struct, frozen=True):
    """`update_subscription` of one sid."""

    sid: int
    params: UpdateParams


class ListSubscriptions(msgspec.Struct, frozen=True):
    """`list_subscriptions`."""


Command: TypeAlias = Subscribe | Unsubscribe | Update | ListSubscriptions

_heads = msgspec.json.Decoder(_Head)
_ids = msgspec.json.Decoder(_IdOnly)
_subscribe_params = msgspec.json.Decoder(SubscribeParams)
_unsubscribe_params = msgspec.json.Decoder(UnsubscribeParams)
_update_params = msgspec.json.Decoder(UpdateParams)

T = TypeVar("T")

# Whatever bytes arrive, these are all that decoding them can raise: malformed JSON and wrong
# types, bytes that are no UTF-8, a lone surrogate in text, and nesting deeper than the stack.
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)


def decode_id(message: str | bytes) -> int:
    """Read no more than a message's id; 0 when it has none that can be read."""
    try:
        return _ids.decode(message).id or 0
    except _UNREADABLE:
        return 0


def decode_command(
    message: str | bytes,
    *,
    channels: Mapping[str, Channel] = CHANNELS,
    default_channel: str | None = DEFAULT_CHANNEL,
) -> tuple[int, Command]:
    """
    Read a command and check what can be checked without knowing the session.

    Args:
        message: as received.
        channels: all that is served.
        default_channel: what a subscription without `channels` gets; None refuses it (3).

    Returns:
        Its id, 0 for none, and the command.

    Raises:
        Refused: with codes 1 to 5, 8, 9, 12, 19 to 22.
    """
    head = _decoded(_heads, message)
    return head.id or 0, _command(head, channels, default_channel)


def _command(head: _Head, channels: Mapping[str, Channel], default_channel: str | None) -> Command:
    if head.cmd == "list_subscriptions":
        return ListSubscriptions()
    if head.cmd == "subscribe":
        return _subscribe(_params(_subscribe_params, head.params), channels, default_channel)
    if head.cmd == "unsubscribe":
        sids = _params(_unsubscribe_params, head.params).sids
        if not sids:
            raise Refused(Code.SIDS_REQUIRED)
        return Unsubscribe(tuple(dict.fromkeys(sids)))
    if head.cmd == "update_subscription":
        return _update(_params(_update_params, head.params))
    raise Refused(Code.UNKNOWN_COMMAND, "cmd is missing" if head.cmd is None else "")


def _decoded(decoder: msgspec.json.Decoder[T], data: str | bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(data)
    except _UNREADABLE as error:
        # The reason quotes types and paths, never the message itself.
        raise Refused(Code.UNREADABLE, str(error) if isinstance(error, msgspec.DecodeError) else "") from None


def _params(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw) -> T:
    if bytes(raw) == b"null":
        raise Refused(Code.PARAMS_REQUIRED)
    return _decoded(decoder, raw)


def _subscribe(
    params: SubscribeParams, channels: Mapping[str, Channel], default_channel: str | None
) -> Subscribe:
    wanted = params.channels
    if wanted is UNSET:
        wanted = None if default_channel is None else [default_channel]
    names = tuple(dict.fromkeys(wanted or ()))
    if not names:
        raise Refused(Code.CHANNELS_REQUIRED)
    for name in names:
        if name not in channels and name not in PRIVATE_CHANNELS:
            raise Refused(Code.UNKNOWN_CHANNEL)
    if "communications" in names:
        _check_shards(params.shard_factor, params.shard_key)
    for name in names:
        if name in PRIVATE_CHANNELS:
            raise Refused(Code.ACCESS, f"{name} is not served here")
    return Subscribe(tuple(channels[name] for name in names), params)


def _check_shards(factor: int | None, key: int | None) -> None:
    if factor is None:
        if key is not None:
            raise Refused(Code.SHARD_FACTOR_REQUIRED)
    elif factor <= 0:
        raise Refused(Code.SHARD_FACTOR_NOT_POSITIVE)
    elif factor > 100:
        raise Refused(Code.SHARD_FACTOR_TOO_LARGE)
    elif key is not None and not 0 <= key < factor:
        raise Refused(Code.SHARD_KEY_OUT_OF_RANGE)


def _update(params: UpdateParams) -> Update:
    sids = [] if params.sids is None else params.sids
    if params.sid is not None:
        sids = [params.sid, *sids]
    if len(sids) != 1:
        raise Refused(Code.ONE_SID_REQUIRED)
    return Update(sids[0], params)


def checked_action(params: UpdateParams, channel: Channel) -> Action:
    """
    Return what `update_subscription` asks for.

    Raises:
        Refused: no action (15), or none that this channel knows (13).
    """
    if not params.action:
        raise Refused(Code.ACTION_REQUIRED)
    if channel.takes_markets and params.action in ("add_markets", "delete_markets"):
        return params.action  # type: ignore[return-value]  # just compared
    if channel.name == "orderbook_delta" and params.action == "get_snapshot":
        return "get_snapshot"
    raise Refused(Code.UNSUPPORTED_ACTION, f"on {channel.name}")


def checked_markets(
    params: MarketParams, channel: Channel, *, longest: int, action: Action | None = None
) -> Markets:
    """
    Return the markets that a command names for a channel.

    A channel that takes no markets gets all of them, whatever is named. Market ids are refused
    where Kalshi takes them: the feed does not carry them, and to read them as "all" would be worse.

    Args:
        params: of `subscribe` or `update_subscription`.
        channel: what they are for.
        longest: characters of a ticker or prefix.
        action: of `update_subscription`; with one, markets must be named.

    Raises:
        Refused: a value that cannot be (11), or markets missing (14).
    """
    if not channel.takes_markets:
        return ALL_MARKETS
    if params.market_ticker is not None and params.market_tickers is not None:
        raise Refused(Code.INVALID_PARAMETER, "market_ticker and market_tickers exclude each other")
    has_ids = params.market_id is not None or params.market_ids is not None
    tickers: Sequence[str] | None = params.market_tickers
    if params.market_ticker is not None and action != "get_snapshot":
        tickers = (params.market_ticker,)
    prefixes = None if action == "get_snapshot" else params.market_prefixes
    if has_ids and (tickers or prefixes or not channel.needs_markets):
        raise Refused(Code.INVALID_PARAMETER, "market ids are not known here, name tickers")
    for name in (*(tickers or ()), *(prefixes or ())):
        if not 0 < len(name) <= longest:
            raise Refused(Code.INVALID_PARAMETER, f"a ticker or prefix has 1 to {longest} characters")
    named = tickers is not None or prefixes is not None
    if not (tickers or prefixes) and (named or channel.needs_markets or action is not None):
        raise Refused(Code.MARKET_REQUIRED)
    return Markets(tuple(dict.fromkeys(tickers or ())), tuple(dict.fromkeys(prefixes or ())), not named)
