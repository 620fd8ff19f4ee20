"""Kalshi's REST shape, also through a client that knows nothing of us."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pykalshi
import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pykalshi.markets import Market
from pykalshi.models import MarketModel, OrderbookResponse

from kalshibook.http.app import make_app
from kalshibook.http.options import HttpOptions
from kalshibook.http.server import serve
from kalshibook.store import BookStore
from tests.http.client import ALL, AWAITING, CLOSED, LIVE, ONE_SIDED, STALE, api_of, filled_store

pytestmark = pytest.mark.trio

ROOT = "/trade-api/v2/markets"

LIVE_BOOK = {
    "yes_dollars": [["0.3800", "120.00"], ["0.4000", "75.50"]],
    "no_dollars": [["0.5300", "3.00"], ["0.5400", "2.00"], ["0.5500", "0.01"]],
}


async def test_orderbook() -> None:
    """Both keys, ascending, the best last; condition, version and age in headers."""
    store, _ = filled_store()

    answer = await api_of(store).get(f"{ROOT}/{LIVE}/orderbook")

    assert (200, {"orderbook_fp": LIVE_BOOK}) == (answer.status, answer.json)
    assert ("live", str(store.cut().version), "999000") == (
        answer.headers["X-Kalshibook-Condition"],
        answer.headers["X-Kalshibook-Version"],
        answer.headers["X-Kalshibook-Age-Ms"],
    )


@pytest.mark.parametrize(("depth", "yes", "no"), [(0, 2, 3), (1, 1, 1), (2, 2, 2), (100, 2, 3)])
async def test_depth_counts_from_the_best(depth: int, yes: int, no: int) -> None:
    """Depth keeps the end of the list; 0 is all."""
    answer = await api_of(filled_store()[0]).get(f"{ROOT}/{LIVE}/orderbook?depth={depth}")

    book = answer.json["orderbook_fp"]
    assert (LIVE_BOOK["yes_dollars"][-yes:], LIVE_BOOK["no_dollars"][-no:]) == (
        book["yes_dollars"],
        book["no_dollars"],
    )


async def test_empty_side_keeps_its_key() -> None:
    """A side on which nothing rests is an empty list."""
    answer = await api_of(filled_store()[0]).get(f"{ROOT}/{ONE_SIDED}/orderbook?unknown=ignored")

    assert {"orderbook_fp": {"yes_dollars": [["0.0100", "0.05"]], "no_dollars": []}} == answer.json


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("NOBODY/orderbook", 404, "unknown_market"),
        (f"{AWAITING}/orderbook", 503, "not_ready"),
        (f"{STALE}/orderbook", 503, "stale"),
        (f"{LIVE}/orderbook?depth=101", 400, "bad_request"),
        (f"{LIVE}/orderbook?depth=x", 400, "bad_request"),
        (f"{LIVE}/nothing", 404, "not_found"),
        ("orderbooks", 400, "bad_request"),
        ("orderbooks?tickers=", 400, "bad_request"),
        ("orderbooks?tickers=" + "A" * 201, 400, "bad_request"),
        ("orderbooks?" + "&".join(f"tickers=T{number}" for number in range(101)), 400, "bad_request"),
    ],
)
async def test_errors_have_kalshis_shape(path: str, status: int, code: str) -> None:
    """A book that is unknown or in doubt is an error and never an empty book; details are a string."""
    answer = await api_of(filled_store()[0]).get(f"{ROOT}/{path}")

    assert (status, code) == (answer.status, answer.code)
    assert {"code": str, "message": str, "details": str} == {
        key: type(value) for key, value in answer.json.items()
    }


async def test_doubt_is_served_only_where_the_setting_allows_it() -> None:
    """With serve_stale the book comes marked; an awaiting one is refused even so."""
    store, _ = filled_store()
    with store.writer() as writer:
        writer.set_ready(ready=False, reason="no broker answers")
    api = api_of(store, HttpOptions(serve_stale=True))

    stale = await api.get(f"{ROOT}/{STALE}/orderbook")
    awaiting = await api.get(f"{ROOT}/{AWAITING}/orderbook")
    several = await api.get(f"{ROOT}/orderbooks?tickers={STALE}&tickers={AWAITING}")

    assert (200, "stale") == (stale.status, stale.headers["X-Kalshibook-Condition"])
    assert 503 == awaiting.status
    assert [STALE] == [row["ticker"] for row in several.json["orderbooks"]]


async def test_store_behind_refuses_all() -> None:
    """Books that may be of the past are not handed out as Kalshi's."""
    store, _ = filled_store()
    with store.writer() as writer:
        writer.set_ready(ready=False, reason="no broker answers")
    api = api_of(store)

    one = await api.get(f"{ROOT}/{LIVE}/orderbook")
    several = await api.get(f"{ROOT}/orderbooks?tickers={LIVE}")

    assert ((503, "not_ready"), (503, "not_ready")) == (
        (one.status, one.code),
        (several.status, several.code),
    )


async def test_orderbooks_of_one_version() -> None:
    """What cannot be told as a book is left out and named; a ticker asked twice is answered once."""
    store, _ = filled_store()
    query = "&".join(f"tickers={ticker}" for ticker in [*ALL, "NOBODY", LIVE])

    answer = await api_of(store).get(f"{ROOT}/orderbooks?{query}")

    assert [LIVE, ONE_SIDED, CLOSED] == [row["ticker"] for row in answer.json["orderbooks"]]
    assert LIVE_BOOK == answer.json["orderbooks"][0]["orderbook_fp"]
    assert f"{AWAITING}=awaiting, {STALE}=stale, NOBODY=unknown" == answer.headers["X-Kalshibook-Omitted"]
    assert str(store.cut().version) == answer.headers["X-Kalshibook-Version"]


@asynccontextmanager
async def stock_client(store: BookStore, folder: Path) -> AsyncIterator[pykalshi.KalshiClient]:
    """Serve a store over a real socket to an unmodified client, told nothing but the address."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    file = folder / "key.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    async with trio.open_nursery() as nursery:
        host, port = await nursery.start(serve, make_app(store), HttpOptions(port=0))
        client = pykalshi.KalshiClient(
            api_key_id="any",
            private_key_path=str(file),
            api_base=f"http://{host}:{port}/trade-api/v2",
            max_retries=0,
        )
        try:
            yield client
        finally:
            client.close()
            nursery.cancel_scope.cancel()


async def test_stock_client_reads_a_book(tmp_path: Path) -> None:
    """A published Kalshi client rebuilds the store's book from our REST."""
    store, _ = filled_store()
    async with stock_client(store, tmp_path) as client:
        market = Market(client, MarketModel(ticker=LIVE))

        response = await trio.to_thread.run_sync(market.get_orderbook)

        assert isinstance(response, OrderbookResponse)
        assert [tuple(level) for level in LIVE_BOOK["yes_dollars"]] == response.orderbook.yes_dollars
        assert [tuple(level) for level in LIVE_BOOK["no_dollars"]] == response.orderbook.no_dollars
        assert "0.4000" == response.best_yes_bid


async def test_stock_client_understands_a_refusal(tmp_path: Path) -> None:
    """The same client turns our errors into its own."""
    store, _ = filled_store()
    async with stock_client(store, tmp_path) as client:
        market = Market(client, MarketModel(ticker="NOBODY"))

        with pytest.raises(pykalshi.ResourceNotFoundError, match="unknown"):
            await trio.to_thread.run_sync(market.get_orderbook)
