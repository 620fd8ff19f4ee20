"""Which connection carries which market: the least loaded takes the next one. Pure."""

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple, final

from kalshibook.gather.plan import Limits

__all__ = ["Move", "Placement"]


class Move(NamedTuple):
    """A market that changes its connection."""

    ticker: str
    old: int
    new: int


@final
class Placement:
    """
    Places markets on connections, which are numbered from 0.

    A connection is added when all are full; `moves` then evens out. Until it is, the new one takes
    every new market.

    Example:
        >>> placement = Placement(Limits(per_connection=3, per_command=10), connections=2, most=4)
        >>> placement.add(["A", "B", "C", "D", "E", "F", "G"])
        {0: ['A', 'C', 'E'], 1: ['B', 'D', 'F'], 2: ['G']}
        >>> placement.moves(10)
        [Move(ticker='E', old=0, new=2)]
    """

    def __init__(self, limits: Limits, *, connections: int, most: int) -> None:
        """
        Begin with nothing placed.

        Args:
            limits: how many markets a connection takes.
            connections: how many there are at least.
            most: how many there may be; when all are full, markets wait in `homeless`.
        """
        self._limits = limits
        self._most = most
        self._homes: dict[str, int] = {}
        # Each in the order of arrival: the newest is moved first, as the least time was spent on it.
        self._markets: list[dict[str, None]] = [{} for _ in range(connections)]
        self._heap = [(0, number) for number in range(connections)]
        self._limit_of: dict[int, int] = {}
        self.homeless: dict[str, None] = {}
        """Markets that no connection has room for; `settle` tries again."""

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._markets)

    @property
    def loads(self) -> list[int]:
        """Markets by connection."""
        return [len(markets) for markets in self._markets]

    @property
    def imbalance(self) -> float:
        """The difference between most and least loaded, as a share of the mean; 0 for one market a piece."""
        loads = self.loads
        spread = max(loads) - min(loads)
        return 0.0 if spread <= 1 else spread * len(loads) / sum(loads)

    def __len__(self) -> int:
        return len(self._homes)

    def __contains__(self, ticker: object) -> bool:
        return ticker in self._homes

    def home(self, ticker: str) -> int | None:
        """Return the connection that carries a market, or None."""
        return self._homes.get(ticker)

    def on(self, connection: int) -> Iterator[str]:
        """Return the markets of a connection."""
        return iter(self._markets[connection])

    def add(self, tickers: Iterable[str]) -> dict[int, list[str]]:
        """Place markets, those already placed excepted, and return the new ones by connection."""
        placed: dict[int, list[str]] = {}
        for ticker in tickers:
            if ticker in self._homes:
                continue
            number = self._least_loaded()
            if number is None:
                self.homeless[ticker] = None
                continue
            self.homeless.pop(ticker, None)
            self._homes[ticker] = number
            self._markets[number][ticker] = None
            self._note_load(number)
            placed.setdefault(number, []).append(ticker)
        return placed

    def settle(self) -> dict[int, list[str]]:
        """Place what was homeless, as far as there is room now, and return it by connection."""
        return self.add(list(self.homeless)) if self.homeless else {}

    def remove(self, tickers: Iterable[str]) -> dict[int, list[str]]:
        """Take markets away and return them by connection; unknown ones are no error."""
        removed: dict[int, list[str]] = {}
        for ticker in tickers:
            self.homeless.pop(ticker, None)
            number = self._homes.pop(ticker, None)
            if number is not None:
                del self._markets[number][ticker]
                self._note_load(number)
                removed.setdefault(number, []).append(ticker)
        return removed

    def overfull(self, connection: int, tickers: Iterable[str]) -> dict[int, list[str]]:
        """Find another place for markets that a connection had no room for, and return where."""
        mine = [ticker for ticker in tickers if self._homes.get(ticker) == connection]
        self.remove(mine)
        self._limit_of[connection] = len(self._markets[connection])
        return self.add(mine)

    def moves(self, most: int, *, tolerance: float = 0.01) -> list[Move]:
        """
        Even out: move up to `most` markets from loaded connections to the others, and return them.

        Nothing is moved while the imbalance is within `tolerance`: a move costs a snapshot.
        """
        moved: list[Move] = []
        if self.imbalance <= tolerance:
            return moved
        full = [(-len(markets), number) for number, markets in enumerate(self._markets)]
        spare = [
            (len(markets), number)
            for number, markets in enumerate(self._markets)
            if len(markets) < self._limit(number)
        ]
        heapq.heapify(full)
        heapq.heapify(spare)
        while spare and len(moved) < most and -full[0][0] - spare[0][0] > 1:
            load, old = heapq.heappop(full)
            held, new = heapq.heappop(spare)
            ticker, _ = self._markets[old].popitem()
            self._markets[new][ticker] = None
            self._homes[ticker] = new
            moved.append(Move(ticker, old, new))
            heapq.heappush(full, (load + 1, old))
            if held + 1 < self._limit(new):
                heapq.heappush(spare, (held + 1, new))
        for number in {end for move in moved for end in move[1:]}:
            self._note_load(number)
        return moved

    def _note_load(self, number: int) -> None:
        heapq.heappush(self._heap, (len(self._markets[number]), number))

    def _least_loaded(self) -> int | None:
        heap = self._heap
        while heap:
            load, number = heap[0]
            if load == len(self._markets[number]) and load < self._limit(number):
                # Its load is about to change, and with it the entry.
                heapq.heappop(heap)
                return number
            # Full, or an entry that a later one has replaced. A full connection comes back with the
            # entry that is made when one of its markets leaves.
            heapq.heappop(heap)
        if len(self._markets) >= self._most:
            return None
        self._markets.append({})
        return len(self._markets) - 1

    def _limit(self, number: int) -> int:
        return min(self._limit_of.get(number, self._limits.per_connection), self._limits.per_connection)
