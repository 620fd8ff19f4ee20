"""
The states of a connection that is kept up. Pure.

Rule 1: every change happens by this table.
Rule 2: a handshake that fails at the start is retried like any later one; only a stop ends it.
"""

from enum import StrEnum
from typing import Final

__all__ = ["CONNECTIONS", "ConnectionEvent", "ConnectionState"]


class ConnectionState(StrEnum):
    """How far a connection is."""

    CONNECTING = "connecting"
    """The handshake is under way."""
    FILLING = "filling"
    """Open; snapshots, or the exchange's answers to subscriptions, are awaited."""
    LIVE = "live"
    """Open, and everything on it is whole."""
    WAITING = "waiting"
    """Lost or refused; tried again after a pause at random."""
    STOPPED = "stopped"


class ConnectionEvent(StrEnum):
    """What can happen to it."""

    OPENED = "opened"
    WHOLE = "whole"
    """The last market has its snapshot."""
    DOUBT = "doubt"
    """A market waits for a snapshot: it is new, or of a gap."""
    LOST = "lost"
    """Closed, refused, silent, or given up."""
    RETRY = "retry"
    """The pause is over."""
    STOP = "stop"


_C, _F, _L, _W, _S = ConnectionState

#                                               opened whole doubt lost retry stop
CONNECTIONS: Final[dict[ConnectionState, dict[ConnectionEvent, ConnectionState]]] = {
    _C: dict(zip(ConnectionEvent, (_F, _C, _C, _W, _C, _S), strict=True)),
    _F: dict(zip(ConnectionEvent, (_F, _L, _F, _W, _F, _S), strict=True)),
    _L: dict(zip(ConnectionEvent, (_L, _L, _F, _W, _L, _S), strict=True)),
    _W: dict(zip(ConnectionEvent, (_W, _W, _W, _W, _C, _S), strict=True)),
    _S: dict.fromkeys(ConnectionEvent, _S),
}
"""Next state, by state and event."""
