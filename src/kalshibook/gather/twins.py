"""
One stream out of several connections that carry the same messages: each message passes once. Pure.

Lifecycle messages are few, and each missed one costs a market; so two connections follow them. A
message is known by its body. The same body may come again for good reason (paused, resumed, paused
again), so it is counted: it passes when a connection has seen it more often than it has passed.
"""

from collections import deque
from typing import Final, final

__all__ = ["Twins"]


class _Seen:
    __slots__ = ("by_connection", "passed")

    def __init__(self) -> None:
        self.passed = 0
        self.by_connection: dict[str, int] = {}


@final
class Twins:
    """
    Lets the first of equal messages pass.

    Example:
        >>> twins = Twins()
        >>> [twins.passes(connection, b"paused", now_us=0) for connection in ("a", "b", "b", "a")]
        [True, False, True, False]
    """

    def __init__(self, *, remember_us: int = 600_000_000, most: int = 200_000) -> None:
        """
        Begin with nothing seen.

        Args:
            remember_us: how long a message is remembered; its twin is expected within that.
            most: how many are remembered.
        """
        self._remember_us: Final = remember_us
        self._most: Final = most
        self._seen: dict[bytes, _Seen] = {}
        self._order: deque[tuple[int, bytes]] = deque()
        # A connection that joins has not seen what passed before: its counts begin there.
        self.dropped = 0
        """Messages that had passed already."""

    def passes(self, connection: str, body: bytes, *, now_us: int) -> bool:
        """
        Say whether a message is the first of its kind, and note that the connection has seen it.

        Args:
            connection: the socket epoch that it came by.
            body: what makes it the same message, without what its connection adds.
            now_us: the time.
        """
        self._expire(now_us)
        seen = self._seen.get(body)
        if seen is None:
            seen = self._seen[body] = _Seen()
            self._order.append((now_us, body))
        count = seen.by_connection[connection] = seen.by_connection.get(connection, 0) + 1
        if count > seen.passed:
            seen.passed = count
            return True
        self.dropped += 1
        return False

    def joined(self, connection: str) -> None:
        """Note that a connection begins: what has passed before now will not come on it."""
        for seen in self._seen.values():
            seen.by_connection[connection] = seen.passed

    def forget(self, connection: str) -> None:
        """Drop the counts of a connection that has ended."""
        for seen in self._seen.values():
            seen.by_connection.pop(connection, None)

    def _expire(self, now_us: int) -> None:
        order = self._order
        while order and (now_us - order[0][0] > self._remember_us or len(order) > self._most):
            del self._seen[order.popleft()[1]]
