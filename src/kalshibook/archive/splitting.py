"""A batch that fails is split until what is bad stands alone. Pure: what is tried is given."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

__all__ = ["BadItem", "RowRefused", "Split", "split"]

Item = TypeVar("Item")


class RowRefused(Exception):  # noqa: N818 - reads as the fact it states
    """One of the rows that were tried cannot be stored, now or ever; the others can."""


class BadItem(NamedTuple):
    """What cannot be stored."""

    place: int
    """Its place in the batch."""
    reason: str


class Split(NamedTuple):
    """What became of a batch."""

    stored: int
    """As the attempts counted it."""
    bad: list[BadItem]


def split(items: Sequence[Item], attempt: Callable[[Sequence[Item]], int]) -> Split:
    """
    Store a batch, but for the items that are refused.

    A batch of n items with b bad ones takes at most about 2 b log2(n) attempts more than one.

    Args:
        items: in their order, which is kept.
        attempt: stores all of a part and returns how many rows that made, or stores nothing of it and
            raises `RowRefused`. Any other error goes through.
    """
    bad: list[BadItem] = []
    stored = 0
    # From left to right, because the order of storing is the order of reading.
    parts = [(0, len(items))] if items else []
    while parts:
        first, end = parts.pop()
        try:
            stored += attempt(items[first:end])
        except RowRefused as refused:
            if end - first == 1:
                bad.append(BadItem(first, str(refused)))
                continue
            middle = (first + end) // 2
            parts += ((middle, end), (first, middle))
    return Split(stored, bad)
