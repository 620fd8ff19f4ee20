"""What is true on the simulated exchange, in a form that any consumer can be compared with. Pure."""

from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from kalshibook.simulator.exchange import ModelMarket

__all__ = ["TrueBook", "Truth", "checksum_of", "total_checksum"]


class TrueBook(msgspec.Struct, frozen=True):
    """One market's book and status at an instant."""

    ticker: str
    status: str
    """In the exchange's words, such as ``active``."""
    at_us: int
    """The exchange's time, microseconds since the epoch."""
    yes: tuple[tuple[int, int], ...]
    """Resting YES bids as (price in $0.0001, size in 0.01 contract), ascending."""
    no: tuple[tuple[int, int], ...]
    """Resting NO bids, on the NO scale."""

    @classmethod
    def of(cls, market: ModelMarket, at_us: int) -> "TrueBook":
        """Take a market's book as it is."""
        return cls(
            market.ticker, market.status.value, at_us, tuple(market.levels("yes")), tuple(market.levels("no"))
        )


class Truth(msgspec.Struct, frozen=True):
    """All books at an instant, as one number."""

    at_us: int
    """The exchange's time, microseconds since the epoch."""
    markets: int
    """How many are listed."""
    changes: int
    """How many changes there were since the start."""
    checksum: str
    """Of all books, as `total_checksum` makes it."""


def checksum_of(book: TrueBook) -> int:
    """
    Return a number for a book's levels: the first 8 bytes of a BLAKE2b, 64 bits.

    What is hashed is ``TICKER|4000:100,4100:50|5500:20``: ticker, YES levels and NO levels as price in
    $0.0001 and size in 0.01 contract, ascending. An empty book is 0, so that it does not matter
    whether a consumer keeps the empty books of markets that have closed.
    """
    if not book.yes and not book.no:
        return 0
    sides = (",".join(f"{price}:{size}" for price, size in side) for side in (book.yes, book.no))
    text = f"{book.ticker}|{'|'.join(sides)}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def total_checksum(books: Iterable[TrueBook]) -> str:
    """Return the sum of the books' checksums modulo 2**64, as 16 hexadecimal digits; their order is free."""
    return f"{sum(map(checksum_of, books)) % 2**64:016x}"
