"""
Which refreshes say nothing new, as far as Kafka has acknowledged what was said before. Pure.

A refresh repeats a market's snapshot for readers who join late. Where they find snapshots elsewhere
(the topic `book-snapshots`), the repetition of a quiet market can be left out. What was published
counts from its delivery report on, and not before: a broker may lose what it has not acknowledged.
"""

from hashlib import blake2b
from typing import Final, final

__all__ = ["Repeats"]

_DIGEST_BYTES: Final = 8


class _Last:
    __slots__ = ("connection", "digest", "is_acknowledged", "sid", "turn")

    def __init__(self) -> None:
        self.connection = ""
        self.sid: int | None = None
        self.digest = b""
        self.is_acknowledged = False
        self.turn = 0


@final
class Repeats:
    """
    Remembers, per market, the last published snapshot while nothing has changed since.

    Example:
        >>> repeats = Repeats()
        >>> repeats.is_repeat("A", "c1", 3, b"book")
        False
        >>> turn = repeats.published("A", "c1", 3, b"book")
        >>> repeats.is_repeat("A", "c1", 3, b"book")
        False
        >>> repeats.acknowledged("A", turn)
        >>> repeats.is_repeat("A", "c1", 3, b"book"), repeats.is_repeat("A", "c1", 3, b"other")
        (True, False)
    """

    def __init__(self) -> None:
        self._markets: dict[str, _Last] = {}
        self.suppressed = 0
        """Refreshes that were left out."""

    def __len__(self) -> int:
        """Return how many markets are remembered."""
        return len(self._markets)

    def is_repeat(self, ticker: str, connection: str, sid: int | None, body: bytes) -> bool:
        """Say whether this snapshot equals what readers have, on the same subscription."""
        last = self._markets.get(ticker)
        found = (
            last is not None
            and last.is_acknowledged
            and (last.connection, last.sid, last.digest) == (connection, sid, _digest(body))
        )
        self.suppressed += found
        return found

    def published(self, ticker: str, connection: str, sid: int | None, body: bytes) -> int:
        """Note that a snapshot was handed to Kafka, and return what its report is to be noted with."""
        last = self._markets.get(ticker)
        if last is None:
            last = self._markets[ticker] = _Last()
        last.connection, last.sid, last.digest = connection, sid, _digest(body)
        last.is_acknowledged = False
        last.turn += 1
        return last.turn

    def acknowledged(self, ticker: str, turn: int) -> None:
        """Note that Kafka has a snapshot; one that something was published after counts no more."""
        last = self._markets.get(ticker)
        if last is not None and last.turn == turn and last.digest:
            last.is_acknowledged = True

    def changed(self, ticker: str) -> None:
        """Note that a change of the market was handed to Kafka."""
        last = self._markets.get(ticker)
        if last is not None:
            last.digest, last.is_acknowledged = b"", False

    def doubted(self, connection: str | None = None, sid: int | None = None, ticker: str = "") -> None:
        """Note that readers were told not to trust these books: the next snapshot is news to them."""
        if ticker:
            self._markets.pop(ticker, None)
            return
        if connection is None:
            self._markets.clear()
            return
        for name in [
            name
            for name, last in self._markets.items()
            if last.connection == connection and sid in {None, last.sid}
        ]:
            del self._markets[name]


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=_DIGEST_BYTES).digest()
