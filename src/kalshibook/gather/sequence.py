"""
Judges the numbers of one subscription, which count across all its markets. Pure.

The rules are Kalshi's as they were measured (2026): the first numbered frame of a subscription is
number 1, each numbered frame, `ok` and scoped errors among them, takes the next, and nothing else
does. Numbers belong to one subscription of one connection and end with it.
"""

from enum import StrEnum
from typing import Final, NamedTuple, final

__all__ = ["RULINGS", "Ruling", "SequenceWatch", "Verdict"]


class Verdict(StrEnum):
    """What a number says."""

    UNNUMBERED = "unnumbered"
    """There is none, as on `ticker`."""
    NEXT = "next"
    DUPLICATE = "duplicate"
    """The same number as the frame before."""
    GAP = "gap"
    """Numbers before it are missing."""
    LATE = "late"
    """A number that was missing, after all: frames changed places."""
    RESET = "reset"
    """Older than the last one and never missed: a replay, or a counter that began again."""


class Ruling(NamedTuple):
    """What follows from a verdict."""

    passes: bool
    """Whether the frame is handed on where only the order of frames gives them a meaning, as in a book."""
    stands_alone: bool
    """Whether it is handed on where each frame means something by itself, as a trade does."""
    is_broken: bool
    """Whether the subscription can be followed no further."""


RULINGS: Final = {
    Verdict.UNNUMBERED: Ruling(passes=True, stands_alone=True, is_broken=False),
    Verdict.NEXT: Ruling(passes=True, stands_alone=True, is_broken=False),
    Verdict.DUPLICATE: Ruling(passes=False, stands_alone=False, is_broken=False),
    # The frame that shows the loss is itself whole: it is the new base.
    Verdict.GAP: Ruling(passes=True, stands_alone=True, is_broken=False),
    # A snapshot asked for after the gap holds what a late change says; applied after it, it counts twice.
    Verdict.LATE: Ruling(passes=False, stands_alone=True, is_broken=False),
    Verdict.RESET: Ruling(passes=False, stands_alone=False, is_broken=True),
}

_RANGES: Final = 64
"""How many gaps are remembered to tell a late frame from a reset."""


@final
class SequenceWatch:
    """
    The numbers of one subscription.

    Example:
        >>> watch = SequenceWatch()
        >>> [watch.judge(number).value for number in (1, 2, 2, 5, 3, 6, 1)]
        ['next', 'next', 'duplicate', 'gap', 'late', 'next', 'reset']
        >>> watch.missing
        ((4, 4),)
    """

    __slots__ = ("_missing", "last")

    def __init__(self) -> None:
        self.last = 0
        """The highest number so far; the base of what comes next."""
        self._missing: list[tuple[int, int]] = []

    @property
    def missing(self) -> tuple[tuple[int, int], ...]:
        """Return the numbers that did not come, as first and last of each run, the newest gaps."""
        return tuple(self._missing)

    def judge(self, number: int | None) -> Verdict:
        """Say what the next frame's number means; it is the new base unless it goes back."""
        if number is None:
            return Verdict.UNNUMBERED
        last = self.last
        if number == last + 1:
            self.last = number
            return Verdict.NEXT
        if number > last:
            self._missing.append((last + 1, number - 1))
            del self._missing[:-_RANGES]
            self.last = number
            return Verdict.GAP
        if number == last:
            return Verdict.DUPLICATE
        return Verdict.LATE if self._fill(number) else Verdict.RESET

    def forget_missing(self) -> None:
        """What was missing has been made good: should it come now, it is a replay."""
        self._missing.clear()

    def _fill(self, number: int) -> bool:
        for place, (first, end) in enumerate(self._missing):
            if first <= number <= end:
                parts = [(first, number - 1), (number + 1, end)]
                self._missing[place : place + 1] = [part for part in parts if part[0] <= part[1]]
                return True
        return False
