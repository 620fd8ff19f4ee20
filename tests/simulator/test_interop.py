"""Clients that know nothing of us, unmodified but for the address, against the simulated exchange."""

import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pykalshi import KalshiClient
from pykalshi.exceptions import KalshiAPIError
from pykalshi.feed import OrderbookSnapshotMessage
from pykalshi.orderbook import OrderbookManager
from websockets.sync.client import ClientConnection, connect

from kalshibook.simulator import SimulatorOptions
from kalshibook.simulator.thread import ThreadedExchange, exchange_in_thread
from kalshibook.simulator.truth import TrueBook
from tests.simulator.signing import Signer

WS_PATH = "/trade-api/ws/v2"


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer("key-1")


@pytest.fixture
def exchange(signer: Signer) -> Iterator[ThreadedExchange]:
    options = SimulatorOptions(
        markets=12, messages_per_second=400, quiet_markets=30, rest_lag_ms=0, read_tokens_per_second=0
    )
    with exchange_in_thread(options) as exchange:
        exchange.do(lambda it: it.register_key(signer.key_id, signer.public_pem))
        yield exchange


@pytest.fixture
def client(exchange: ThreadedExchange, signer: Signer, tmp_path: Path) -> Iterator[KalshiClient]:
    path = tmp_path / "key.pem"
    path.write_bytes(signer.private_pem)
    with KalshiClient(signer.key_id, str(path), api_base=exchange.rest_url) as client:
        yield client


def busy_tickers(exchange: ThreadedExchange) -> list[str]:
    """Return markets that trade."""
    return exchange.do(lambda it: [one.ticker for one in it.venue.model.held() if one.status == "active"])


def decimals(book: TrueBook) -> dict[str, dict[Decimal, Decimal]]:
    """Return the truth as the SDK keeps books."""
    return {
        side: {Decimal(price) / 10_000: Decimal(size) / 100 for price, size in levels}
        for side, levels in (("yes", book.yes), ("no", book.no))
    }


def test_the_sdk_reads_rest(exchange: ThreadedExchange, client: KalshiClient) -> None:
    """Its models take our markets, events, series, books, trades and status, and it pages through all."""
    tickers = exchange.do(lambda it: it.tickers)
    markets = client.get_markets(limit=7, fetch_all=True)
    assert set(tickers) >= {market.ticker for market in markets}
    assert len(tickers) - 3 <= len(markets)
    one = client.get_market(tickers[0])
    assert tickers[0] == one.ticker
    truth = decimals(exchange.do(lambda it: it.truth(tickers[0])))
    levels = one.get_orderbook().orderbook.yes_dollars or []
    assert truth["yes"] == {Decimal(price): Decimal(size) for price, size in levels}
    assert one.event_ticker is not None
    event = client.get_event(one.event_ticker)
    assert one.event_ticker == event.event_ticker
    assert one.event_ticker in {found.event_ticker for found in client.get_events(fetch_all=True)}
    assert event.series_ticker == client.get_series(event.series_ticker).ticker
    exchange.do(lambda it: it.step(3_000))
    assert 5 == len(client.get_trades(limit=5))
    assert client.exchange.get_status().trading_active
    with pytest.raises(KalshiAPIError):
        client.get_market("KXTYPO")


def test_the_sdk_is_refused_without_its_key(exchange: ThreadedExchange, tmp_path: Path) -> None:
    """A signature by another key is refused over REST."""
    path = tmp_path / "other.pem"
    path.write_bytes(Signer("key-1").private_pem)
    with (
        KalshiClient("key-1", str(path), api_base=exchange.rest_url) as client,
        pytest.raises(KalshiAPIError, match="authentication"),
    ):
        client.get_markets(limit=1)


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


def test_the_sdk_rebuilds_the_books(exchange: ThreadedExchange, client: KalshiClient) -> None:
    """Its feed, signed by its own code, folds our frames to the true books while they move."""
    tickers = busy_tickers(exchange)
    books = Books()
    feed = client.feed()
    feed._ws_url = exchange.stream_url
    feed.on("orderbook_delta", books.on_message)
    feed.subscribe("orderbook_delta", market_tickers=tickers)
    with feed:
        books.wait_for(lambda: len(books.books) == len(tickers))
        exchange.do(lambda it: it.step(500))
        exchange.do(lambda it: it.freeze())
        truth = exchange.do(lambda it: {ticker: decimals(it.truth(ticker)) for ticker in tickers})
        books.wait_for(lambda: truth == {ticker: books.sides(ticker) for ticker in tickers})


def say(socket: ClientConnection, cmd: str, **params: Any) -> None:
    """Send a command."""
    socket.send(json.dumps({"id": 1, "cmd": cmd, "params": params}))


def hear(socket: ClientConnection) -> Any:
    """Return the next frame."""
    return json.loads(socket.recv(timeout=20))


def test_websockets_follows_a_market_without_a_hole(exchange: ThreadedExchange, signer: Signer) -> None:
    """The library's handshake is accepted, and numbers rise by one."""
    ticker = busy_tickers(exchange)[0]
    with connect(exchange.stream_url, additional_headers=signer.headers(WS_PATH), max_queue=None) as socket:
        say(socket, "subscribe", channels=["orderbook_delta"], market_tickers=[ticker])
        assert "subscribed" == hear(socket)["type"]
        snapshot = hear(socket)
        assert ("orderbook_snapshot", 1) == (snapshot["type"], snapshot["seq"])
        exchange.do(lambda it: it.step(500))
        numbers = [hear(socket)["seq"] for _ in range(5)]
        assert [2, 3, 4, 5, 6] == numbers
