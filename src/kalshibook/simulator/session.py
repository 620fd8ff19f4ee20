"""
One connection to the simulated exchange: carries out commands, and queues frames in their order. Pure.

Unlike the server of `kalshibook.stream`, which conflates for slow readers, this is what the exchange
does: every change is a frame, each frame has its number from the moment it is made, and a
subscription whose frames pile up ends with error 25. Only snapshots wait to be made until there is
room: a market is told of from its snapshot on, so a subscription to ten thousand markets neither
overflows nor holds ten thousand encoded books.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Final, Protocol, final

import msgspec

from kalshibook.simulator.ledger import Fault, FaultLedger
from kalshibook.simulator.naming import ordinal_of
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.routing import Routing
from kalshibook.simulator.subscription import Subscription
from kalshibook.stream.channels import CHANNELS, Channel, Code, Refused
from kalshibook.stream.commands import (
    ListSubscriptions,
    MarketParams,
    Markets,
    Subscribe,
    Unsubscribe,
    Update,
    checked_action,
    checked_markets,
    decode_command,
    decode_id,
)
from kalshibook.stream.frames import frame_header

__all__ = ["EXCHANGE_CHANNELS", "Floor", "Order", "Session"]

EXCHANGE_CHANNELS: Final = {name: channel for name, channel in CHANNELS.items() if name != "top_of_book"}
"""What the exchange serves; `top_of_book` is our own."""

_POLICY_VIOLATION: Final = 1008
_OPENING_SNAPSHOT: Final = b'{"type":"orderbook_snapshot"'
_LEAST_SNAPSHOTS: Final = 4
_LONGEST_TICKER: Final = 200

_encode = msgspec.json.Encoder().encode


class Order(Enum):
    """What the session wants done with its connection, beyond writing frames."""

    CLOSE = "close"
    """Close it, with `Session.closing`."""
    CUT = "cut"
    """Cut it without a close frame."""
    FREEZE = "freeze"
    """Neither read nor write any more, and never close it."""


class Floor(Protocol):
    """What a session needs to know of the exchange."""

    options: SimulatorOptions
    ledger: FaultLedger
    depth: Routing[Subscription]
    tickers: Routing[Subscription]
    trades: Routing[Subscription]
    lifecycles: Routing[Subscription]
    combos: Routing[Subscription]

    @property
    def now_us(self) -> int:
        """The exchange's clock."""

    def is_listed(self, ticker: str) -> bool:
        """Tell whether there is such a market."""

    def ticker_at(self, ordinal: int) -> str | None:
        """Return the ticker of a market by its place in the lists."""

    def snapshot_tail(self, ticker: str, *, yes_scale: bool) -> bytes | None:
        """Write a book as it is now; None if there is no such market."""

    def ticker_tail(self, ticker: str) -> bytes | None:
        """Write a market's ticker message as it is now."""

    def refusal_of(self, session: "Session", tickers: Sequence[str]) -> Refused | None:
        """Take the refusal that this command shall get by way of a fault, if it shall."""


def _nobody() -> None:
    pass


@final
class Session:
    """
    The exchange's side of one connection.

    Feed it messages with `receive`; when `on_pending` is called, carry out `order`, or write what
    `take` returns until that is empty.
    """

    def __init__(self, floor: Floor, number: int, *, user: str = "", peer: str = "") -> None:
        self.number: Final = number
        """Of the connection."""
        self.user: Final = user
        self.peer: Final = peer
        self.on_pending: Callable[[], None] = _nobody
        """Called when there is something to take or to do after there was nothing."""
        self.order: Order | None = None
        self.closing = (1000, "")
        """Close code and reason, with `Order.CLOSE`."""
        self.stalled = False
        """Nothing is given out for the moment."""
        self.frames = 0
        """Frames given out."""
        self._floor = floor
        self._outbox: deque[tuple[bytes, Subscription | None, Sequence[Fault]]] = deque()
        self._size = 0
        self._loose_bytes = 0
        self._subscriptions: dict[int, Subscription] = {}
        self._by_channel: dict[str, Subscription] = {}
        self._last_sid = 0
        self._gone = False
        self._is_pending = False
        self._second = 0
        self._commands = 0

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """What it subscribes to."""
        return (*self._subscriptions.values(),)

    @property
    def backlog(self) -> int:
        """Frames that wait to be written, snapshots that are due included."""
        return len(self._outbox) + sum(len(held.snapshots) for held in self._subscriptions.values())

    def subscription(self, sid: int) -> Subscription | None:
        """Return a subscription by its number."""
        return self._subscriptions.get(sid)

    def receive(self, message: str | bytes) -> None:
        """Carry out one command; whatever was sent, nothing is raised."""
        if self._gone or self.order is not None:
            return
        if self._loose_bytes > self._floor.options.reply_backlog_bytes:
            self.close(_POLICY_VIOLATION, "commands are sent but replies are not read")
            return
        try:
            self._execute(message)
        except Refused as refused:
            held = None if refused.sid is None else self._subscriptions.get(refused.sid)
            self._error(decode_id(message), refused.code, str(refused), refused.tickers, held)
        self.note_pending()

    def take(self, limit_bytes: int) -> bytes:
        """
        Return the next frames to write, as whole unmasked WebSocket text frames; empty when none wait.

        Args:
            limit_bytes: stop after the frame that reaches it.
        """
        if self.stalled or self.order is not None:
            self._is_pending = False
            return b""
        self._make_snapshots(limit_bytes)
        parts: list[bytes] = []
        size, outbox = 0, self._outbox
        while outbox and size < limit_bytes:
            frame, subscription, shows = outbox.popleft()
            parts += (frame_header(len(frame)), frame)
            size += len(frame)
            self.frames += 1
            if subscription is None:
                self._loose_bytes -= len(frame)
            else:
                subscription.waiting -= 1
            for fault in shows:
                fault.exposed_us = self._floor.now_us
        self._size -= size
        self._is_pending = bool(outbox) or any(held.snapshots for held in self._subscriptions.values())
        return b"".join(parts)

    def put(self, frame: bytes, subscription: Subscription | None, shows: Sequence[Fault] = ()) -> None:
        """Queue a frame; one too many ends its subscription."""
        self._outbox.append((frame, subscription, shows))
        self._size += len(frame)
        if subscription is None:
            self._loose_bytes += len(frame)
        else:
            subscription.waiting += 1
            if subscription.waiting > self._floor.options.subscription_buffer and not subscription.ended:
                self.end(subscription, Code.OVERFLOW)
        if not self._is_pending and not self.stalled:
            self.note_pending()

    def end(self, subscription: Subscription, code: Code) -> None:
        """End a subscription with an error that is terminal: the client has to subscribe again."""
        self._release(subscription)
        message = _encode({"code": code.value, "msg": code.text})
        subscription.emit_last(_opening("error", 0), b',"msg":%b%b' % (message, self._stamp()))

    def close(self, code: int, reason: str) -> None:
        """Want the connection closed; what waits is dropped."""
        if self.order is None:
            self.closing = (code, reason)
            self.command(Order.CLOSE)

    def command(self, order: Order) -> None:
        """Want something done with the connection."""
        if self.order is None or self.order is Order.FREEZE:
            self.order = order
            self.on_pending()

    def stall(self, *, stalled: bool) -> None:
        """Give nothing out for a while, or go on."""
        self.stalled = stalled
        if not stalled:
            self.note_pending()

    def note_pending(self) -> None:
        """Tell the connection that there may be something to take."""
        if not self._is_pending and not self._gone:
            self._is_pending = True
            self.on_pending()

    def leave(self) -> None:
        """Stop for good: the connection is gone."""
        self._gone = True
        for subscription in self.subscriptions:
            self._release(subscription)
        self._outbox.clear()
        self._size = self._loose_bytes = 0

    # Commands.

    def _execute(self, message: str | bytes) -> None:
        second = self._floor.now_us // 1_000_000
        if second != self._second:
            self._second, self._commands = second, 0
        self._commands += 1
        if self._commands > self._floor.options.commands_per_second:
            raise Refused(Code.TOO_MANY_REQUESTS)
        request_id, command = decode_command(message, channels=EXCHANGE_CHANNELS, default_channel=None)
        if isinstance(command, Subscribe):
            self._subscribe(request_id, command)
        elif isinstance(command, Unsubscribe):
            self._unsubscribe(request_id, command)
        elif isinstance(command, Update):
            self._update(request_id, command)
        else:
            assert isinstance(command, ListSubscriptions)
            self._refuse_by_fault(())
            listed = [{"channel": held.channel.name, "sid": held.sid} for held in self.subscriptions]
            self._loose(request_id, "ok", listed)

    def _subscribe(self, request_id: int, command: Subscribe) -> None:
        params = command.params
        wanted = [(channel, self._markets(params, channel)) for channel in command.channels]
        for channel, markets in wanted:
            held = self._by_channel.get(channel.name)
            if (
                held is not None
                and channel.needs_markets
                and params.use_yes_price not in (None, held.yes_scale)
            ):
                # Frames do not say their scale, so one subscription cannot change it under its books.
                raise Refused(Code.INVALID_PARAMETER, "use_yes_price is fixed for a subscription")
            self._check_limit(held, markets)
        for channel, _ in wanted:
            if (held := self._by_channel.get(channel.name)) is not None:
                self._check_rate(held)
        self._refuse_by_fault([ticker for _, markets in wanted for ticker in markets.tickers])
        initial = bool(params.send_initial_snapshot)
        for channel, markets in wanted:
            held = self._by_channel.get(channel.name)
            subscription = held or self._open(request_id, channel, use_yes_price=params.use_yes_price)
            if params.skip_ticker_ack is not None:
                subscription.skip_ack = params.skip_ticker_ack
            added = self._select(subscription, markets)
            if held is not None:
                self._ok(request_id, subscription)
            self._begin(subscription, added, markets.tickers if initial else ())

    def _unsubscribe(self, request_id: int, command: Unsubscribe) -> None:
        ended = [self._held(sid) for sid in command.sids]
        self._refuse_by_fault(())
        for subscription in ended:
            self._release(subscription)
            subscription.emit_last(_opening("unsubscribed", request_id), self._stamp())

    def _update(self, request_id: int, command: Update) -> None:
        subscription = self._held(command.sid)
        channel, params = subscription.channel, command.params
        action = checked_action(params, channel)
        markets = self._markets(params, channel, action)
        if action == "delete_markets" and subscription.every:
            raise Refused(Code.INVALID_PARAMETER, "the subscription is to all markets")
        if action == "add_markets":
            self._check_limit(subscription, markets)
        self._check_rate(subscription)
        self._refuse_by_fault(markets.tickers)
        if action == "get_snapshot":
            subscription.snapshots.extend((ticker, request_id) for ticker in markets.tickers)
            return
        added: Sequence[str] = ()
        if action == "add_markets":
            added = self._select(subscription, markets)
        else:
            self._deselect(subscription, markets.tickers)
        self._ok(request_id, subscription)
        self._begin(subscription, added, markets.tickers if params.send_initial_snapshot else ())

    def _markets(self, params: MarketParams, channel: Channel, action: Any = None) -> Markets:
        # Prefixes are an extension of our own server; the exchange ignores what it does not know.
        params = msgspec.structs.replace(params, market_prefixes=None)
        if channel.takes_market_ids and (params.market_id is not None or params.market_ids is not None):
            params = self._with_tickers(params)
        return checked_markets(params, channel, longest=_LONGEST_TICKER, action=action)

    def _with_tickers(self, params: MarketParams) -> MarketParams:
        if params.market_id is not None and params.market_ids is not None:
            raise Refused(Code.INVALID_PARAMETER, "market_id and market_ids exclude each other")
        if params.market_ticker is not None or params.market_tickers is not None:
            raise Refused(Code.INVALID_PARAMETER, "markets are named by ids or by tickers, not by both")
        tickers = []
        for market_id in (params.market_id,) if params.market_id is not None else params.market_ids or ():
            try:
                ordinal = ordinal_of(market_id)
            except ValueError as error:
                raise Refused(Code.INVALID_PARAMETER, str(error)) from None
            tickers.append(self._floor.ticker_at(ordinal) or market_id)
        return msgspec.structs.replace(params, market_id=None, market_ids=None, market_tickers=tickers)

    def _check_limit(self, held: Subscription | None, markets: Markets) -> None:
        options = self._floor.options
        new = len(markets.tickers)
        if held is not None:
            new = sum(ticker not in held.tickers for ticker in markets.tickers) + len(held.tickers)
        others = sum(len(one.tickers) for one in self.subscriptions if one is not held)
        if new > options.max_markets or new + others > options.max_session_markets:
            sid = None if held is None else held.sid
            raise Refused(Code.MARKET_LIMIT, tickers=markets.tickers, sid=sid)

    def _check_rate(self, subscription: Subscription) -> None:
        commands = subscription.count_command(self._floor.now_us)
        if commands > self._floor.options.subscription_commands_per_second:
            raise Refused(Code.TOO_MANY_REQUESTS, sid=subscription.sid)

    def _refuse_by_fault(self, tickers: Sequence[str]) -> None:
        refused = self._floor.refusal_of(self, tickers)
        if refused is not None:
            raise refused

    def _held(self, sid: int) -> Subscription:
        subscription = self._subscriptions.get(sid)
        if subscription is None:
            raise Refused(Code.UNKNOWN_SID)
        return subscription

    def _open(self, request_id: int, channel: Channel, *, use_yes_price: bool | None) -> Subscription:
        self._last_sid += 1
        floor = self._floor
        subscription = Subscription(self, floor.ledger, self._last_sid, channel, lambda: floor.now_us)
        subscription.yes_scale = floor.options.use_yes_price if use_yes_price is None else use_yes_price
        self._subscriptions[subscription.sid] = subscription
        self._by_channel[channel.name] = subscription
        self._loose(request_id, "subscribed", {"channel": channel.name, "sid": subscription.sid})
        return subscription

    # What a subscription selects.

    def _routing(self, subscription: Subscription) -> Routing[Subscription]:
        return {
            "orderbook_delta": self._floor.depth,
            "ticker": self._floor.tickers,
            "trade": self._floor.trades,
            "market_lifecycle_v2": self._floor.lifecycles,
            "multivariate_market_lifecycle": self._floor.combos,
        }[subscription.channel.name]

    def _select(self, subscription: Subscription, markets: Markets) -> list[str]:
        """Add markets to a selection, those that exist; return those that are new."""
        if markets.every:
            if not subscription.every:
                subscription.every = True
                routing = self._routing(subscription)
                routing.remove_all(subscription.tickers, subscription)
                subscription.tickers.clear()
                routing.add_everywhere(subscription)
            return []
        if subscription.every:
            return []
        new = [
            ticker
            for ticker in markets.tickers
            if ticker not in subscription.tickers and self._floor.is_listed(ticker)
        ]
        subscription.tickers.update(dict.fromkeys(new))
        return new

    def _deselect(self, subscription: Subscription, tickers: Iterable[str]) -> None:
        for ticker in tickers:
            if ticker in subscription.tickers:
                del subscription.tickers[ticker]
                subscription.awaiting.discard(ticker)
                self._routing(subscription).remove(ticker, subscription)

    def _begin(self, subscription: Subscription, added: Sequence[str], initial: Sequence[str]) -> None:
        """Let a subscription hear of the markets that were added, after the reply that says so."""
        if subscription.channel.needs_markets:
            subscription.awaiting.update(added)
            subscription.snapshots.extend((ticker, None) for ticker in added)
            return
        routing = self._routing(subscription)
        for ticker in added:
            routing.add(ticker, subscription)
        if subscription.channel.name == "ticker":
            for ticker in initial:
                if (tail := self._floor.ticker_tail(ticker)) is not None:
                    subscription.emit(b'{"type":"ticker"', tail, ticker)

    def _make_snapshots(self, limit_bytes: int) -> None:
        # A few in any case: a stream of changes must not keep them waiting for ever.
        least = _LEAST_SNAPSHOTS
        for subscription in self._subscriptions.values():
            due = subscription.snapshots
            while due and (self._size < limit_bytes or least > 0):
                least -= 1
                ticker, request_id = due.popleft()
                if request_id is None and ticker not in subscription.awaiting:
                    continue  # taken out again, or sent already
                tail = self._floor.snapshot_tail(ticker, yes_scale=subscription.yes_scale)
                if request_id is None:
                    subscription.awaiting.discard(ticker)
                    self._floor.depth.add(ticker, subscription)
                if tail is not None:
                    opening = (
                        _OPENING_SNAPSHOT if not request_id else _opening("orderbook_snapshot", request_id)
                    )
                    subscription.emit(opening, tail, ticker)
                if subscription.ended:
                    return  # overflowed, and left the dictionary that is walked here

    def _release(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription.sid, None)
        if self._by_channel.get(subscription.channel.name) is subscription:
            del self._by_channel[subscription.channel.name]
        self._routing(subscription).remove_all(subscription.tickers, subscription)
        subscription.snapshots.clear()
        subscription.awaiting.clear()

    # Output.

    def _ok(self, request_id: int, subscription: Subscription) -> None:
        message: dict[str, list[str]] = {}
        if not subscription.every and not subscription.skip_ack:
            message["market_tickers"] = [*subscription.tickers]
        subscription.emit(_opening("ok", request_id), b',"msg":%b%b' % (_encode(message), self._stamp()))

    def _error(
        self,
        request_id: int,
        code: Code,
        text: str,
        tickers: Sequence[str] = (),
        subscription: Subscription | None = None,
    ) -> None:
        message: dict[str, object] = {"code": code.value, "msg": text}
        if tickers:
            message["market_tickers"] = tickers
        if subscription is None:
            self._loose(request_id, "error", message)
        else:
            tail = b',"msg":%b%b' % (_encode(message), self._stamp())
            subscription.emit(_opening("error", request_id), tail)

    def _loose(self, request_id: int, kind: str, message: object) -> None:
        self.put(b'%b,"msg":%b%b' % (_opening(kind, request_id), _encode(message), self._stamp()), None)

    def _stamp(self) -> bytes:
        return b',"sending_ts_ms":%d}' % (self._floor.now_us // 1_000)


def _opening(kind: str, request_id: int) -> bytes:
    if request_id:
        return b'{"id":%d,"type":"%b"' % (request_id, kind.encode())
    return b'{"type":"%b"' % kind.encode()
