"""
Gatherers beside the one that a book follows: they show when that one has fallen silent.

A live book takes nothing from another gatherer, for the changes of two would add up twice. But a
change that another one tells, and the followed one still does not long after, is a loss: the
followed gatherer is gone, or its subscription is.
"""

from typing import Final

from kalshibook.store.book import Book
from kalshibook.store.ladder import Stamps
from kalshibook.store.reducer import Arrival
from kalshibook.wire import BookDelta

__all__ = ["Rivals"]

_PATIENCE_US: Final = 5_000_000


class Rivals:
    """What other gatherers told of books that do not follow them. One thread."""

    def __init__(self) -> None:
        self._ahead: dict[tuple[int, str], tuple[Stamps, int]] = {}

    def loss(self, book: Book, event: BookDelta, arrival: Arrival) -> str | None:
        """
        Take a change that another gatherer told, and return how it proves a loss, or None.

        Times are compared on one clock each: the exchange's, then the other gatherer's.

        Args:
            book: live, and of another source than the change.
            event: the change.
            arrival: its arrival.
        """
        held = book.stamps
        if held is None or held.exchange_us is None or event.exchange_us is None or book.origin is None:
            return None
        if not event.change or event.exchange_us <= held.exchange_us or arrival.received_us is None:
            return None
        place = (book.market.number, arrival.source)
        ahead = self._ahead.get(place)
        # Stamps are one object per message: another one shows that the followed gatherer went on.
        if ahead is None or ahead[0] is not held:
            self._ahead[place] = (held, arrival.received_us)
            return None
        waited_us = arrival.received_us - ahead[1]
        if waited_us <= _PATIENCE_US:
            return None
        return (
            f"{arrival.source!r} tells changes that {book.origin.source!r} has not told"
            f" for {waited_us // 1_000} ms"
        )
