"""One immutable version of the whole store, and how it is read."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import msgspec

from kalshibook.errors import UnknownMarket
from kalshibook.store.book import Book, TopOfBook
from kalshibook.store.directory import Directory
from kalshibook.store.nested import NestedVector

__all__ = ["EMPTY_VERSION", "ConditionCounts", "Cut", "StoreVersion", "Tops"]


class ConditionCounts(msgspec.Struct, frozen=True, gc=False):
    """How many markets are in each condition."""

    awaiting: int = 0
    live: int = 0
    stale: int = 0
    closed: int = 0


class StoreVersion(msgspec.Struct, frozen=True, gc=False):
    """Everything that changes together, published by one reference assignment."""

    number: int
    books: NestedVector[Book]
    offsets: "array[int]"
    """
    Next offset to consume by partition; -1 where nothing was consumed. Never changed once published.

    Every version has its own: a copy of an array of 64 costs a third of a tuple's, whose every number
    is an object to be counted.
    """
    applied_us: int
    behind: str | None
    """Why the store may be behind its feed, or None when it has caught up."""
    counts: ConditionCounts


EMPTY_VERSION = StoreVersion(
    0, NestedVector.empty(), array("q"), 0, "no feed has caught up yet", ConditionCounts()
)


class Tops(msgspec.Struct, frozen=True):
    """Tops of several books, all from one version."""

    cut: "Cut"
    tops: list[TopOfBook]
    """In the order asked for, each market once."""
    missing: list[str]
    """Tickers that no message has named."""


class Cut(Mapping[str, Book]):
    """
    The whole store as of one version: an immutable mapping from ticker to book.

    Taking a cut is one reference read; holding one keeps its version alive and blocks nobody.
    Books of every condition are in it: look at `Book.condition`.
    """

    __slots__ = ("_directory", "_version")

    def __init__(self, version: StoreVersion, directory: Directory) -> None:
        self._version = version
        self._directory = directory

    @property
    def version(self) -> int:
        """The version's number: one more for every record consumed and every step of time."""
        return self._version.number

    @property
    def offsets(self) -> Mapping[int, int]:
        """Next offset to consume, by partition."""
        pairs = {partition: offset for partition, offset in enumerate(self._version.offsets) if offset >= 0}
        return MappingProxyType(pairs)

    @property
    def applied_us(self) -> int:
        """When this version came into being, microseconds since the epoch."""
        return self._version.applied_us

    @property
    def ready(self) -> bool:
        """Whether the feed had caught up and was connected."""
        return self._version.behind is None

    @property
    def behind(self) -> str | None:
        """Why the books may be older than what the feed's source has, or None when they are not."""
        return self._version.behind

    @property
    def counts(self) -> ConditionCounts:
        """How many markets are in each condition."""
        return self._version.counts

    def reaches(self, min_offset: Mapping[int, int]) -> bool:
        """Tell whether the record at each offset is consumed, by partition."""
        offsets = self._version.offsets
        return all(
            0 <= partition < len(offsets) and offsets[partition] > offset
            for partition, offset in min_offset.items()
        )

    def __getitem__(self, ticker: str) -> Book:
        """
        Return a book in whatever condition.

        Raises:
            UnknownMarket: no message had named it; also a KeyError.
        """
        number = self._directory.number(ticker)
        if number is None or number >= len(self._version.books):
            raise UnknownMarket(ticker)
        return self._version.books[number]

    def __len__(self) -> int:
        """Count the markets."""
        return len(self._version.books)

    def __iter__(self) -> Iterator[str]:
        """Walk the tickers in the order in which they were first seen."""
        return (book.market.ticker for book in self._version.books)

    def books(self) -> Iterator[Book]:
        """Walk the books by number; cheaper than `values()`."""
        return iter(self._version.books)

    def changed_since(self, older: "Cut | None") -> Iterator[Book]:
        """
        Walk the books that differ from those of an older cut of the same store, by number.

        It costs what has changed, not what there is: both cuts share everything else.

        Args:
            older: the cut to compare with; None walks all books.
        """
        if older is None:
            return iter(self._version.books)
        return self._version.books.changed_since(older._version.books)  # noqa: SLF001 - of its own kind

    def tickers(
        self, *, prefix: str = "", contains: str = "", after: str = "", limit: int | None = None
    ) -> list[str]:
        """
        Return tickers in order.

        Args:
            prefix: how they begin.
            contains: what stands in them.
            after: only those that sort behind it, to page on.
            limit: how many at most.
        """
        return self._directory.search(
            count=len(self), prefix=prefix, contains=contains, after=after, limit=limit
        )

    def select(self, tickers: Iterable[str]) -> tuple[list[Book], list[str]]:
        """
        Return the books of many markets, and the tickers that no message has named.

        Args:
            tickers: in the order in which the books are wanted; duplicates count once.
        """
        numbers, missing = self.numbers(dict.fromkeys(tickers))
        return self.numbered(numbers), missing

    def numbers(self, tickers: Iterable[str]) -> tuple[list[int], list[str]]:
        """
        Return the numbers of the tickers that messages have named, and the other tickers.

        A market keeps its number in all later versions, so who asks for the same ones again and again
        needs to do this once.
        """
        return self._directory.split(tickers, self._version.books.length)

    def numbered(self, numbers: Iterable[int]) -> list[Book]:
        """
        Return the books of many markets by their numbers, in their order.

        Raises:
            IndexError: a market is not known in this version.
        """
        return self._version.books.many(numbers)

    def tops(self, tickers: Iterable[str]) -> Tops:
        """Return the tops of the named markets, duplicates once, unknown ones in `missing`."""
        books, missing = self.select(tickers)
        return Tops(self, [book.top() for book in books], missing)
