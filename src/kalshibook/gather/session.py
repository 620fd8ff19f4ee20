"""
One socket epoch: what to say to the exchange, and what its frames mean. Pure.

Frames and time go in, records and effects come out.


Rule 1: every numbered frame of a known subscription moves its numbers, whatever its type.
Rule 2: a gap puts every market of the subscription in doubt at once, and only snapshots end that.
Rule 3: a second gap before that, numbers that go back, and commands that are not answered end the
connection: a new one costs seconds, a wrong book costs trust.
Rule 4: what a frame changes for others (a notice, an entry of the ledger) stands before the frame.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Final, final

import msgspec

from kalshibook.gather import commands
from kalshibook.gather.books import Books, Command, Kind, Shared
from kalshibook.gather.commands import Code, ErrorBody, Head
from kalshibook.gather.effects import Drop, Effect, Send, Tell, Trouble
from kalshibook.gather.incidents import GatherIncidentKind
from kalshibook.gather.ledger import OpenGap
from kalshibook.gather.markets import MarketState
from kalshibook.gather.records import Notice, Received
from kalshibook.gather.sequence import RULINGS, SequenceWatch, Verdict
from kalshibook.wire.gaps import GapCause

__all__ = ["CHANNELS", "Role", "Session"]

BOOKS_CHANNEL: Final = "orderbook_delta"

_SECOND_US: Final = 1_000_000
_MOST_REFUSALS: Final = 3
"""Commands in a row that may stay without an answer, or be refused for no known reason."""

_TERMINAL: Final = frozenset({Code.CHANNEL_ERROR, Code.BUFFER_OVERFLOW})

_ANSWERS: Final = frozenset({"subscribed", "ok", "unsubscribed", "error"})
"""Frames that may come without a subscription of ours."""

_FILLING: Final = frozenset({Kind.SUBSCRIBE, Kind.ADD, Kind.SNAPSHOT})

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)


class Role(StrEnum):
    """What a connection is for."""

    BOOKS = "books"
    TRADES = "trades"
    LIFECYCLE = "lifecycle"


CHANNELS: Final = {
    Role.BOOKS: (BOOKS_CHANNEL,),
    Role.TRADES: ("ticker", "trade"),
    Role.LIFECYCLE: ("market_lifecycle_v2", "multivariate_market_lifecycle"),
}
"""What a connection subscribes to; all but order books to all markets."""


class _Subscription:
    __slots__ = ("channel", "gaps", "sid", "watch")

    def __init__(self, sid: int, channel: str) -> None:
        self.sid = sid
        self.channel = channel
        self.watch = SequenceWatch()
        self.gaps: list[OpenGap] = []


@final
class Session:
    """
    Follows one connection from its handshake to its end.

    Call `opened`, then `receive` for each frame and `tick` some ten times a second, and carry out
    `effects` after each call, before the frame that `receive` returned.

    Args:
        role: what the connection is for.
        connection: its id, unique for ever.
        shared: what all sessions have in common.
        gaps: those of the connection that this one replaces.
    """

    def __init__(self, role: Role, connection: str, shared: Shared, *, gaps: Sequence[OpenGap] = ()) -> None:
        self.role: Final = role
        self.connection: Final = connection
        self.effects: Final[deque[Effect]] = deque()
        self.counts: Final[Counter[Verdict]] = Counter()
        """Verdicts on numbers, but for `Verdict.NEXT`."""
        self.frames = 0
        """Frames received."""
        self.is_over = False
        self.last_frame_us = 0
        self._options = shared.options
        self._ledger = shared.ledger
        self._random = shared.random
        self._timeout_us: Final = int(shared.options.command_timeout_s * _SECOND_US)
        self._silence_us: Final = int(shared.options.silence_s * _SECOND_US)
        is_books = role is Role.BOOKS
        self.books: Final = Books(connection, shared, self.effects, gaps if is_books else ())
        self._gaps = [] if is_books else list(gaps)
        self._due: dict[str, int] = {} if is_books else dict.fromkeys(CHANNELS[role], 0)
        self._by_sid: dict[int, _Subscription] = {}
        self._sent: dict[int, Command] = {}
        self._number = 0
        self._paused_until_us = 0
        self._numbered_us = 0
        self._refusals = 0
        self._is_open = False
        self._is_refresh = False
        self._is_unwanted = False
        self._handlers: dict[str, Callable[[Head, _Subscription | None, int], None]] = {
            "orderbook_snapshot": self._on_snapshot,
            "subscribed": self._on_subscribed,
            "ok": self._on_ok,
            "unsubscribed": self._on_unsubscribed,
            "error": self._on_error,
        }

    # In.

    def opened(self, now_us: int) -> None:
        """Begin: the handshake is done and frames are being read."""
        self._is_open = True
        self.last_frame_us = now_us
        self.books.begin(now_us)
        self._pump(now_us)

    def receive(self, frame: bytes, now_us: int) -> Received | None:
        """
        Take one frame.

        Returns:
            What is to be handed on, after `effects`; None for what must not be, such as a duplicate.
        """
        if self.is_over:
            return None
        self.frames += 1
        self.last_frame_us = now_us
        try:
            head = commands.decode_head(frame)
        except _UNREADABLE as error:
            self._trouble(GatherIncidentKind.UNREADABLE, f"{error}: {frame[:100]!r}")
            return None
        sid = head.sid
        subscription = None if sid is None else self._by_sid.get(sid)
        passes = True
        if subscription is not None:
            self._numbered_us = now_us
            verdict = subscription.watch.judge(head.seq)
            if verdict is not Verdict.NEXT:
                passes = self._ruled(subscription, verdict, head, now_us)
        handler = self._handlers.get(head.type)
        self._is_refresh = self._is_unwanted = False
        if subscription is None and head.type not in _ANSWERS:
            # Its numbers are not watched, so nothing would show what is missing around it. And a snapshot
            # of a subscription that has ended would make its market live with nobody following it.
            self._trouble(GatherIncidentKind.UNREADABLE, f"{head.type!r} on sid {sid}, which is not ours")
            return None
        if handler is not None and passes:
            handler(head, subscription, now_us)
        if self.effects:
            self._pump(now_us)
        if not passes or self._is_unwanted or self.is_over:
            return None
        return Received(frame, self.connection, now_us, head.type, sid, head.seq, "", self._is_refresh)

    def add(self, tickers: Iterable[str], now_us: int) -> None:
        """Follow the books of markets."""
        self.books.add(tickers)
        self._pump(now_us)

    def remove(self, tickers: Iterable[str], now_us: int) -> None:
        """Follow the books of markets no more."""
        self.books.remove(tickers, now_us)
        self._pump(now_us)

    @property
    def is_whole(self) -> bool:
        """Whether all that it is for is subscribed to, and every market that answers is live."""
        if self._due or self._gaps or not self._is_open or not self.books.is_whole:
            return False
        return not any(one.kind in _FILLING and not one.is_done for one in self._sent.values())

    def request(self, tickers: Iterable[str], now_us: int) -> int:
        """Ask for snapshots of markets that are well here, for the sake of others; return how many."""
        count = self.books.request(tickers)
        self._pump(now_us)
        return count

    def heal(self, tickers: Iterable[str], now_us: int) -> int:
        """Ask at once for markets whose books cannot be right; return how many."""
        count = self.books.heal(tickers)
        self._pump(now_us)
        return count

    def excuse(self, waited_us: int) -> None:
        """Do not count a time in which we did not read: the exchange may have answered meanwhile."""
        self.last_frame_us += waited_us
        for command in self._sent.values():
            command.deadline_us += waited_us

    def set_back(self, by_us: int) -> None:
        """Know that the clock was set back: what was to happen at a time would wait for it once more."""
        self.last_frame_us -= by_us
        self._numbered_us -= by_us
        self._paused_until_us -= by_us
        for command in self._sent.values():
            command.deadline_us -= by_us
        for channel in self._due:
            self._due[channel] -= by_us
        self.books.set_back(by_us)

    def tick(self, now_us: int) -> None:
        """Act on what did not come in time, and on whose time has come."""
        if self.is_over or not self._is_open:
            return
        for command in [command for command in self._sent.values() if command.deadline_us <= now_us]:
            self._overdue(command, now_us)
        self.books.tick(now_us)
        self._look_for_silence(now_us)
        self._pump(now_us)

    def lost(self, cause: GapCause, now_us: int) -> list[OpenGap]:
        """
        End: the connection is gone, or given up.

        Returns:
            The gaps that are open, for the session that replaces this one.
        """
        self.is_over = True
        self._sent.clear()
        found = [self._found(subscription, cause, None, now_us) for subscription in self._by_sid.values()]
        if self.books.states:
            detail = f"{len(self.books.states):,} markets"
            self.effects.append(Tell(Notice("stale", cause, detail, self.connection)))
        return [*self.books.gaps, *self._gaps, *(gap for gap in found if gap.record.healed_us is None)]

    # Numbers.

    def _ruled(self, subscription: _Subscription, verdict: Verdict, head: Head, now_us: int) -> bool:
        self.counts[verdict] += 1
        ruling = RULINGS[verdict]
        if verdict is Verdict.GAP:
            self._on_gap(subscription, now_us)
        elif verdict is Verdict.RESET:
            detail = f"number {head.seq} after {subscription.watch.last} on sid {subscription.sid}"
            self._trouble(GatherIncidentKind.RESET, detail)
        elif verdict is not Verdict.UNNUMBERED:
            kind = GatherIncidentKind(verdict.value)
            self._trouble(kind, f"number {head.seq} of sid {subscription.sid} ({subscription.channel})")
        if ruling.is_broken:
            self._drop("reset", f"numbers of sid {subscription.sid} went back to {head.seq}")
        if subscription.channel == BOOKS_CHANNEL:
            return ruling.passes
        if verdict is Verdict.LATE:
            self._filled(subscription, now_us)
        return ruling.stands_alone

    def _on_gap(self, subscription: _Subscription, now_us: int) -> None:
        first, last = subscription.watch.missing[-1]
        was_healing = self.books.is_healing
        gap = self._found(subscription, "gap", last, now_us, first=first)
        detail = f"{first} to {last} of sid {subscription.sid} ({subscription.channel})"
        self._trouble(GatherIncidentKind.GAP, detail)
        if subscription.channel != BOOKS_CHANNEL:
            subscription.gaps.append(gap)
            return
        notice = Notice("stale", "gap", detail, self.connection, subscription.sid)
        self.effects.append(Tell(notice))
        self.books.doubt(gap)
        if was_healing:
            self._drop("disconnected", f"a second gap, {detail}, while an earlier one was being healed")

    def _filled(self, subscription: _Subscription, now_us: int) -> None:
        missing = subscription.watch.missing
        for gap in list(subscription.gaps):
            first, last = gap.record.from_sequence, gap.record.to_sequence
            assert first is not None
            if last is not None and not any(low <= last and first <= high for low, high in missing):
                self._ledger.heal(gap, "late", now_us=now_us)
                subscription.gaps.remove(gap)

    def _found(
        self,
        subscription: _Subscription,
        cause: GapCause,
        last: int | None,
        now_us: int,
        *,
        first: int | None = None,
    ) -> OpenGap:
        is_numbered = subscription.watch.last > 0 or subscription.channel == BOOKS_CHANNEL
        if first is None and is_numbered:
            first = subscription.watch.last + 1
        followed = self.books.followed() if subscription.channel == BOOKS_CHANNEL else ()
        gap = self._ledger.found(
            self.connection,
            subscription.sid,
            subscription.channel,
            cause,
            first=first,
            last=last,
            tickers=followed,
            now_us=now_us,
        )
        if subscription.channel == BOOKS_CHANNEL and not followed:
            # No market can have lost anything.
            self._ledger.heal(gap, "resubscribed", now_us=now_us)
        return gap

    # Answers.

    def _on_snapshot(self, head: Head, _: _Subscription | None, now_us: int) -> None:
        ticker = commands.decode_ticker(head)
        if ticker is None:
            return
        # Of a market that was given back meanwhile. Its end was told: handed on after that, a snapshot
        # would make it live for readers, with nobody following it.
        self._is_unwanted = ticker not in self.books.states
        if self._is_unwanted and not self._is_deleting(ticker):
            self.books.leave(ticker)
            self._pump(now_us)
        was_live = self.books.states.get(ticker) is MarketState.LIVE
        answered = None if head.id is None else self._sent.get(head.id)
        # An answer to an earlier question does not say that the addition after it was carried out.
        is_early = head.id is not None and self.books.is_being_added(ticker)
        self._is_unwanted = self._is_unwanted or is_early
        self._is_refresh = was_live and answered is not None and answered.kind is Kind.REFRESH
        for command in {None if is_early else self.books.snapshot(ticker, now_us), answered}:
            if command is not None:
                command.tickers.pop(ticker, None)
                command.is_acknowledged = command.is_acknowledged or command.asks_for_snapshots
                if command.is_done:
                    self._sent.pop(command.number, None)
                    self._refusals = 0
                    self._pump(now_us)

    def _is_deleting(self, ticker: str) -> bool:
        return any(one.kind is Kind.DELETE and ticker in one.tickers for one in self._sent.values())

    def _on_subscribed(self, head: Head, _: _Subscription | None, now_us: int) -> None:
        body = commands.decode_subscribed(head)
        command = self._taken(head)
        if body is None:
            self._trouble(GatherIncidentKind.UNREADABLE, "a `subscribed` without channel and sid")
            return
        channel, sid = body
        self._subscribed(channel, sid)
        if command is not None:
            self._acknowledge(command, None, now_us)
        if channel != BOOKS_CHANNEL:
            self._due.pop(channel, None)
            for gap in [gap for gap in self._gaps if gap.record.channel == channel]:
                self._gaps.remove(gap)
                own = gap.record.connection == self.connection
                self._ledger.heal(gap, "resubscribed" if own else "reconnected", now_us=now_us)
        self._pump(now_us)

    def _subscribed(self, channel: str, sid: int) -> _Subscription:
        for old in [held for held in self._by_sid.values() if held.channel == channel]:
            del self._by_sid[old.sid]
        subscription = self._by_sid[sid] = _Subscription(sid, channel)
        if channel == BOOKS_CHANNEL:
            self.books.sid = sid
        return subscription

    def _on_ok(self, head: Head, subscription: _Subscription | None, now_us: int) -> None:
        command = self._taken(head)
        if command is None:
            return
        if command.kind is Kind.SUBSCRIBE and subscription is None and head.sid is not None:
            # The exchange holds the subscription that we thought was over: its numbers go on from here.
            self._subscribed(command.channel, head.sid).watch.last = head.seq or 0
            self._due.pop(command.channel, None)
        held = None
        if command.kind in {Kind.SUBSCRIBE, Kind.ADD}:
            held = commands.decode_tickers(head)
        self._acknowledge(command, held, now_us)
        self._pump(now_us)

    def _acknowledge(self, command: Command, held: list[str] | None, now_us: int) -> None:
        # The list of subscriptions says nothing of the way that books come.
        if command.kind is not Kind.LIST:
            self._refusals = 0
        if command.channel == BOOKS_CHANNEL and not command.asks_for_snapshots:
            self.books.acknowledged(command, held, now_us)
        command.is_acknowledged = True
        if not command.is_done:
            self._sent[command.number] = command

    def _on_unsubscribed(self, _: Head, subscription: _Subscription | None, now_us: int) -> None:
        if subscription is not None:
            self._ended(subscription, "ended", "the exchange has unsubscribed it", now_us)

    def _on_error(self, head: Head, subscription: _Subscription | None, now_us: int) -> None:
        body = commands.decode_error(head)
        command = self._taken(head)
        text = f"error {body.code} {body.msg!r}"
        ended = self._terminated(body, command, subscription)
        if ended is not None:
            self._ended(ended, "overflow" if body.code == Code.BUFFER_OVERFLOW else "ended", text, now_us)
        elif command is not None:
            self._trouble(GatherIncidentKind.COMMAND, f"{command.kind} of {command.named} markets: {text}")
            self._refused(command, body, now_us)
        elif body.code in _TERMINAL:
            self._drop("ended", f"{text}, and no subscription is named")
        else:
            self._trouble(GatherIncidentKind.COMMAND, text)
        self._pump(now_us)

    def _terminated(
        self, body: ErrorBody, command: Command | None, subscription: _Subscription | None
    ) -> _Subscription | None:
        """Return the subscription that an error ends, or None."""
        if body.code in _TERMINAL:
            if subscription is None and command is None and len(self._by_sid) == 1:
                return next(iter(self._by_sid.values()))
            return subscription
        if body.code == Code.UNKNOWN_SID and command is not None and self.books.sid is not None:
            return self._by_sid.get(self.books.sid)
        return None

    def _refused(self, command: Command, body: ErrorBody, now_us: int) -> None:
        if body.code == Code.AUTHENTICATION_REQUIRED:
            self._drop("ended", f"error {body.code}: {body.msg}")
        elif command.channel != BOOKS_CHANNEL:
            self._refused_channel(command, body, now_us)
        elif body.code == Code.MARKET_LIMIT and command.kind in {Kind.SUBSCRIBE, Kind.ADD}:
            self.books.refused_for_limit(command, now_us)
        elif body.code in {Code.INVALID_PARAMETER, Code.MARKET_REQUIRED} and command.named:
            if command.kind is Kind.DELETE:
                # What the exchange does not know need not be deleted.
                self.books.acknowledged(command, None, now_us)
            else:
                self.books.refused_for_names(command, body.tickers, now_us)
        elif body.code == Code.UNSUPPORTED_ACTION and command.asks_for_snapshots:
            self.books.can_get_snapshot = False
            self.books.escalate(command, now_us)
        elif body.code in {Code.TOO_MANY_REQUESTS, Code.COMMAND_TIMEOUT}:
            self._pause(now_us)
            self.books.postponed(command, now_us)
        else:
            self._count_refusal(f"error {body.code}", now_us)
            self.books.overdue(command, now_us)

    def _refused_channel(self, command: Command, body: ErrorBody, now_us: int) -> None:
        if command.kind is not Kind.SUBSCRIBE:
            return
        if body.code == Code.UNKNOWN_CHANNEL:
            self._trouble(GatherIncidentKind.ENDED, f"the exchange has no channel {command.channel!r}")
            return
        self._count_refusal(f"error {body.code}", now_us)
        self._due[command.channel] = self._paused_until_us

    def _ended(self, subscription: _Subscription, cause: GapCause, text: str, now_us: int) -> None:
        self._by_sid.pop(subscription.sid, None)
        kind = GatherIncidentKind.OVERFLOW if cause == "overflow" else GatherIncidentKind.ENDED
        self._trouble(kind, f"sid {subscription.sid} ({subscription.channel}): {text}")
        gap = self._found(subscription, cause, None, now_us)
        self._pause(now_us)
        if subscription.channel != BOOKS_CHANNEL:
            self._gaps.append(gap)
            self._due[subscription.channel] = self._paused_until_us
            return
        self.effects.append(Tell(Notice("stale", cause, text, self.connection, subscription.sid)))
        for command in [one for one in self._sent.values() if one.channel == BOOKS_CHANNEL]:
            if command.kind is not Kind.SUBSCRIBE:
                del self._sent[command.number]
        if gap.waiting:
            self.books.gaps.append(gap)
        self.books.end()

    # Out.

    def _pump(self, now_us: int) -> None:
        if not self._is_open or self.is_over or now_us < self._paused_until_us:
            return
        for channel in [channel for channel, due_us in self._due.items() if due_us <= now_us]:
            del self._due[channel]
            self._send(Kind.SUBSCRIBE, channel, (), now_us)
        while self.role is Role.BOOKS:
            waiting = [one for one in self._sent.values() if one.is_in_flight]
            if len(waiting) >= self._options.commands_in_flight:
                return
            is_subscribing = any(one.kind is Kind.SUBSCRIBE for one in waiting)
            chosen = self.books.choose(now_us, in_flight=len(waiting), is_subscribing=is_subscribing)
            if chosen is None:
                return
            self._send(chosen[0], BOOKS_CHANNEL, chosen[1], now_us)

    def _send(self, kind: Kind, channel: str, tickers: Sequence[str], now_us: int) -> None:
        self._number += 1
        command = Command(self._number, kind, channel, tickers, now_us + self._timeout_us)
        self._sent[command.number] = command
        self.books.sent(command)
        self.effects.append(Send(self._encoded(command)))

    def _encoded(self, command: Command) -> bytes:
        number, tickers, sid = command.number, command.tickers, self.books.sid
        if command.kind is Kind.LIST:
            return commands.list_subscriptions(number)
        if command.kind is Kind.SUBSCRIBE:
            return commands.subscribe(number, command.channel, tickers or None)
        assert sid is not None
        if command.kind is Kind.ADD:
            return commands.add_markets(number, sid, tickers)
        if command.kind is Kind.DELETE:
            return commands.delete_markets(number, sid, tickers)
        return commands.get_snapshot(number, sid, tickers)

    def _taken(self, head: Head) -> Command | None:
        return None if head.id is None else self._sent.pop(head.id, None)

    # Time.

    def _overdue(self, command: Command, now_us: int) -> None:
        if self.is_over:
            return
        self._sent.pop(command.number, None)
        if command.kind is Kind.LIST:
            self._trouble(GatherIncidentKind.SILENT, "nothing came, also when asked")
            self._drop(
                "silent", f"nothing came for {(now_us - self.last_frame_us) / 1e6:.1f} s, also when asked"
            )
            return
        detail = f"{command.kind} of {command.named} markets: {len(command.tickers)} are not answered"
        self._trouble(GatherIncidentKind.COMMAND, detail)
        if command.is_in_flight and not command.asks_for_snapshots:
            self._count_refusal("no answer", now_us)
        elif command.is_in_flight and self._numbered_us < command.deadline_us - self._timeout_us:
            # Not only this snapshot: nothing at all has come of the subscription since.
            self._count_refusal("no answer", now_us, pauses=False)
        if command.channel == BOOKS_CHANNEL:
            self.books.overdue(command, now_us)
        else:
            self._due[command.channel] = self._paused_until_us

    def _look_for_silence(self, now_us: int) -> None:
        if now_us - self.last_frame_us < self._silence_us:
            return
        if any(command.kind is Kind.LIST for command in self._sent.values()):
            return
        # Its answer alone proves that somebody listens. A snapshot comes on the way that has fallen
        # silent, with a number: should the last frames before the silence be lost, it shows.
        self._send(Kind.LIST, "", (), now_us)
        ticker = self.books.some_live if self.books.sid is not None else None
        if ticker is not None and self.books.can_get_snapshot:
            self._send(Kind.REFRESH, BOOKS_CHANNEL, [ticker], now_us)

    def _pause(self, now_us: int) -> None:
        bound = min(self._options.backoff_first_s * 2**self._refusals, self._options.backoff_limit_s)
        self._paused_until_us = now_us + int(self._random.uniform(0, bound) * _SECOND_US)

    def _count_refusal(self, reason: str, now_us: int, *, pauses: bool = True) -> None:
        self._refusals += 1
        if pauses:
            self._pause(now_us)
        if self._refusals > _MOST_REFUSALS:
            self._drop(
                "silent", f"{self._refusals} commands in a row came to nothing, the last with {reason}"
            )

    def _drop(self, cause: GapCause, reason: str) -> None:
        if not self.is_over:
            self.is_over = True
            self.effects.append(Drop(cause, reason))

    def _trouble(self, kind: GatherIncidentKind, detail: str) -> None:
        self.effects.append(Trouble(kind, detail))
