"""A small exchange of markets behind httpx's test transport: lists, cursors, names, and what may go wrong."""

from collections.abc import Sequence
from typing import Any

import httpx
import msgspec

from kalshibook.gather.rest import ExchangeClient
from kalshibook.wire.rest import MARKETS_PER_PAGE

__all__ = ["ListedExchange", "Pool"]

_STATUS = {"unopened": "initialized", "open": "active", "paused": "inactive"}


class ListedExchange:
    """
    Answers lists of markets, and markets by name.

    The simulated exchange does that too; this one also forgets cursors, leaves markets out and fails.
    """

    def __init__(self, *tickers: str, close_time: str = "2026-09-01T00:00:00Z") -> None:
        self.close_time = close_time
        self.markets: dict[str, dict[str, Any]] = {}
        self.hidden: set[str] = set()
        self.asked: list[str] = []
        self.answers: list[httpx.Response | Exception | None] = []
        """What it answers next instead; None is what it would answer anyway."""
        self.forgets_cursors = False
        for ticker in tickers:
            self.add(ticker)

    def add(self, ticker: str, status: str = "active", **fields: Any) -> None:
        """Make up a market, or change one."""
        market = {
            "ticker": ticker,
            "event_ticker": ticker.rpartition("-")[0],
            "status": status,
            "close_time": self.close_time,
        }
        self.markets[ticker] = market | fields

    def client(self, **options: Any) -> ExchangeClient:
        """Return a client of it."""
        values: dict[str, Any] = {"read_budget": 100_000, "draw": lambda: 1.0} | options
        return ExchangeClient(
            "http://exchange.example/trade-api/v2", transport=httpx.MockTransport(self), **values
        )

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer."""
        target = request.url.raw_path.decode().removeprefix("/trade-api/v2")
        self.asked.append(target)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                return answer
        if request.url.path.endswith("/markets"):
            return self._list(request.url.params)
        market = self.markets.get(request.url.path.rpartition("/")[2])
        if market is None:
            return httpx.Response(404, content=b'{"code":"not_found","message":"no such market"}')
        return _json({"market": market})

    def _list(self, params: httpx.QueryParams) -> httpx.Response:
        if "tickers" in params:
            names: Sequence[str] = params["tickers"].split(",")
            return _json({"markets": [self.markets[name] for name in names if name in self.markets]})
        wanted = _STATUS[params["status"]]
        found = sorted(
            name
            for name, market in self.markets.items()
            if market["status"] == wanted and name not in self.hidden
        )
        if self.forgets_cursors and "cursor" in params:
            return httpx.Response(400, content=b'{"code":"bad_request","message":"invalid cursor"}')
        begin = int(params.get("cursor", "c0")[1:])
        end = begin + int(params.get("limit", MARKETS_PER_PAGE))
        cursor = f"c{end}" if end < len(found) else ""
        return _json({"markets": [self.markets[name] for name in found[begin:end]], "cursor": cursor})


class Pool:
    """Follows a sync as the pool of sockets does, and refuses what makes no sense."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.commands: list[tuple[str, int]] = []

    async def add(self, tickers: Sequence[str]) -> None:
        """Gather."""
        assert not set(self.held) & set(tickers)
        self.held += tickers
        self.commands.append(("add", len(tickers)))

    async def remove(self, tickers: Sequence[str]) -> None:
        """Gather no more."""
        for ticker in tickers:
            self.held.remove(ticker)
        self.commands.append(("remove", len(tickers)))


def _json(value: Any) -> httpx.Response:
    return httpx.Response(200, content=msgspec.json.encode(value))
