"""
One client: carries out its commands, holds its subscriptions, and gives out what waits for it.

Replies go before data: they are few, and every number is given when its frame is written, so their
order against data that waits is free, but for one rule: nothing of a subscription stands before
the reply that announces it, or after the one that ends it.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, final

from kalshibook.store import Condition, Cut
from kalshibook.stream.channels import Channel, Code, Refused
from kalshibook.stream.commands import (
    Command,
    ListSubscriptions,
    Markets,
    Subscribe,
    Unsubscribe,
    Update,
    checked_action,
    checked_markets,
    decode_command,
    decode_id,
)
from kalshibook.stream.depth import DepthSubscription
from kalshibook.stream.factory import make_subscription
from kalshibook.stream.frames import FrameWriter
from kalshibook.stream.replies import Replies
from kalshibook.stream.shared import Shared
from kalshibook.stream.subscription import AnySubscription

__all__ = ["Client"]

_GOING_AWAY: Final = 1001
_POLICY_VIOLATION: Final = 1008


def _nobody() -> None:
    pass


@final
class Client:
    """
    The session of one connection; from `Hub.connect`. Knows neither sockets nor clocks.

    Feed it messages with `receive`; when `on_pending` is called, write what `take` returns until
    that is empty; when `closing` is set, end the connection with it.
    """

    def __init__(self, shared: Shared) -> None:
        self.on_pending: Callable[[], None] = _nobody
        """Called when there is something to take, or to close, after nothing was; must not take itself."""
        self.closing: tuple[int, str] | None = None
        """Close code and reason, once the connection has to end."""
        self._shared = shared
        self._subscriptions: dict[int, AnySubscription] = {}
        self._by_channel: dict[str, AnySubscription] = {}
        self._last_sid = 0
        self._replies = Replies()
        self._ready: deque[AnySubscription] = deque()
        self._is_pending = False
        self._second = 0
        self._commands = 0

    @property
    def is_pending(self) -> bool:
        """Whether something waits to be taken."""
        return self._is_pending

    @property
    def subscriptions(self) -> tuple[AnySubscription, ...]:
        """What it subscribes to."""
        return (*self._subscriptions.values(),)

    @property
    def backlog(self) -> int:
        """How many frames wait, replies included."""
        return len(self._replies) + sum(held.backlog for held in self.subscriptions)

    def receive(self, message: str | bytes, now_us: int) -> None:
        """
        Carry out one command; the answer waits in `take`. Whatever was sent, nothing is raised.

        Args:
            message: one WebSocket message, text or bytes.
            now_us: the time, microseconds since the epoch.
        """
        if self.closing is not None:
            return
        if self._replies.size > self._shared.options.reply_backlog_bytes:
            self.close(_POLICY_VIOLATION, "commands are sent but replies are not read")
            return
        self._shared.counters.commands += 1
        try:
            self._count_command(now_us)
            request_id, command = decode_command(message)
            self._execute(request_id, command, now_us)
        except Refused as refused:
            self._answer_refusal(decode_id(message), refused)
        self._note_pending()

    def take(self, limit_bytes: int, now_us: int) -> bytes:
        """
        Return the next frames to write, as whole unmasked WebSocket text frames; empty when none wait.

        Args:
            limit_bytes: stop after the frame that reaches it, or after the block of frames.
            now_us: the time, microseconds since the epoch; becomes `sending_ts_ms`.
        """
        if not self._is_pending:
            return b""
        shared = self._shared
        writer = FrameWriter(shared.store, shared.snapshots, limit_bytes, now_us)
        self._replies.write(writer)
        ready = self._ready
        while ready and not writer.is_full:
            subscription = ready.popleft()
            if subscription.write(writer):
                # Behind the others, so that one that never runs dry cannot starve them.
                ready.append(subscription)
            else:
                subscription.is_waiting = False
        self._is_pending = bool(self._replies or ready)
        shared.counters.frames += writer.frames
        shared.counters.bytes += writer.size
        return writer.joined()

    def close(self, code: int, reason: str) -> None:
        """Want the connection ended; everything that waits is dropped. The first reason stands."""
        if self.closing is not None:
            return
        self.closing = (code, reason)
        self._shared.counters.closed[code] += 1
        self._drop()
        self.on_pending()

    def leave(self) -> None:
        """Stop for good, whatever is still called: the connection is gone."""
        if self.closing is None:
            self.closing = (_GOING_AWAY, "disconnected")
        self._drop()

    def _drop(self) -> None:
        for subscription in self._subscriptions.values():
            subscription.end()
        self._subscriptions, self._by_channel = {}, {}
        self._replies, self._ready = Replies(), deque()
        self._is_pending = False

    def wake(self, subscription: AnySubscription) -> None:
        """Note that a subscription has something to write (called by it)."""
        self._ready.append(subscription)
        self._note_pending()

    def doom(self, subscription: AnySubscription) -> None:
        """Note that a subscription overflowed (called by it, while routes are walked)."""
        self._shared.doomed.append(subscription)

    def end_overflowed(self, subscription: AnySubscription) -> None:
        """End a subscription with error 25, which is terminal: the client has to subscribe again."""
        if self._subscriptions.get(subscription.sid) is subscription:
            self._shared.counters.overflowed += 1
            self._end(subscription)
            self._error(0, Code.OVERFLOW, Code.OVERFLOW.text, (), subscription)
            self._note_pending()

    def tell_readiness(self, behind: str | None, version: int) -> None:
        """
        Tell the client that the store fell behind its feed, or has caught up.

        `top_of_book` says so in-band. Kalshi's own channels have no word for it, and a stream that
        just falls silent looks like a quiet market: they end with error 10, which its clients know
        as the order to subscribe again.

        Args:
            behind: why, or None when it has caught up.
            version: the store's version that says so.
        """
        for subscription in self.subscriptions:
            if version <= subscription.opened_version:
                continue
            if subscription.channel.tells_readiness:
                self._replies.readiness(subscription, behind)
                self._note_pending()
            elif behind is not None:
                self._end(subscription)
                text = f"{Code.CHANNEL_ERROR.text}: {behind}"
                self._error(0, Code.CHANNEL_ERROR, text, (), subscription)
                self._note_pending()

    # Commands.

    def _execute(self, request_id: int, command: Command, now_us: int) -> None:
        if isinstance(command, Subscribe):
            self._subscribe(request_id, command, now_us)
        elif isinstance(command, Unsubscribe):
            self._unsubscribe(request_id, command)
        elif isinstance(command, Update):
            self._update(request_id, command, now_us)
        elif isinstance(command, ListSubscriptions):
            self._replies.listed(request_id, self._subscriptions.values())

    def _subscribe(self, request_id: int, command: Subscribe, now_us: int) -> None:
        options, params, cut = self._shared.options, command.params, self._shared.store.cut()
        longest = options.max_ticker_length
        wanted = [
            (channel, checked_markets(params, channel, longest=longest)) for channel in command.channels
        ]
        held = {
            name: self._by_channel[name]
            for channel, _ in wanted
            if (name := channel.name) in self._by_channel
        }
        for subscription in held.values():
            _check_scale(subscription, params.use_yes_price)
        if len(self._subscriptions) + len(wanted) - len(held) > options.max_subscriptions:
            raise Refused(
                Code.MARKET_LIMIT, f"a connection has up to {options.max_subscriptions} subscriptions"
            )
        for channel, markets in wanted:
            if cut.behind is not None and not channel.tells_readiness:
                raise Refused(Code.CHANNEL_ERROR, f"{cut.behind}; subscribe again later")
            self._check_limit(channel, held.get(channel.name), markets, cut)
        for subscription in held.values():
            self._check_rate(subscription, now_us)
        for channel, markets in wanted:
            subscription = held.get(channel.name) or self._open(
                request_id, channel, params.use_yes_price, cut
            )
            if params.skip_ticker_ack is not None:
                subscription.skip_ticker_ack = params.skip_ticker_ack
            initial = _is_initial(channel, markets, params.send_initial_snapshot)
            subscription.add(markets, cut, now_us, initial=initial)
            if channel.name in held:
                self._replies.merged(request_id, subscription, cut)

    def _unsubscribe(self, request_id: int, command: Unsubscribe) -> None:
        ended = [self._held(sid) for sid in command.sids]
        for subscription in ended:
            self._end(subscription)
            self._replies.unsubscribed(request_id, subscription)

    def _update(self, request_id: int, command: Update, now_us: int) -> None:
        subscription, params = self._held(command.sid), command.params
        channel = subscription.channel
        action = checked_action(params, channel)
        longest = self._shared.options.max_ticker_length
        markets = checked_markets(params, channel, longest=longest, action=action)
        if action == "delete_markets" and subscription.selection.every:
            raise Refused(
                Code.INVALID_PARAMETER, "the subscription is to all markets, of which none can be left out"
            )
        cut = self._shared.store.cut()
        if action == "add_markets":
            self._check_limit(channel, subscription, markets, cut)
        self._check_rate(subscription, now_us)
        if action == "get_snapshot":
            self._get_snapshots(request_id, subscription, markets.tickers, cut)
            return
        if action == "add_markets":
            initial = _is_initial(channel, markets, params.send_initial_snapshot)
            subscription.add(markets, cut, now_us, initial=initial)
        else:
            subscription.remove(markets)
        self._replies.merged(request_id, subscription, cut)

    def _get_snapshots(
        self, request_id: int, subscription: AnySubscription, tickers: Sequence[str], cut: Cut
    ) -> None:
        assert isinstance(subscription, DepthSubscription)
        if subscription.requests + len(tickers) > self._shared.options.max_markets:
            raise Refused(Code.TOO_MANY_REQUESTS, "too many snapshots are under way", sid=subscription.sid)
        live = {
            ticker: (book := cut.get(ticker)) is not None and book.copy is Condition.LIVE
            for ticker in tickers
        }
        refused = [ticker for ticker, is_live in live.items() if not is_live]
        if refused:
            text = f"{Code.INVALID_PARAMETER.text}: no live book of these"
            self._error(request_id, Code.INVALID_PARAMETER, text, refused)
        for ticker, is_live in live.items():
            if is_live:
                subscription.request(ticker, request_id)

    def _open(self, request_id: int, channel: Channel, yes_scale: bool | None, cut: Cut) -> AnySubscription:
        self._last_sid += 1
        subscription = make_subscription(self, self._shared, channel, self._last_sid, yes_scale, cut)
        self._subscriptions[subscription.sid] = subscription
        self._by_channel[channel.name] = subscription
        subscription.opened_version = cut.version
        self._replies.subscribed(request_id, subscription)
        if cut.behind is not None:
            self._replies.readiness(subscription, cut.behind)
        return subscription

    def _held(self, sid: int) -> AnySubscription:
        subscription = self._subscriptions.get(sid)
        if subscription is None:
            raise Refused(Code.UNKNOWN_SID)
        return subscription

    def _end(self, subscription: AnySubscription) -> None:
        del self._subscriptions[subscription.sid]
        del self._by_channel[subscription.channel.name]
        subscription.end()

    def _count_command(self, now_us: int) -> None:
        second = now_us // 1_000_000
        if second != self._second:
            self._second, self._commands = second, 0
        self._commands += 1
        if self._commands > self._shared.options.commands_per_second:
            raise Refused(Code.TOO_MANY_REQUESTS)

    def _check_rate(self, subscription: AnySubscription, now_us: int) -> None:
        if subscription.count_command(now_us) > self._shared.options.subscription_commands_per_second:
            raise Refused(Code.TOO_MANY_REQUESTS, sid=subscription.sid)

    def _check_limit(
        self, channel: Channel, subscription: AnySubscription | None, markets: Markets, cut: Cut
    ) -> None:
        options = self._shared.options
        tickers = {*markets.tickers}
        prefixes = {*markets.prefixes}
        if subscription is not None:
            tickers.update(subscription.selection.tickers)
            prefixes.update(subscription.selection.prefixes)
        if channel.needs_markets:
            # Full depth costs per market, however it was named.
            for prefix in prefixes:
                tickers.update(cut.tickers(prefix=prefix, limit=options.max_markets + 1))
        if len(tickers) > options.max_markets or len(prefixes) > options.max_prefixes:
            sid = None if subscription is None else subscription.sid
            raise Refused(Code.MARKET_LIMIT, tickers=markets.tickers, sid=sid)

    # Output.

    def _answer_refusal(self, request_id: int, refused: Refused) -> None:
        subscription = None if refused.sid is None else self._subscriptions.get(refused.sid)
        self._error(request_id, refused.code, str(refused), refused.tickers, subscription)

    def _error(
        self,
        request_id: int,
        code: Code,
        text: str,
        tickers: Sequence[str] = (),
        subscription: AnySubscription | None = None,
    ) -> None:
        self._shared.counters.errors[code.value] += 1
        self._replies.error(request_id, code, text, tickers, subscription)

    def _note_pending(self) -> None:
        if not self._is_pending:
            self._is_pending = True
            self.on_pending()


def _check_scale(subscription: AnySubscription, yes_scale: bool | None) -> None:
    # Frames do not say their scale, so one subscription cannot change it under its books.
    if isinstance(subscription, DepthSubscription) and yes_scale not in (None, subscription.yes_scale):
        raise Refused(Code.INVALID_PARAMETER, "use_yes_price is fixed for a subscription, unsubscribe first")


def _is_initial(channel: Channel, markets: Markets, wanted: bool | None) -> bool:
    if channel.name == "ticker":
        return bool(wanted) and not markets.every
    return True
