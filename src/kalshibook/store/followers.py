"""
Which books follow which origin: found without walking over all books.

A notice of a gatherer concerns one socket of it, perhaps 7,500 of a million markets. So each origin
has a list of the markets that took a snapshot of it. Lists only grow, and what they hold is checked
when it is used: a book that moved on to another origin stands in that one's list as well.
"""

from array import array
from collections.abc import Callable, Iterator
from typing import Final

from kalshibook.store.book import Book, Origin
from kalshibook.store.states import Condition

__all__ = ["Followers"]

_SLACK: Final = 4_096
"""Entries beyond twice the books alive before a group is tidied; small ones are not worth it."""

_LIVE: Final = Condition.LIVE


class _Group:
    """What follows one source by one partition."""

    __slots__ = ("entries", "followed", "live", "origins")

    def __init__(self) -> None:
        self.origins: dict[Origin, array[int]] = {}
        self.entries = 0
        self.followed = 0
        self.live = 0


class Followers:
    """
    The followers of every origin. One thread; every live book stands in the list of its origin.

    Args:
        book: returns the current book of a number.
    """

    def __init__(self, book: Callable[[int], Book]) -> None:
        self._book = book
        self._groups: dict[tuple[str, int], _Group] = {}

    def moved(self, old: Book, new: Book) -> None:
        """Note that a book follows another origin than before, or became live or stale."""
        before, origin = old.origin, new.origin
        if before is not origin:
            if before is not None:
                self._group(before).followed -= 1
            if origin is not None:
                self._group(origin).followed += 1
        if old.copy is _LIVE and before is not None:
            self._group(before).live -= 1
        if new.copy is not _LIVE or origin is None:
            return
        group = self._group(origin)
        group.live += 1
        if old.copy is not _LIVE or before != origin:
            numbers = group.origins.get(origin)
            if numbers is None:
                numbers = group.origins[origin] = array("I")
            numbers.append(new.market.number)
            group.entries += 1
            if group.entries > 2 * group.live + _SLACK:
                self._tidy(group)

    def live_of(
        self,
        source: str | None = None,
        partition: int | None = None,
        connection: str | None = None,
        sid: int | None = None,
    ) -> list[Book]:
        """
        Return the live books that follow an origin of this scope, each once.

        Args:
            source: whose; None is all.
            partition: by which their records come; None is any.
            connection: of which socket epoch; None is any.
            sid: of which subscription; None is any.
        """
        found: dict[int, Book] = {}
        for group in self._groups_of(source, partition):
            for origin, numbers in group.origins.items():
                if connection in {None, origin.connection} and sid in {None, origin.sid}:
                    for number in numbers:
                        book = self._book(number)
                        if book.copy is _LIVE and (book.origin is origin or book.origin == origin):
                            found[number] = book
        return list(found.values())

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return how many books follow each source, and how many of them are live; from any thread."""
        counts: dict[str, tuple[int, int]] = {}
        # A copy, because the writer's thread may add a group meanwhile.
        for (source, _), group in self._groups.copy().items():
            followed, live = counts.get(source, (0, 0))
            counts[source] = (followed + group.followed, live + group.live)
        return counts

    def _group(self, origin: Origin) -> _Group:
        place = (origin.source, origin.partition)
        group = self._groups.get(place)
        if group is None:
            group = self._groups[place] = _Group()
        return group

    def _groups_of(self, source: str | None, partition: int | None) -> Iterator[_Group]:
        for (name, number), group in self._groups.items():
            if source in {None, name} and partition in {None, number}:
                yield group

    def _tidy(self, group: _Group) -> None:
        # Sockets come and go, and a market that heals often is entered often.
        kept: dict[Origin, array[int]] = {}
        for origin, numbers in group.origins.items():
            alive = array("I")
            for number in dict.fromkeys(numbers):
                book = self._book(number)
                if book.copy is _LIVE and book.origin == origin:
                    alive.append(number)
            if alive:
                kept[origin] = alive
        group.origins = kept
        group.entries = sum(map(len, kept.values()))
