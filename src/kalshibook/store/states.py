"""
The two state machines of a market: the condition of our copy, and the exchange's trading status.

Rule 1: every change of either happens by these tables.
Rule 2: nothing here knows about Kafka, threads or clients.

They are separate because they answer separate questions. `COPIES` says whether what we hold
equals the exchange's book; `STATUSES` says what the exchange allows. A reader sees one word,
the *condition*: `closed` once the market is over, else the state of our copy. The copy's state
lives on below it, so a market that reopens is as trustworthy as it was.
"""

from enum import StrEnum
from typing import Final

__all__ = [
    "CHANGEOVER",
    "COPIES",
    "OVER",
    "STATUSES",
    "Condition",
    "CopyEvent",
    "MarketStatus",
    "StatusEvent",
    "Word",
    "condition_of",
]


class Word(StrEnum):
    """Members that are looked up as fast as their text: Enum's own hash is written in Python."""

    __hash__ = str.__hash__


class Condition(Word):
    """How far a book can be trusted."""

    AWAITING = "awaiting"
    """No snapshot has arrived: the book is unknown, not empty."""
    LIVE = "live"
    """Equal to the exchange's book as far as everything received tells."""
    STALE = "stale"
    """In doubt since a loss or an impossible change; a new snapshot heals it."""
    CLOSED = "closed"
    """The market is past its close, determined or settled."""


class CopyEvent(Word):
    """What can happen to our copy of a book."""

    SNAPSHOT = "snapshot"
    DELTA = "delta"
    """A change that fits."""
    DOUBT = "doubt"
    """A loss, an impossible change, or a message that could not be read."""


class MarketStatus(Word):
    """Trading status as the exchange's REST interface names it."""

    INITIALIZED = "initialized"
    ACTIVE = "active"
    INACTIVE = "inactive"
    CLOSED = "closed"
    DETERMINED = "determined"
    DISPUTED = "disputed"
    AMENDED = "amended"
    FINALIZED = "finalized"


class StatusEvent(StrEnum):
    """What moves the trading status: lifecycle messages, and the two moments that have none."""

    CREATED = "created"
    OPENS = "open time passed"
    CLOSES = "close time passed"
    ACTIVATED = "activated"
    DEACTIVATED = "deactivated"
    DETERMINED = "determined"
    SETTLED = "settled"


_A, _L, _S = Condition.AWAITING, Condition.LIVE, Condition.STALE

#               snapshot  delta  doubt
COPIES: Final[dict[Condition, dict[CopyEvent, Condition]]] = {
    Condition.AWAITING: {CopyEvent.SNAPSHOT: _L, CopyEvent.DELTA: _A, CopyEvent.DOUBT: _A},
    Condition.LIVE: {CopyEvent.SNAPSHOT: _L, CopyEvent.DELTA: _L, CopyEvent.DOUBT: _S},
    Condition.STALE: {CopyEvent.SNAPSHOT: _L, CopyEvent.DELTA: _S, CopyEvent.DOUBT: _S},
}
"""Next state of our copy. A closed market's copy goes on through the same states, unseen."""

CHANGEOVER: Final[dict[Condition, bool]] = {
    Condition.AWAITING: True,
    Condition.LIVE: False,
    Condition.STALE: True,
}
"""
Whether a book takes the snapshot of another gatherer than the one it follows, by the state of its copy.

While it is live it takes nothing: the changes of two would add up twice.
"""

_M = MarketStatus
_E = StatusEvent

# None is a market of which no lifecycle message was seen: it trades until something says otherwise.
STATUSES: Final[dict[MarketStatus | None, dict[StatusEvent, MarketStatus | None]]] = {
    None: {
        _E.CREATED: _M.INITIALIZED,
        _E.OPENS: _M.ACTIVE,
        _E.CLOSES: _M.CLOSED,
        _E.ACTIVATED: _M.ACTIVE,
        _E.DEACTIVATED: _M.INACTIVE,
        _E.DETERMINED: _M.DETERMINED,
        _E.SETTLED: _M.FINALIZED,
    },
    _M.INITIALIZED: {
        _E.CREATED: _M.INITIALIZED,
        _E.OPENS: _M.ACTIVE,
        _E.CLOSES: _M.CLOSED,
        _E.ACTIVATED: _M.ACTIVE,
        _E.DEACTIVATED: _M.INACTIVE,
        _E.DETERMINED: _M.DETERMINED,
        _E.SETTLED: _M.FINALIZED,
    },
    _M.ACTIVE: {
        _E.CREATED: _M.ACTIVE,
        _E.OPENS: _M.ACTIVE,
        _E.CLOSES: _M.CLOSED,
        _E.ACTIVATED: _M.ACTIVE,
        _E.DEACTIVATED: _M.INACTIVE,
        _E.DETERMINED: _M.DETERMINED,
        _E.SETTLED: _M.FINALIZED,
    },
    _M.INACTIVE: {
        _E.CREATED: _M.INACTIVE,
        _E.OPENS: _M.INACTIVE,
        _E.CLOSES: _M.CLOSED,
        _E.ACTIVATED: _M.ACTIVE,
        _E.DEACTIVATED: _M.INACTIVE,
        _E.DETERMINED: _M.DETERMINED,
        _E.SETTLED: _M.FINALIZED,
    },
    _M.CLOSED: {
        _E.CREATED: _M.CLOSED,
        _E.OPENS: _M.CLOSED,
        _E.CLOSES: _M.CLOSED,
        _E.ACTIVATED: _M.ACTIVE,
        _E.DEACTIVATED: _M.CLOSED,
        _E.DETERMINED: _M.DETERMINED,
        _E.SETTLED: _M.FINALIZED,
    },
    _M.DETERMINED: {
        _E.CREATED: _M.DETERMINED,
        _E.OPENS: _M.DETERMINED,
        _E.CLOSES: _M.DETERMINED,
        _E.ACTIVATED: _M.DETERMINED,
        _E.DEACTIVATED: _M.DETERMINED,
        _E.DETERMINED: _M.AMENDED,
        _E.SETTLED: _M.FINALIZED,
    },
    _M.DISPUTED: {
        _E.CREATED: _M.DISPUTED,
        _E.OPENS: _M.DISPUTED,
        _E.CLOSES: _M.DISPUTED,
        _E.ACTIVATED: _M.DISPUTED,
        _E.DEACTIVATED: _M.DISPUTED,
        _E.DETERMINED: _M.AMENDED,
        _E.SETTLED: _M.FINALIZED,
    },
    _M.AMENDED: {
        _E.CREATED: _M.AMENDED,
        _E.OPENS: _M.AMENDED,
        _E.CLOSES: _M.AMENDED,
        _E.ACTIVATED: _M.AMENDED,
        _E.DEACTIVATED: _M.AMENDED,
        _E.DETERMINED: _M.AMENDED,
        _E.SETTLED: _M.FINALIZED,
    },
    _M.FINALIZED: dict.fromkeys(StatusEvent, _M.FINALIZED),
}
"""Next trading status. `disputed` has no message of its own; it can only be read over REST."""

OVER: Final = frozenset({_M.CLOSED, _M.DETERMINED, _M.DISPUTED, _M.AMENDED, _M.FINALIZED})
"""Statuses in which nothing trades any more."""


def condition_of(copy: Condition, status: MarketStatus | None) -> Condition:
    """Return the one word that readers see."""
    return Condition.CLOSED if status in OVER else copy
