"""
The registry: which markets exist and trade, from three sources that each know a part. Pure.

* REST lists know everything, some seconds late, and say nothing of what has left them.
* Lifecycle messages know at once, but not of the two transitions that time makes, and a message lost
  is lost.
* The clock makes those two: a market opens at its open time and closes at its close time.

Rule 1: the later word stands. An answer to a question that was asked before a message came, or so shortly
after it that a cache may have answered, does not undo the message.
Rule 2: absence is no proof. A market that a whole sweep did not list is asked for by name before it goes.
Rule 3: what goes in comes out as an ordered stream of events; whoever follows it holds the same set.
"""

import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final, Literal, TypeAlias, final

import msgspec

from kalshibook.wire import MarketLifecycle
from kalshibook.wire.rest import Listing

__all__ = [
    "MarketAdded",
    "MarketChanged",
    "MarketRegistry",
    "MarketRemoved",
    "RegistryEvent",
    "RegistryStatistics",
]

RemovalReason: TypeAlias = Literal[
    "closed", "determined", "disputed", "amended", "finalized", "settled", "gone"
]


class MarketAdded(msgspec.Struct, frozen=True, gc=False):
    """A market is to be gathered from now on."""

    ticker: str
    is_combo: bool


class MarketRemoved(msgspec.Struct, frozen=True, gc=False):
    """A market is over: nothing will be said about its book any more."""

    ticker: str
    reason: RemovalReason


class MarketChanged(msgspec.Struct, frozen=True, gc=False):
    """Something about a market is new; it is gathered on."""

    ticker: str
    change: Literal["status", "close", "grid", "metadata"]
    status: str
    """The exchange's word, as it is after the change."""


RegistryEvent: TypeAlias = MarketAdded | MarketRemoved | MarketChanged


class RegistryStatistics(msgspec.Struct, frozen=True):
    """A registry's counts at one moment."""

    markets: int
    combos: int
    statuses: Mapping[str, int]
    """Markets by the exchange's word."""
    checks: int
    """Markets that wait to be asked for by name."""
    bytes_per_market: int
    """Memory over markets, all of it: names, columns, index, timers."""
    total_added: int
    total_removed: Mapping[str, int]
    """By reason."""
    total_refused: int
    """Markets that were not taken because the registry is full."""


_FREE: Final = 0
_INITIALIZED, _ACTIVE, _INACTIVE, _CLOSED = 1, 2, 3, 4
# A word that is not here is appended: a market in a state that nobody has heard of is gathered.
_WORDS: Final = (
    *("", "initialized", "active", "inactive", "closed"),
    *("determined", "disputed", "amended", "finalized", "settled"),
)
_OVER: Final = frozenset(range(5, 10))

_NEVER: Final = 2**62
_COMBO, _UNCONFIRMED = 1, 2

# A cache in front of the exchange keeps answers for about 15 s (seen in 2026); some more for the way.
_CACHED_US: Final = 20_000_000
# How long a market that went is remembered, so that a late answer does not bring it back. No question
# is under way for so long.
_GRAVE_US: Final = 10 * 60 * 1_000_000

_NUMBER_BITS: Final = 24
_NUMBER_MASK: Final = (1 << _NUMBER_BITS) - 1
_MOST_CHECKS: Final = 100_000
_SLACK: Final = 1_024
_PIECE: Final = 10_000


@final
class MarketRegistry:
    """
    All markets that are gathered, a quarter of a kilobyte each.

    Every method that can change the set takes the time and returns what became of it as events.

    Args:
        admits: whether a market that was asked for by name is to be gathered.
        admits_created: the same for one that a message announced.
        may_admit: the same for a ticker of which nothing else is known: then it is asked for.
        linger_us: how long a market is kept after its close; its book still drains by deltas.
        patience_us: how long after its announcement a market may be unknown to REST.
        most: markets at most; more are refused and counted.
    """

    def __init__(
        self,
        *,
        admits: Callable[[Listing], bool] = lambda _: True,
        admits_created: Callable[[MarketLifecycle], bool] = lambda _: True,
        may_admit: Callable[[str], bool] = lambda _: True,
        linger_us: int = 600_000_000,
        patience_us: int = 300_000_000,
        most: int = 2_000_000,
    ) -> None:
        self._admits = admits
        self._admits_created = admits_created
        self._may_admit = may_admit
        self._linger_us = linger_us
        self._patience_us = patience_us
        self._most = min(most, _NUMBER_MASK)
        # A market is a number, and each fact about it an element of a column: a million objects would
        # cost a gigabyte and a second of every collection.
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._status = bytearray()
        self._flags = bytearray()
        self._open_us = array("q")
        self._close_us = array("q")
        self._due_us = array("q")
        self._touched_s = array("I")
        self._seen = array("I")
        self._free: list[int] = []
        # Timers as one integer each, time before number. A timer that its market no longer means
        # (`_due_us` differs) is dropped when its time comes, or when such timers are the majority.
        self._timers: list[int] = []
        self._words = list(_WORDS)
        self._codes = {word: code for code, word in enumerate(_WORDS) if code}
        self._by_status: Counter[int] = Counter()
        self._combos = 0
        self._name_bytes = 0
        self._graves: dict[str, int] = {}
        self._checks: dict[str, int] = {}
        self._sweep = 0
        self._total_added = 0
        self._total_removed: Counter[str] = Counter()
        self._total_refused = 0

    # Reading.

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, ticker: object) -> bool:
        return ticker in self._numbers

    def __iter__(self) -> Iterator[str]:
        """Yield tickers; the set may change meanwhile, what is in it throughout is yielded once."""
        return self.tickers()

    def tickers(self, status: str | None = None) -> Iterator[str]:
        """
        Yield tickers, of one status or of all; the set may change meanwhile.

        Args:
            status: the exchange's word.
        """
        code = None if status is None else self._codes.get(status, -1)
        number = 0
        while number < len(self._names):
            found = self._status[number]
            if found != _FREE and (code is None or found == code):
                yield self._names[number]
            number += 1

    def count(self, status: str) -> int:
        """Return how many markets are in a status."""
        return self._by_status[self._codes.get(status, _FREE)]

    def status(self, ticker: str) -> str | None:
        """Return the exchange's word for a market, or None for one that is not here."""
        number = self._numbers.get(ticker)
        return None if number is None else self._words[self._status[number]]

    def open_us(self, ticker: str) -> int | None:
        """Return when a market opens, or None when that or the market is not known."""
        return self._time(self._open_us, ticker)

    def close_us(self, ticker: str) -> int | None:
        """Return when a market closes, or None when that or the market is not known."""
        return self._time(self._close_us, ticker)

    def is_combo(self, ticker: str) -> bool:
        """Tell whether a market that is here is a combination."""
        return bool(self._flags[self._numbers[ticker]] & _COMBO)

    def _time(self, column: "array[int]", ticker: str) -> int | None:
        number = self._numbers.get(ticker)
        return None if number is None or column[number] == _NEVER else column[number]

    @property
    def sweep(self) -> int:
        """Number of the sweep that began last."""
        return self._sweep

    def next_due_us(self) -> int | None:
        """Return when `advance` has something to do, or None for never."""
        return self._timers[0] >> _NUMBER_BITS if self._timers else None

    def statistics(self) -> RegistryStatistics:
        """Return the counts."""
        return RegistryStatistics(
            markets=len(self._numbers),
            combos=self._combos,
            statuses={self._words[code]: count for code, count in self._by_status.items() if count},
            checks=len(self._checks),
            bytes_per_market=self.bytes_used() // max(1, len(self._numbers)),
            total_added=self._total_added,
            total_removed=dict(self._total_removed),
            total_refused=self._total_refused,
        )

    def bytes_used(self) -> int:
        """Return the memory that the registry holds, in bytes, without what others hold too."""
        columns = (self._status, self._flags, self._open_us, self._close_us, self._due_us, self._touched_s)
        sized = (*columns, self._seen, self._numbers, self._names, self._free, self._timers)
        integers = sys.getsizeof(1 << 60) * len(self._timers) + sys.getsizeof(1_000) * len(self._names)
        return sum(map(sys.getsizeof, sized)) + integers + self._name_bytes

    # Lists of REST.

    def begin_sweep(self) -> int:
        """Begin to mark what the lists hold, and return the sweep's number."""
        self._sweep += 1
        return self._sweep

    def apply_page(self, listings: Iterable[Listing], *, asked_us: int, now_us: int) -> list[RegistryEvent]:
        """
        Take over markets that a list holds; they are seen by the present sweep.

        Args:
            listings: those that are to be gathered.
            asked_us: when the question went out.
            now_us: now.
        """
        events: list[RegistryEvent] = []
        for listing in listings:
            number = self._numbers.get(listing.ticker)
            if number is None:
                self._meet(listing, asked_us, now_us, events)
            else:
                self._update(number, listing, asked_us, now_us, events)
        return events

    def unseen(self) -> Iterator[list[str]]:
        """
        Yield the markets that the present sweep has not listed; to be called when it is complete.

        They come in pieces, one for each ten thousand markets that were looked at, so that other work
        can be done in between; events may come in meanwhile.
        """
        sweep = self._sweep
        for begin in range(0, len(self._names), _PIECE):
            yield [
                self._names[number]
                for number in range(begin, min(begin + _PIECE, len(self._names)))
                if self._status[number] != _FREE and self._seen[number] < sweep
            ]

    # Questions by name.

    def ask_about(self, ticker: str, *, not_before_us: int = 0) -> bool:
        """Note that a market must be asked for by name; False when too many wait already."""
        if ticker not in self._checks and len(self._checks) >= _MOST_CHECKS:
            return False
        self._checks[ticker] = not_before_us
        return True

    def take_checks(self, most: int, *, now_us: int) -> list[str]:
        """Return markets to ask for now, and forget that they wait."""
        found = list(islice((ticker for ticker, time in self._checks.items() if time <= now_us), most))
        for ticker in found:
            del self._checks[ticker]
        return found

    def apply_check(
        self, ticker: str, listing: Listing | None, *, asked_us: int, now_us: int
    ) -> list[RegistryEvent]:
        """
        Take over what the exchange said about one market.

        Args:
            ticker: the market.
            listing: what it said, or None when it does not know the market.
            asked_us: when the question went out.
            now_us: now.
        """
        events: list[RegistryEvent] = []
        number = self._numbers.get(ticker)
        if listing is not None:
            if number is not None:
                self._update(number, listing, asked_us, now_us, events)
            elif self._admits(listing):
                self._meet(listing, asked_us, now_us, events)
        elif number is not None:
            announced_us = self._touched_s[number] * 1_000_000
            young = self._flags[number] & _UNCONFIRMED and now_us - announced_us < self._patience_us
            if young or announced_us > asked_us - _CACHED_US:
                # REST may learn of a market minutes after it was announced.
                self.ask_about(ticker, not_before_us=now_us + min(self._patience_us, 60_000_000))
            else:
                self._remove(number, "gone", now_us, events)
        return events

    # Lifecycle messages and the clock.

    def apply_lifecycle(self, event: MarketLifecycle, *, now_us: int) -> list[RegistryEvent]:
        """Take over a lifecycle message."""
        events: list[RegistryEvent] = []
        number = self._numbers.get(event.ticker)
        if event.event_type in ("determined", "settled"):
            reason: RemovalReason = "determined" if event.event_type == "determined" else "settled"
            if number is None:
                self._bury(event.ticker, now_us)
            else:
                self._remove(number, reason, now_us, events)
        elif number is None:
            self._announce(event, now_us, events)
        else:
            self._touched_s[number] = _seconds_up(now_us)
            self._obey(number, event, now_us, events)
        return events

    def advance(self, *, now_us: int, most: int = 10_000) -> list[RegistryEvent]:
        """Let the time pass: open and close what is due, at most so many timers in one call."""
        events: list[RegistryEvent] = []
        for _ in range(most):
            if not self._timers or self._timers[0] >> _NUMBER_BITS > now_us:
                break
            timer = heappop(self._timers)
            number = timer & _NUMBER_MASK
            if self._due_us[number] == timer >> _NUMBER_BITS:
                self._due_us[number] = 0
                self._settle(number, self._status[number], now_us, events)
        for ticker, buried_us in list(islice(self._graves.items(), 1_000)):
            if buried_us + _GRAVE_US <= now_us:
                del self._graves[ticker]
        return events

    # One market.

    def _meet(self, listing: Listing, asked_us: int, now_us: int, events: list[RegistryEvent]) -> None:
        """Take a market in that is not here, unless it is over or went a moment ago."""
        buried_us = self._graves.get(listing.ticker)
        if buried_us is not None and buried_us > asked_us - _CACHED_US:
            return
        open_us, close_us = _or_never(listing.open_us), _or_never(listing.close_us)
        status = _by_time(self._code_of(listing.status), open_us, close_us, now_us)
        if status == _CLOSED or status in _OVER:
            return
        self._add(listing.ticker, status, open_us, close_us, _COMBO if listing.is_combo else 0, events)

    def _update(
        self, number: int, listing: Listing, asked_us: int, now_us: int, events: list[RegistryEvent]
    ) -> None:
        self._seen[number] = self._sweep
        self._flags[number] &= ~_UNCONFIRMED
        if self._touched_s[number] * 1_000_000 > asked_us - _CACHED_US:
            return
        code = self._code_of(listing.status)
        if code == _CLOSED == self._status[number]:
            # It lingers; what its close time once was must not prolong that.
            return
        close_us = _or_never(listing.close_us)
        self._open_us[number] = _or_never(listing.open_us)
        self._move_close(number, close_us, events)
        self._settle(number, code, now_us, events)

    def _announce(self, event: MarketLifecycle, now_us: int, events: list[RegistryEvent]) -> None:
        if event.event_type == "created":
            if self._admits_created(event):
                is_combo = event.channel == "multivariate_market_lifecycle"
                open_us, close_us = _or_never(event.open_us), _or_never(event.close_us)
                status = _by_time(_INITIALIZED, open_us, close_us, now_us)
                if status != _CLOSED:
                    flags = _UNCONFIRMED | (_COMBO if is_combo else 0)
                    self._graves.pop(event.ticker, None)
                    added = self._add(event.ticker, status, open_us, close_us, flags, events)
                    if added is not None:
                        self._touched_s[added] = _seconds_up(now_us)
        elif event.event_type != "deactivated" and self._may_admit(event.ticker):
            # Something moves that we do not follow: a filter may hide it, or we have missed its beginning.
            self._graves.pop(event.ticker, None)
            self.ask_about(event.ticker)

    def _obey(self, number: int, event: MarketLifecycle, now_us: int, events: list[RegistryEvent]) -> None:
        status = self._status[number]
        match event.event_type:
            case "created":
                self._open_us[number] = _or_never(event.open_us)
                self._move_close(number, _or_never(event.close_us), events)
            case "activated":
                status = _ACTIVE
            case "deactivated":
                status = _INACTIVE
            case "close_date_updated":
                if event.close_us is not None:
                    self._move_close(number, event.close_us, events)
                    if status == _CLOSED and event.close_us > now_us:
                        # Open again, once `activated` says so.
                        status = _INACTIVE
            case "price_level_structure_updated":
                events.append(MarketChanged(event.ticker, "grid", self._words[status]))
            case "metadata_updated":
                events.append(MarketChanged(event.ticker, "metadata", self._words[status]))
        self._settle(number, status, now_us, events)

    def _add(
        self,
        ticker: str,
        status: int,
        open_us: int,
        close_us: int,
        flags: int,
        events: list[RegistryEvent],
    ) -> int | None:
        if len(self._numbers) >= self._most:
            self._total_refused += 1
            return None
        if self._free:
            number = self._free.pop()
            self._names[number] = ticker
        else:
            number = len(self._names)
            self._names.append(ticker)
            self._status.append(_FREE)
            self._flags.append(0)
            for column in (self._open_us, self._close_us, self._due_us, self._touched_s, self._seen):
                column.append(0)
        self._numbers[ticker] = number
        self._status[number] = status
        self._flags[number] = flags
        self._open_us[number], self._close_us[number] = open_us, close_us
        self._touched_s[number] = 0
        self._seen[number] = self._sweep
        self._by_status[status] += 1
        self._combos += flags & _COMBO
        self._name_bytes += sys.getsizeof(ticker)
        self._total_added += 1
        events.append(MarketAdded(ticker, bool(flags & _COMBO)))
        self._schedule(number)
        return number

    def _remove(self, number: int, reason: RemovalReason, now_us: int, events: list[RegistryEvent]) -> None:
        ticker = self._names[number]
        del self._numbers[ticker]
        self._checks.pop(ticker, None)
        self._names[number] = ""
        self._by_status[self._status[number]] -= 1
        self._combos -= self._flags[number] & _COMBO
        self._name_bytes -= sys.getsizeof(ticker)
        self._status[number] = _FREE
        # A timer that is still in the heap must not mean the number's next market.
        self._due_us[number] = 0
        self._free.append(number)
        self._total_removed[reason] += 1
        self._bury(ticker, now_us)
        events.append(MarketRemoved(ticker, reason))

    def _bury(self, ticker: str, now_us: int) -> None:
        # At the end, whenever it was there before: `advance` forgets the oldest first.
        self._graves.pop(ticker, None)
        self._graves[ticker] = now_us

    def _move_close(self, number: int, close_us: int, events: list[RegistryEvent]) -> None:
        if close_us != self._close_us[number]:
            self._close_us[number] = close_us
            events.append(MarketChanged(self._names[number], "close", self._words[self._status[number]]))

    def _settle(self, number: int, status: int, now_us: int, events: list[RegistryEvent]) -> None:
        """Put a market into a status, or the one that time has made of it, and set its next timer."""
        status = _by_time(status, self._open_us[number], self._close_us[number], now_us)
        if status in _OVER:
            self._remove(number, self._words[status], now_us, events)  # type: ignore[arg-type]
            return
        if status == _CLOSED and self._close_us[number] > now_us:
            # Closed before its time: it lingers from now on.
            self._close_us[number] = now_us
        if status != self._status[number]:
            self._by_status[self._status[number]] -= 1
            self._by_status[status] += 1
            self._status[number] = status
            events.append(MarketChanged(self._names[number], "status", self._words[status]))
        if status == _CLOSED and self._close_us[number] + self._linger_us <= now_us:
            self._remove(number, "closed", now_us, events)
        else:
            self._schedule(number)

    def _schedule(self, number: int) -> None:
        status, due_us = self._status[number], self._close_us[number]
        if status == _INITIALIZED:
            due_us = min(due_us, self._open_us[number])
        elif status == _CLOSED:
            due_us += self._linger_us
        if due_us == self._due_us[number]:
            return
        if due_us >= _NEVER:
            self._due_us[number] = 0
            return
        self._due_us[number] = due_us
        heappush(self._timers, due_us << _NUMBER_BITS | number)
        if len(self._timers) > 2 * len(self._numbers) + _SLACK:
            self._timers = [due << _NUMBER_BITS | one for one, due in enumerate(self._due_us) if due]
            heapify(self._timers)

    def _code_of(self, word: str) -> int:
        code = self._codes.get(word)
        if code is None:
            # Two hundred new words would be nonsense; the last code then stands for all of them.
            if len(self._words) > 250:
                return len(self._words) - 1
            code = self._codes[word] = len(self._words)
            self._words.append(word)
        return code


def _by_time(status: int, open_us: int, close_us: int, now_us: int) -> int:
    """Return what time has made of a status: nobody sends a message at open and close time."""
    if status == _INITIALIZED and open_us <= now_us:
        status = _ACTIVE
    if close_us <= now_us and status != _CLOSED and status not in _OVER:
        return _CLOSED
    return status


def _or_never(time_us: int | None) -> int:
    return _NEVER if time_us is None else time_us


def _seconds_up(time_us: int) -> int:
    return -(-time_us // 1_000_000)
