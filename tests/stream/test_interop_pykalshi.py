"""A stock Kalshi SDK, unmodified but for its address, as a client."""

import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pykalshi import KalshiClient
from pykalshi.feed import OrderbookSnapshotMessage
from pykalshi.orderbook import OrderbookManager

from kalshibook.http.options import HttpOptions
from kalshibook.server import BookServer, serve_in_thread
from kalshibook.store import BookStore
from kalshibook.stream.options import StreamOptions
from tests.stream.market import MARK, Market, decimals

TICKERS = ["KXFROG-26DEC01-T40", "KXFROG-26DEC01-T41.5"]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A throw-away key: the SDK signs every handshake, the server takes any signature."""
    private = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    path = tmp_path / "key.pem"
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


@pytest.fixture
def store() -> BookStore:
    return BookStore()


@pytest.fixture
def server(store: BookStore) -> Iterator[BookServer]:
    with serve_in_thread(store, http=HttpOptions(port=0), stream=StreamOptions(port=0)) as server:
        yield server


@pytest.fixture
def client(server: BookServer, key: Path) -> Iterator[KalshiClient]:
    base = f"{server.addresses.http_url}/trade-api/v2"
    with KalshiClient("throw-away", str(key), api_base=base) as client:
        yield client


class Books:
    """Books as the SDK's documentation tells its users to keep them."""

    def __init__(self) -> None:
        self.books: dict[str, OrderbookManager] = {}
        self.changed = threading.Condition()

    def on_message(self, message: Any) -> None:
        with self.changed:
            book = self.books.setdefault(message.market_ticker, OrderbookManager(message.market_ticker))
            if isinstance(message, OrderbookSnapshotMessage):
                book.apply_snapshot(message.yes_dollars, message.no_dollars)
            else:
                book.apply_delta(message.side, message.price_dollars, message.delta_fp)
            self.changed.notify_all()

    def wait_for(self, condition: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 20)

    def sides(self, ticker: str) -> dict[str, dict[Decimal, Decimal]]:
        book = self.books[ticker]
        return {
            side: {Decimal(price): Decimal(size) for price, size in levels.items()}
            for side, levels in (("yes", book.yes), ("no", book.no))
        }

    def finished(self) -> bool:
        mark = Decimal(MARK) / 10_000
        return len(self.books) == len(TICKERS) and all(
            mark in self.sides(ticker)["yes"] for ticker in TICKERS
        )


def test_the_sdk_rebuilds_the_books(store: BookStore, server: BookServer, client: KalshiClient) -> None:
    """Its feed folds our frames to our books, while they move."""
    markets = [Market(store, ticker=ticker, seed=seed) for seed, ticker in enumerate(TICKERS)]
    for market in markets:
        market.snapshot()
    books = Books()
    feed = client.feed()
    assert server.addresses.stream_url is not None
    feed._ws_url = server.addresses.stream_url
    feed.on("orderbook_delta", books.on_message)
    feed.subscribe("orderbook_delta", market_tickers=TICKERS)

    with feed:
        books.wait_for(lambda: len(books.books) == len(TICKERS))
        for _ in range(40):
            for market in markets:
                market.moves(10)
        for market in markets:
            market.finish()
        books.wait_for(books.finished)

    for ticker in TICKERS:
        assert decimals(store.cut()[ticker]) == books.sides(ticker)
