"""
The markets of one `orderbook_delta` subscription: what to ask for next, and what came of it. Pure.

A market becomes live by its snapshot and by nothing else. One whose snapshot does not come is asked
for with `get_snapshot`, then taken off the subscription and added again, then given up until later:
each way has been seen to work where the one before it did not.
"""

import random
from collections import deque
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import islice
from typing import Final, NamedTuple, final

from kalshibook.gather.effects import Effect, Overfull, Released, Tell, Trouble
from kalshibook.gather.incidents import GatherIncidentKind
from kalshibook.gather.ledger import GapLedger, OpenGap
from kalshibook.gather.markets import MARKETS, MarketEvent, MarketState
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.plan import Filling, Limits, SnapshotBudget
from kalshibook.gather.records import Notice
from kalshibook.wire.gaps import GapHealing

__all__ = ["Books", "Command", "Kind", "Shared"]

_LINGER_US: Final = 100_000
"""Markets that come one by one are added one by one, but not more often than this."""

_REFRESH_EVERY_US: Final = 1_000_000

# Shares of the snapshot budget that stay for what is more urgent.
_FOR_PEERS: Final = 0.25
_FOR_REFRESH: Final = 0.5

_LIVE: Final = MarketState.LIVE
_NOT_FOLLOWED: Final = frozenset({MarketState.WANTED, MarketState.MISSING})


class Kind(StrEnum):
    """What a command does."""

    SUBSCRIBE = "subscribe"
    ADD = "add_markets"
    DELETE = "delete_markets"
    SNAPSHOT = "get_snapshot"
    REFRESH = "refresh"
    """`get_snapshot` of live markets, so that a reader who joins late finds one."""
    REQUEST = "request"
    """`get_snapshot` of live markets that another gatherer has lost."""
    LIST = "list_subscriptions"


_OF_LIVE: Final = frozenset({Kind.REFRESH, Kind.REQUEST})
_SNAPSHOTS: Final = frozenset({Kind.SNAPSHOT, Kind.REFRESH, Kind.REQUEST})


@final
class Command:
    """A command that was sent, until all that follows from it has come."""

    __slots__ = ("channel", "deadline_us", "is_acknowledged", "kind", "named", "number", "tickers")

    def __init__(
        self, number: int, kind: Kind, channel: str, tickers: Iterable[str], deadline_us: int
    ) -> None:
        self.number = number
        self.kind = kind
        self.channel = channel
        self.tickers = dict.fromkeys(tickers)
        """Markets whose snapshots, or whose removal, it still waits for."""
        self.named = len(self.tickers)
        self.deadline_us = deadline_us
        self.is_acknowledged = False

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come of it."""
        return not self.tickers and (self.is_acknowledged or self.asks_for_snapshots)

    @property
    def asks_for_snapshots(self) -> bool:
        """Whether it is a `get_snapshot`, whose answer are the snapshots themselves."""
        return self.kind in _SNAPSHOTS

    @property
    def is_in_flight(self) -> bool:
        """Whether the exchange has not answered it yet."""
        return not self.is_acknowledged


class Shared(NamedTuple):
    """What all sessions of a gatherer have in common."""

    options: GatherOptions
    limits: Limits
    budget: SnapshotBudget
    ledger: GapLedger
    random: random.Random


@final
class Books:
    """
    Markets, and the queues of what is to be asked for them.

    Args:
        connection: id of the socket epoch.
        shared: of all sessions.
        effects: where wishes go.
        gaps: gaps of an earlier connection, whose markets are followed here.
    """

    def __init__(
        self, connection: str, shared: Shared, effects: deque[Effect], gaps: Iterable[OpenGap]
    ) -> None:
        self._connection = connection
        self._options = shared.options
        self._budget = shared.budget
        self._ledger = shared.ledger
        self._limits = shared.limits
        self._effects = effects
        self._filling = Filling(shared.limits)
        self.sid: int | None = None
        """The subscription, once the exchange has said so."""
        self.states: Final[dict[str, MarketState]] = {}
        self.gaps: list[OpenGap] = list(gaps)
        """Gaps whose markets are not all whole again."""
        self._healing: set[str] = set()
        self._wanted: dict[str, None] = {}
        self._parts: deque[list[str]] = deque()
        self._doubted: dict[str, None] = {}
        self._again: dict[str, None] = {}
        self._requested: dict[str, None] = {}
        self._leaving: dict[str, None] = {}
        # Markets of commands without an answer: the exchange may have carried them out all the same.
        self._perhaps: set[str] = set()
        self._missing: dict[str, int] = {}
        self._tries: dict[str, int] = {}
        self._asked: dict[str, Command] = {}
        self._added_us = -_LINGER_US
        self._refreshed_us: int | None = None
        self._refresh_due = 0.0
        self._refresh_order: list[str] = []
        self.can_get_snapshot = True

    # What is wanted.

    def add(self, tickers: Iterable[str]) -> None:
        """Follow markets; those already followed stay as they are."""
        for ticker in tickers:
            if ticker not in self.states:
                self.states[ticker] = MarketState.WANTED
                self._wanted[ticker] = None
                self._leaving.pop(ticker, None)

    def remove(self, tickers: Iterable[str], now_us: int) -> None:
        """Follow markets no more."""
        for ticker in tickers:
            state = self.states.pop(ticker, None)
            if state is None:
                continue
            for queue in (self._wanted, self._doubted, self._again, self._requested):
                queue.pop(ticker, None)
            self._missing.pop(ticker, None)
            self._tries.pop(ticker, None)
            self._no_longer_asked(ticker)
            self._whole(ticker, now_us)
            was_asked = state is not MarketState.WANTED or ticker in self._perhaps
            if was_asked and self.sid is not None:
                self._leaving[ticker] = None
            else:
                if was_asked:
                    self._perhaps.add(ticker)
                self._effects.append(Released((ticker,)))

    def leave(self, ticker: str) -> None:
        """Take a market off the subscription that is on it although nobody follows it."""
        if self.sid is not None:
            self._leaving[ticker] = None

    def request(self, tickers: Iterable[str]) -> int:
        """Ask for snapshots of those that are live, when nothing is more urgent; return how many."""
        wanted = [ticker for ticker in tickers if self.states.get(ticker) is _LIVE]
        self._requested.update(dict.fromkeys(wanted))
        return len(wanted)

    def heal(
        self, tickers: Iterable[str], reason: str = "diverged", detail: str = "its book cannot be right"
    ) -> int:
        """Ask at once for markets whose books are wrong for another reason than a gap; return how many."""
        wrong = [ticker for ticker in tickers if self.states.get(ticker) is _LIVE]
        for ticker in wrong:
            self._turn(ticker, MarketEvent.DOUBT)
            self._doubted[ticker] = None
            # Readers may not have seen what we saw. And where no snapshot comes, the market is taken off
            # the subscription to be added again: nobody follows it then.
            text = f"{detail}; a snapshot is asked for"
            self._effects.append(Tell(Notice("stale", reason, text, self._connection, self.sid, ticker)))
        return len(wrong)

    @property
    def missing(self) -> Iterable[str]:
        """Return the markets that the exchange does not answer for."""
        return self._missing.keys()

    def is_missing(self, ticker: str) -> bool:
        """Tell whether the exchange does not answer for a market."""
        return ticker in self._missing

    def is_being_added(self, ticker: str) -> bool:
        """Tell whether the exchange has not answered yet whether a market is on the subscription."""
        command = self._asked.get(ticker)
        return command is not None and command.kind is Kind.ADD and command.is_in_flight

    @property
    def is_healing(self) -> bool:
        """Whether markets of a gap of this subscription wait for their snapshots."""
        return bool(self._healing)

    def counts(self) -> dict[str, int]:
        """Return how many markets are in which state."""
        # By the list's own counting, the usual state first: looked at one by one, a million markets
        # held the sockets up for half a second each time somebody asked for health.
        values = list(self.states.values())
        found: dict[str, int] = {}
        left = len(values)
        for state in (_LIVE, *MarketState):
            if left and state.value not in found and (count := values.count(state)):
                found[state.value] = count
                left -= count
        return found

    @property
    def is_whole(self) -> bool:
        """Whether there is no market that is still to be asked for."""
        return not (self._wanted or self._parts or self._doubted or self._again)

    @property
    def some_live(self) -> str | None:
        """Return a live market, another each time, or None."""
        if not self.states:
            return None
        for _ in range(2):
            while self._refresh_order:
                ticker = self._refresh_order.pop()
                if self.states.get(ticker) is _LIVE:
                    return ticker
            self._refresh_order = list(reversed(self.states))
        return None

    # Commands.

    def choose(self, now_us: int, *, in_flight: int, is_subscribing: bool) -> tuple[Kind, list[str]] | None:
        """Return the next command, or None while there is nothing to say or no budget to say it."""
        if self.sid is None:
            if is_subscribing or not (batch := self._next_wanted(now_us)):
                return None
            return Kind.SUBSCRIBE, batch
        if self._perhaps:
            gone = [ticker for ticker in self._perhaps if ticker not in self.states]
            self._leaving.update(dict.fromkeys(sorted(gone)))
            self._perhaps.difference_update(gone)
        if self._leaving:
            return Kind.DELETE, self._taken(self._leaving)
        if self._doubted and self.can_get_snapshot:
            if not self._affords(len(self._doubted), now_us):
                return None
            return Kind.SNAPSHOT, self._taken(self._doubted)
        if self._doubted:
            self._again.update(self._doubted)
            self._doubted.clear()
        if self._again:
            return Kind.DELETE, self._taken(self._again)
        if (in_flight == 0 or not self._filling.is_searching) and (batch := self._next_wanted(now_us)):
            return Kind.ADD, batch
        if (
            self._requested
            and self.can_get_snapshot
            and self._affords(len(self._requested), now_us, _FOR_PEERS)
        ):
            return Kind.REQUEST, self._taken(self._requested)
        return self._next_refresh(now_us)

    def sent(self, command: Command) -> None:
        """Note that a command is on its way."""
        if command.kind is Kind.DELETE:
            return
        for ticker in command.tickers:
            self._no_longer_asked(ticker)
            self._asked[ticker] = command
            state = self.states.get(ticker)
            if state is not None:
                self.states[ticker] = MARKETS[state][MarketEvent.ASK]

    def acknowledged(self, command: Command, held: list[str] | None, now_us: int) -> None:
        """
        Note that the exchange has carried a command out.

        Args:
            command: which.
            held: all markets of the subscription now, where the exchange says.
            now_us: the time.
        """
        command.is_acknowledged = True
        if command.kind is Kind.DELETE:
            # Deleted to be added again, but for those that nobody wants any more.
            self._wanted.update((ticker, None) for ticker in command.tickers if ticker in self.states)
            released = tuple(ticker for ticker in command.tickers if ticker not in self.states)
            if released:
                self._effects.append(Released(released))
            self._perhaps.difference_update(command.tickers)
            command.tickers.clear()
        elif command.kind in {Kind.SUBSCRIBE, Kind.ADD}:
            self._perhaps.difference_update(command.tickers)
            command.deadline_us = now_us + self._timeout_us
            if held is not None:
                known = set(held)
                for ticker in [ticker for ticker in command.tickers if ticker not in known]:
                    del command.tickers[ticker]
                    self._give_up(ticker, now_us, "it is not in the list of the subscription's markets")
            self._filling.accepted(held=self._held() if held is None else len(held))

    def snapshot(self, ticker: str, now_us: int) -> Command | None:
        """Note a snapshot, and return the command that it answers, if it was asked for."""
        state = self.states.get(ticker)
        if state is None:
            return None
        command = self._no_longer_asked(ticker)
        if command is not None:
            # Each one that comes shows that the others are still on their way.
            command.deadline_us = now_us + self._timeout_us
        if state is not _LIVE:
            self.states[ticker] = MARKETS[state][MarketEvent.SNAPSHOT]
            for queue in (self._wanted, self._doubted, self._again):
                queue.pop(ticker, None)
            self._missing.pop(ticker, None)
            self._tries.pop(ticker, None)
        if self.gaps:
            self._whole(ticker, now_us)
        return command

    def overdue(self, command: Command, now_us: int) -> None:
        """Ask again, another way each time, for what a command should have brought by now."""
        if command.kind is Kind.DELETE:
            for ticker in command.tickers:
                (self._again if ticker in self.states else self._leaving)[ticker] = None
        elif command.kind in {Kind.SUBSCRIBE, Kind.ADD} and not command.is_acknowledged:
            self._perhaps.update(command.tickers)
            self.take_back(command)
        elif command.kind in _OF_LIVE:
            self.heal([*command.tickers], "silent", "its snapshot was asked for and has not come")
        else:
            self.escalate(command, now_us)

    def postponed(self, command: Command, now_us: int) -> None:
        """Ask again the same way: the exchange is too busy, which says nothing of the markets."""
        if not command.asks_for_snapshots:
            self.overdue(command, now_us)
            return
        for ticker in [*command.tickers]:
            self._no_longer_asked(ticker)
            if self.states.get(ticker) not in {None, _LIVE}:
                self._doubted[ticker] = None

    def take_back(self, command: Command, parts: int = 1) -> None:
        """Want the markets of a command that was not carried out, in so many commands."""
        tickers = [ticker for ticker in command.tickers if ticker in self.states]
        for ticker in tickers:
            self._asked.pop(ticker, None)
            self._turn(ticker, MarketEvent.END)
        if parts > 1:
            size = -(-len(tickers) // parts)
            self._parts.extend(tickers[start : start + size] for start in range(0, len(tickers), size))
        else:
            self._wanted = dict.fromkeys(tickers) | self._wanted

    def escalate(self, command: Command, now_us: int) -> None:
        """Try the next way for the markets of a command that brought no snapshot."""
        for ticker in [*command.tickers]:
            self._no_longer_asked(ticker)
            state = self.states.get(ticker)
            if state is None or state is _LIVE:
                continue
            tries = self._tries[ticker] = self._tries.get(ticker, 0) + 1
            if tries == 1:
                self._doubted[ticker] = None
            elif tries == 2:
                self._again[ticker] = None
            else:
                self._give_up(ticker, now_us, "its snapshot does not come")

    def refused_for_limit(self, command: Command, now_us: int) -> None:
        """Learn from error 26: ask for fewer, or send the rest elsewhere."""
        asked = [ticker for ticker in command.tickers if ticker in self.states]
        self.take_back(command)
        held = self._held()
        if not asked or self._filling.refused(held=held, asked=len(asked)):
            return
        rest = (*self._wanted, *(ticker for part in self._parts for ticker in part))
        self._wanted.clear()
        self._parts.clear()
        for ticker in rest:
            self.states.pop(ticker, None)
            self._whole(ticker, now_us)
        detail = f"a subscription of {held:,} markets takes no more; {len(rest):,} go elsewhere"
        self._effects.append(Trouble(GatherIncidentKind.LIMIT, detail))
        self._effects.append(Overfull(rest))

    def refused_for_names(self, command: Command, named: Iterable[str], now_us: int) -> None:
        """Leave out what the exchange names as invalid, and ask for the others again."""
        wrong = [ticker for ticker in named if ticker in command.tickers]
        if not wrong and command.named == 1:
            wrong = [*command.tickers]
        for ticker in wrong:
            command.tickers.pop(ticker)
            self._asked.pop(ticker, None)
            self._give_up(ticker, now_us, "the exchange calls its name invalid")
        if command.kind in {Kind.SUBSCRIBE, Kind.ADD}:
            # It does not say which one: by halves it is found.
            self.take_back(command, 1 if wrong else 2)
        else:
            self.escalate(command, now_us)

    # What happens to all.

    def doubt(self, gap: OpenGap) -> None:
        """Ask for every market of the subscription again: the lost frames may have been of any."""
        if gap.waiting:
            self.gaps.append(gap)
        self._healing = set(gap.waiting)
        for ticker, state in self.states.items():
            # Not yet on the subscription, as far as is known: a snapshot that was asked for alone would
            # make it live although its addition may still be refused, and nothing would follow it.
            if self.is_being_added(ticker):
                continue
            turned = MARKETS[state][MarketEvent.DOUBT]
            if turned is MarketState.DOUBTED:
                self.states[ticker] = turned
                self._doubted[ticker] = None

    def begin(self, now_us: int) -> None:
        """Wait no more for markets of earlier gaps that ended, or moved, while there was no connection."""
        gone = {ticker for gap in self.gaps for ticker in gap.waiting if ticker not in self.states}
        for ticker in gone:
            self._whole(ticker, now_us)

    def end(self) -> None:
        """Begin anew: the subscription is over."""
        self.sid = None
        if self._leaving:
            self._effects.append(Released(tuple(self._leaving)))
        for queue in (self._doubted, self._again, self._requested, self._leaving, self._missing, self._tries):
            queue.clear()
        self._asked.clear()
        self._parts.clear()
        self._perhaps.clear()
        self._healing.clear()
        self._filling = Filling(self._limits)
        for ticker in self.states:
            self._turn(ticker, MarketEvent.END)
        self._wanted = dict.fromkeys(self.states)

    def followed(self) -> list[str]:
        """Return the markets that a loss on the subscription may concern."""
        return [ticker for ticker, state in self.states.items() if state not in _NOT_FOLLOWED]

    def tick(self, now_us: int) -> None:
        """Ask again for what was given up long enough ago."""
        while self._missing:
            ticker, due_us = next(iter(self._missing.items()))
            if due_us > now_us:
                return
            del self._missing[ticker]
            self._tries[ticker] = 2
            self._again[ticker] = None

    def set_back(self, by_us: int) -> None:
        """Know that the clock was set back."""
        self._added_us -= by_us
        if self._refreshed_us is not None:
            self._refreshed_us -= by_us
        for ticker in self._missing:
            self._missing[ticker] -= by_us

    def give_up_nothing_of(self, command: Command) -> None:
        """Forget a command whose connection or subscription has ended."""
        for ticker in command.tickers:
            if self._asked.get(ticker) is command:
                del self._asked[ticker]

    @property
    def _timeout_us(self) -> int:
        return int(self._options.command_timeout_s * 1_000_000)

    def _held(self) -> int:
        return len(self.states) - len(self._wanted) - sum(map(len, self._parts))

    def _turn(self, ticker: str, event: MarketEvent) -> None:
        self.states[ticker] = MARKETS[self.states[ticker]][event]

    def _give_up(self, ticker: str, now_us: int, reason: str) -> None:
        if ticker not in self.states:
            return
        self._turn(ticker, MarketEvent.GIVE_UP)
        self._tries.pop(ticker, None)
        self._healing.discard(ticker)
        self._asked.pop(ticker, None)
        if self.states[ticker] is MarketState.MISSING:
            self._missing[ticker] = now_us + int(self._options.missing_retry_s * 1_000_000)
            self._effects.append(Trouble(GatherIncidentKind.MISSING, reason, ticker))

    def _no_longer_asked(self, ticker: str) -> Command | None:
        command = self._asked.pop(ticker, None)
        if command is not None:
            command.tickers.pop(ticker, None)
        return command

    def _whole(self, ticker: str, now_us: int) -> None:
        self._healing.discard(ticker)
        closed = False
        for gap in self.gaps:
            if ticker in gap.waiting and self._ledger.is_whole(gap, ticker, self._how(gap), now_us=now_us):
                closed = True
                detail = f"{gap.record.markets:,} markets of gap {gap.record.id} are whole again"
                self._effects.append(Trouble(GatherIncidentKind.HEALED, detail))
        if closed:
            self.gaps = [gap for gap in self.gaps if gap.waiting]

    def _how(self, gap: OpenGap) -> GapHealing:
        if gap.record.connection != self._connection:
            return "reconnected"
        return "snapshots" if gap.record.sid == self.sid else "resubscribed"

    def _affords(self, wanted: int, now_us: int, reserve: float = 0.0) -> bool:
        count = min(wanted, self._limits.per_command)
        return self._budget.take(count, now_us=now_us, reserve=reserve)

    def _taken(self, queue: dict[str, None]) -> list[str]:
        batch = list(islice(queue, self._limits.per_command))
        for ticker in batch:
            del queue[ticker]
        return batch

    def _next_wanted(self, now_us: int) -> list[str]:
        if self._parts:
            part = [ticker for ticker in self._parts[0] if ticker in self.states]
            if part and not self._budget.take(len(part), now_us=now_us):
                return []
            self._parts.popleft()
            return part or self._next_wanted(now_us)
        size = self._filling.size
        # One by one at first sight, in batches when they keep coming.
        if not self._wanted or (len(self._wanted) < size and now_us - self._added_us < _LINGER_US):
            return []
        batch = list(islice(self._wanted, size))
        if not self._budget.take(len(batch), now_us=now_us):
            return []
        self._added_us = now_us
        for ticker in batch:
            del self._wanted[ticker]
        return batch

    def _next_refresh(self, now_us: int) -> tuple[Kind, list[str]] | None:
        minutes = self._options.refresh_minutes
        if not minutes or not self.can_get_snapshot:
            return None
        if self._refreshed_us is None:
            self._refreshed_us = now_us
        passed_us = now_us - self._refreshed_us
        if passed_us < _REFRESH_EVERY_US:
            return None
        self._refreshed_us = now_us
        due = self._refresh_due + len(self.states) * passed_us / (minutes * 60_000_000)
        self._refresh_due = min(due, float(len(self.states)))
        count = min(int(self._refresh_due), self._limits.per_command, len(self.states))
        if not count or not self._affords(count, now_us, _FOR_REFRESH):
            return None
        self._refresh_due -= count
        batch = list(dict.fromkeys(islice(self._live(), count)))
        return (Kind.REFRESH, batch) if batch else None

    def _live(self) -> Iterator[str]:
        while (ticker := self.some_live) is not None:
            yield ticker
