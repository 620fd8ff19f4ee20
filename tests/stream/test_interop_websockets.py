"""The `websockets` library, which knows nothing of us, as a client."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from kalshibook.server import serve_in_thread
from kalshibook.store import BookStore
from kalshibook.stream.options import StreamOptions
from tests.store.builders import TICKER
from tests.stream.market import FoldedBook, Market, decimals

MOVES = 600


@pytest.fixture
def store() -> BookStore:
    return BookStore()


@pytest.fixture
def url(store: BookStore) -> Iterator[str]:
    with serve_in_thread(store, http=None, stream=StreamOptions(port=0)) as server:
        assert server.addresses.stream_url is not None
        yield server.addresses.stream_url


def _send(client: ClientConnection, number: int, command: str, **params: object) -> None:
    client.send(json.dumps({"id": number, "cmd": command, "params": params}))


def _frame(client: ClientConnection) -> dict[str, Any]:
    frame: dict[str, Any] = json.loads(client.recv(timeout=10))
    return frame


def _subscribe(client: ClientConnection, book: FoldedBook) -> list[int]:
    _send(client, 1, "subscribe", channels=["orderbook_delta"], market_ticker=TICKER)
    assert "subscribed" == _frame(client)["type"]
    snapshot = _frame(client)
    book.apply(snapshot)
    return [snapshot["seq"]]


def _follow(client: ClientConnection, book: FoldedBook) -> list[int]:
    numbers = []
    while not book.finished:
        frame = _frame(client)
        numbers.append(frame["seq"])
        book.apply(frame)
    return numbers


def test_a_book_is_rebuilt_while_it_moves(store: BookStore, url: str) -> None:
    """Snapshot and deltas, numbered without a gap, fold to the store's book."""
    market, book = Market(store), FoldedBook()
    market.snapshot()
    market.moves(20)

    def move() -> None:
        market.moves(MOVES)
        market.finish()

    with connect(url) as client:
        numbers = _subscribe(client, book)
        moving = threading.Thread(target=move)
        moving.start()
        numbers += _follow(client, book)
        moving.join()

    assert list(range(1, MOVES + 3)) == numbers
    assert (1, MOVES + 1) == (book.snapshots, book.deltas)
    assert decimals(store.cut()[TICKER]) == book.sides


def test_no_hole_between_a_snapshot_and_what_follows(store: BookStore, url: str) -> None:
    """Clients that subscribe one by one while the book moves all end with the store's book."""
    market = Market(store)
    market.snapshot()
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            market.moves(10)
        market.finish()

    moving = threading.Thread(target=move)
    moving.start()
    with ExitStack() as stack:
        visits = []
        for _ in range(8):
            client, book = stack.enter_context(connect(url)), FoldedBook()
            _subscribe(client, book)
            visits.append((client, book))
        stop.set()
        moving.join()
        for client, book in visits:
            _follow(client, book)

    assert [decimals(store.cut()[TICKER])] * 8 == [book.sides for _, book in visits]


def test_another_path_is_not_found(url: str) -> None:
    """A handshake elsewhere is answered with 404."""
    with pytest.raises(InvalidStatus) as refusal, connect(url + "/more"):
        pass

    assert 404 == refusal.value.response.status_code


def test_a_stop_closes_with_1001(store: BookStore) -> None:
    """A client is told that the server goes away."""
    with ExitStack() as stack:
        with serve_in_thread(store, http=None, stream=StreamOptions(port=0)) as server:
            assert server.addresses.stream_url is not None
            client = stack.enter_context(connect(server.addresses.stream_url))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=10)

    assert closed.value.rcvd is not None
    assert (1001, "the server stops") == (closed.value.rcvd.code, closed.value.rcvd.reason)
