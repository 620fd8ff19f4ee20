"""
The states of a market on its connection. Pure.

Rule 1: every change happens by this table.
Rule 2: only a snapshot makes a market live; what ends a subscription sends all of its markets back.
"""

from enum import StrEnum
from typing import Final

__all__ = ["MARKETS", "MarketEvent", "MarketState"]


class MarketState(StrEnum):
    """How far a market is followed."""

    WANTED = "wanted"
    """Not yet asked for on this subscription."""
    ASKED = "asked"
    """Asked for; its snapshot has not come."""
    LIVE = "live"
    DOUBTED = "doubted"
    """A loss may concern it; a snapshot was or will be asked for."""
    MISSING = "missing"
    """The exchange does not answer for it; it is asked for again now and then."""


class MarketEvent(StrEnum):
    """What can happen to it."""

    ASK = "ask"
    """It was subscribed to, or its snapshot was asked for."""
    SNAPSHOT = "snapshot"
    DOUBT = "doubt"
    """Numbers of its subscription are missing."""
    END = "end"
    """Its subscription has ended, or did not take it."""
    GIVE_UP = "give up"
    """Nothing came of asking, or the exchange says that it does not know it."""


_W, _A, _L, _D, _M = MarketState

MARKETS: Final[dict[MarketState, dict[MarketEvent, MarketState]]] = {
    _W: dict(zip(MarketEvent, (_A, _L, _W, _W, _M), strict=True)),
    _A: dict(zip(MarketEvent, (_A, _L, _D, _W, _M), strict=True)),
    _L: dict(zip(MarketEvent, (_L, _L, _D, _W, _L), strict=True)),
    _D: dict(zip(MarketEvent, (_D, _L, _D, _W, _M), strict=True)),
    _M: dict(zip(MarketEvent, (_M, _L, _M, _W, _M), strict=True)),
}
#                               ask snapshot doubt end give up
"""Next state, by state and event."""
