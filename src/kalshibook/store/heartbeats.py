"""
Whether the gatherers that promised signs of life still give them. Pure: every time is handed in.

A source that has said `alive` once says so again, in every partition; one that never did is not
judged. Two clocks judge, for two situations:

* While the store is caught up, the time spent listening: the sum of the timer's steps, each bounded.
  A process that was stopped for a minute has not listened for a minute, and accuses nobody.
* While it catches up, and at the moment when it has, the times of the records. What they tell was the
  same for who read them live: a source that died in the middle of what is read again is found dead
  there, and books change over to another one just as they did then.

Clocks of gatherers, brokers and stores must therefore agree to well within the patience.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

__all__ = ["PULSES", "Heartbeats", "LastSign", "LifeEvent", "Pulse", "Silence"]

_LONGEST_STEP_US: Final = 1_000_000
_MISSED: Final = 2
"""Signs that a slow gatherer may miss, whatever the patience."""


class Pulse(StrEnum):
    """What is known of a source's life."""

    UNJUDGED = "unjudged"
    """It never said that it is alive."""
    ALIVE = "alive"
    SILENT = "silent"
    """It owes a sign of life."""
    ENDED = "ended"
    """It said goodbye, and owes none."""


class LifeEvent(StrEnum):
    """What can happen to a source's life."""

    SIGN = "sign of life"
    QUIET = "patience is over"
    GOODBYE = "ended"


_U, _A, _S, _E = Pulse.UNJUDGED, Pulse.ALIVE, Pulse.SILENT, Pulse.ENDED

#          sign of life  patience is over  ended
PULSES: Final[dict[Pulse, dict[LifeEvent, Pulse]]] = {
    _U: {LifeEvent.SIGN: _A, LifeEvent.QUIET: _U, LifeEvent.GOODBYE: _U},
    _A: {LifeEvent.SIGN: _A, LifeEvent.QUIET: _S, LifeEvent.GOODBYE: _E},
    _S: {LifeEvent.SIGN: _A, LifeEvent.QUIET: _S, LifeEvent.GOODBYE: _E},
    _E: {LifeEvent.SIGN: _A, LifeEvent.QUIET: _E, LifeEvent.GOODBYE: _E},
}
"""Next pulse of a source in one partition. `silent` and `ended` put its books in doubt; a sign heals none."""


class LastSign(NamedTuple):
    """The last sign of life of a source in a partition; what must outlive a restart."""

    source: str
    partition: int
    said_us: int
    """By the record's own time."""
    interval_ms: int
    ended: bool


class Silence(NamedTuple):
    """A source that has fallen silent in a partition."""

    source: str
    partition: int
    quiet_us: int


class _Sign:
    __slots__ = ("heard_us", "interval_us", "pulse", "said_us")

    def __init__(self) -> None:
        self.said_us = self.heard_us = self.interval_us = 0
        self.pulse = Pulse.UNJUDGED


class Heartbeats:
    """
    The signs of life of all sources, by partition. One thread; `pulses` is for any.

    Args:
        patience_ms: how long a source may be silent; 0 judges nobody.
    """

    def __init__(self, patience_ms: int) -> None:
        self._patience_us = patience_ms * 1_000
        self._signs: dict[tuple[str, int], _Sign] = {}
        self._listened_us = 0
        self._ticked_us: int | None = None

    def alive(self, source: str, partition: int, said_us: int, interval_ms: int) -> bool:
        """
        Take a sign of life.

        Args:
            source: whose.
            partition: by which it came.
            said_us: its record's time.
            interval_ms: when the next one is due.

        Returns:
            Whether the source had been silent there.
        """
        sign = self._signs.get((source, partition))
        if sign is None:
            sign = self._signs[source, partition] = _Sign()
        was_silent = sign.pulse is Pulse.SILENT
        # A record's time may go back, by a clock that was set; the newest one is what counts.
        sign.said_us = max(sign.said_us, said_us)
        sign.heard_us, sign.interval_us = self._listened_us, interval_ms * 1_000
        sign.pulse = PULSES[sign.pulse][LifeEvent.SIGN]
        return was_silent

    def ended(self, source: str, partition: int) -> None:
        """Owe nothing any more: the source has said goodbye."""
        sign = self._signs.get((source, partition))
        if sign is not None:
            sign.pulse = PULSES[sign.pulse][LifeEvent.GOODBYE]

    def overdue(self, partition: int, now_us: int) -> list[Silence]:
        """
        Return who has fallen silent in a partition by the times of its records.

        Args:
            partition: which.
            now_us: the time of the record just read there.
        """
        return list(self._judged(now_us, partition, by_records=True))

    def caught_up(self, now_us: int) -> None:
        """Begin to listen: what was said last counts from when it was said."""
        self._ticked_us = now_us
        for sign in self._signs.values():
            sign.heard_us = self._listened_us - max(now_us - sign.said_us, 0)

    def tick(self, now_us: int) -> list[Silence]:
        """Let time pass while the store is caught up, and return who has fallen silent."""
        if self._ticked_us is not None:
            self._listened_us += min(max(now_us - self._ticked_us, 0), _LONGEST_STEP_US)
        self._ticked_us = now_us
        return list(self._judged(self._listened_us, None, by_records=False))

    def last_signs(self, partition: int) -> list[LastSign]:
        """Return what was said last in a partition."""
        return [
            LastSign(source, place, sign.said_us, sign.interval_us // 1_000, sign.pulse is _E)
            # A copy, because the writer's thread may add a source meanwhile.
            for (source, place), sign in self._signs.copy().items()
            if place == partition
        ]

    def restore(self, last: LastSign) -> None:
        """Take over what was said last before a restart."""
        self.alive(last.source, last.partition, last.said_us, last.interval_ms)
        if last.ended:
            self.ended(last.source, last.partition)

    def pulses(self) -> dict[str, tuple[Pulse, int]]:
        """Return the worst that is known of each source in any partition, and when it last said anything."""
        found: dict[str, tuple[Pulse, int]] = {}
        # A copy, because the writer's thread may add a source meanwhile.
        for (source, _), sign in self._signs.copy().items():
            held, said_us = found.get(source, (sign.pulse, 0))
            worst = _S if _S in {held, sign.pulse} else sign.pulse
            found[source] = (worst, max(said_us, sign.said_us))
        return found

    def _judged(self, now_us: int, partition: int | None, *, by_records: bool) -> Iterator[Silence]:
        if not self._patience_us:
            return
        for (source, place), sign in self._signs.items():
            after = PULSES[sign.pulse][LifeEvent.QUIET]
            if after is sign.pulse or partition not in {None, place}:
                continue
            quiet_us = now_us - (sign.said_us if by_records else sign.heard_us)
            if quiet_us > max(self._patience_us, _MISSED * sign.interval_us):
                sign.pulse = after
                yield Silence(source, place, quiet_us)
