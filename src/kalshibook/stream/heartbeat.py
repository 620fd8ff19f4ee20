"""
Heartbeats: one task that pings every connection in turn, and cuts off what does not answer.

A task, two deadlines and a locked write for each ping cost three times as much, and of ten thousand idle
clients that is a fifth of a core. The first ping is due an interval after the handshake and every other an
interval after the last pong; a pong is due within its time after the ping: two queues, each in the order
in which its entries are due.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final, Protocol, final

import trio

__all__ = ["Beat", "Heartbeat", "Pinged"]

_LEAST_SLEEP_S: Final = 0.02
"""So that the pings of many clients, each due at its own moment, do not wake the task one by one."""

_PINGS_AT_ONCE: Final = 50
"""Half a millisecond's; clients that came together are due together."""


class Pinged(Protocol):
    """A connection, as far as its heartbeat knows it."""

    def ping(self, on_pong: Callable[[], None]) -> None:
        """Send a ping, without waiting, and call `on_pong` when it is answered."""

    def on_no_pong(self) -> None:
        """End: the last ping was not answered in time."""


@final
class Beat:
    """One connection's place in the queues."""

    __slots__ = ("_heartbeat", "connection", "pinged_at")

    def __init__(self, heartbeat: "Heartbeat", connection: Pinged) -> None:
        self._heartbeat = heartbeat
        self.connection: Pinged | None = connection
        self.pinged_at: float | None = None
        """When the ping was sent that is not answered yet; None when there is none."""

    def stop(self) -> None:
        """Leave the queues."""
        # What stands in them holds no connection any more; it drops out when it would be due.
        self.connection = None

    def answered(self) -> None:
        """Take the pong."""
        if self.pinged_at is not None:
            self.pinged_at = None
            self._heartbeat.plan(self)


@final
class Heartbeat:
    """
    The heartbeats of a server's connections; `run` it in a nursery.

    Args:
        interval_s: between a pong and the next ping, and before the first.
        timeout_s: for a pong to arrive.
    """

    def __init__(self, interval_s: float, timeout_s: float) -> None:
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._due: deque[tuple[float, Beat]] = deque()
        self._pinged: deque[tuple[float, Beat]] = deque()
        self._planned = trio.Event()

    def start(self, connection: Pinged) -> Beat:
        """Begin with a connection; stop what is returned when it has ended."""
        beat = Beat(self, connection)
        self.plan(beat)
        return beat

    def plan(self, beat: Beat) -> None:
        """Ping a connection an interval from now."""
        self._due.append((trio.current_time(), beat))
        self._planned.set()

    async def run(self) -> None:
        """Ping whoever is due, until cancelled."""
        while True:
            now = trio.current_time()
            pings = 0
            while self._due and self._due[0][0] + self._interval_s <= now:
                self._ping(self._due.popleft()[1], now)
                pings += 1
                if not pings % _PINGS_AT_ONCE:
                    await trio.lowlevel.checkpoint()
            while self._pinged and self._pinged[0][0] + self._timeout_s <= now:
                self._judge(*self._pinged.popleft())
            await self._sleep(now)

    async def _sleep(self, now: float) -> None:
        judge_at = self._pinged[0][0] + self._timeout_s if self._pinged else inf
        if self._due:
            # What is planned meanwhile is due after all that is planned already.
            first = min(self._due[0][0] + self._interval_s, judge_at)
            await trio.sleep_until(max(first, now + _LEAST_SLEEP_S))
            return
        self._planned = trio.Event()
        with trio.move_on_at(judge_at):
            await self._planned.wait()

    def _ping(self, beat: Beat, now: float) -> None:
        if beat.connection is not None:
            beat.pinged_at = now
            self._pinged.append((now, beat))
            beat.connection.ping(beat.answered)

    @staticmethod
    def _judge(pinged_at: float, beat: Beat) -> None:
        # Of a ping that was answered; the next one has an entry of its own.
        if beat.connection is not None and beat.pinged_at == pinged_at:
            beat.connection.on_no_pong()
