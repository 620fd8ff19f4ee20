"""Bulk requests that are answered before Quart sees them: with the same answers, and its own errors."""

from random import Random
from typing import Any

import pytest

from kalshibook.http.app import make_app
from kalshibook.http.bulk import Bulk, Wants
from kalshibook.http.context import Context
from kalshibook.http.options import HttpOptions
from kalshibook.http.tops import TopsShortcut
from kalshibook.store import BookStore
from tests.http.client import ALL, LIVE, NOW_US, ONE_SIDED, STALE, Answer, Api, by_ticker, filled_store
from tests.store.builders import Script

pytestmark = pytest.mark.trio

PATH = "/v1/tops"


def both(store: BookStore, options: HttpOptions | None = None) -> tuple[Api, Api]:
    """Return clients of two applications of one store: as it is, and Quart alone."""
    whole = make_app(store, options, now_us=lambda: NOW_US)
    alone = make_app(store, options, now_us=lambda: NOW_US)
    assert isinstance(alone.asgi_app, TopsShortcut)
    alone.asgi_app = alone.asgi_app._app  # type: ignore[method-assign]
    return Api(whole), Api(alone)


def told(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """Return what an answer says, but for the tag's part that each application draws for itself."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    tag = headers.pop("etag", "").partition("-")[2]
    return answer.status, {**headers, "etag": tag}, answer.body


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        (f"?tickers={LIVE},NOBODY,{STALE},{LIVE}&depth=2", {}),
        (f"?tickers={LIVE}&tickers={STALE}&numbers=ticks", {}),
        ("?series=KXFROG&limit=1", {}),
        ("", {}),
        (f"?tickers={LIVE}", {"If-None-Match": "*"}),
        (f"?tickers={','.join(ALL)}&depth=5", {"Accept-Encoding": "gzip"}),
        (f"?tickers={','.join(ALL)}&depth=5", {"Accept-Encoding": "gzip;q=0"}),
        (f"?tickers={LIVE}&max_age_ms=10", {}),
        (f"?tickers={LIVE}&max_age_ms=null", {}),
        (f"?tickers={LIVE}&dpeth=5", {}),
        (f"?tickers={LIVE}&depth=-1", {}),
        (f"?tickers={LIVE}&prefix=K", {}),
        ("?tickers=%ff%20%2C", {}),
        (f"?tickers={LIVE}&version=1000000", {}),
        (f"?tickers={LIVE}&min_offset=0:1000000", {}),
        ("?tickers=" + "X" * 201, {}),
    ],
)
async def test_a_query_is_answered_as_by_quart_alone(query: str, headers: dict[str, str]) -> None:
    """Status, headers and body are the same, errors included."""
    store, _ = filled_store()
    whole, alone = both(store)

    assert told(await alone.get(PATH + query, headers)) == told(await whole.get(PATH + query, headers))


@pytest.mark.parametrize(
    "body",
    [
        {"tickers": [LIVE, "NOBODY", STALE, LIVE], "depth": 2},
        {"tickers": []},
        {"tickers": [LIVE], "min_offset": {"0": 1}},
        {"tickers": [LIVE], "min_offset": {"0": 1_000_000}},
        {"tickers": [LIVE], "wrong": 1},
        {"tickers": ["A", "B", "C", "D"]},
        {"tickers": [LIVE], "as_of": 1, "version": 1},
        b"{",
        b"",
        b" " * 2_000,
    ],
)
async def test_a_body_is_answered_as_by_quart_alone(body: object) -> None:
    """Status, headers and body are the same, errors included."""
    store, _ = filled_store()
    whole, alone = both(store, HttpOptions(max_body_bytes=1_024, max_tickers=3))

    assert told(await alone.post(PATH, body)) == told(await whole.post(PATH, body))


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT"])
async def test_other_methods_are_quarts(method: str) -> None:
    """Only GET and POST are taken from it."""
    store, _ = filled_store()
    whole, alone = both(store)

    answers = [await api.ask(method, f"{PATH}?tickers={LIVE}") for api in (alone, whole)]

    assert told(answers[0]) == told(answers[1])


async def test_every_answer_is_counted_once() -> None:
    """Answers count under their endpoint, whoever gives them."""
    store, _ = filled_store()
    whole, _ = both(store)

    await whole.get(f"{PATH}?tickers={LIVE}")
    await whole.get(f"{PATH}?tickers={LIVE}&wrong=1")
    await whole.post(PATH, {"tickers": [LIVE]})
    text = (await whole.get("/metrics")).body.decode()

    counts = {
        line.partition("{")[2].partition("}")[0]: line.rpartition(" ")[2]
        for line in text.splitlines()
        if line.startswith("kalshibook_http_") and "tops" in line
    }
    assert {"1.0"} == set(counts.values())
    assert 3 == len(counts)


async def test_a_list_that_is_asked_for_again_is_never_out_of_date() -> None:
    """Whatever changes in between, the answer to a known list is the answer to a new one."""
    store = BookStore()
    script = Script(store)
    random = Random(7)
    tickers = [f"KX-{number}" for number in range(40)]
    whole, alone = both(store)
    for _ in range(60):
        for ticker in random.sample(tickers, random.randrange(4)):
            script.snapshot({100 * random.randrange(1, 50): 100}, {}, ticker=ticker)
        if random.random() < 0.1:
            with store.writer() as writer:
                writer.doubt(random.choice(tickers), "why not")
        version = store.cut().version
        for query in ({"tickers": tickers}, {"tickers": tickers[:5], "depth": 1}):
            again = await whole.post(PATH, query)
            # An unknown field's default makes it another body, and so a list never seen before.
            first = await alone.post(PATH, {**query, "version": version})

            assert first.json == again.json


async def test_kept_lists_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are kept up to as many markets as fragments are; the least recently asked go first."""
    store = BookStore()
    script = Script(store)
    tickers = [f"KX-{number}" for number in range(1_000)]
    for ticker in tickers:
        script.snapshot({100: 1}, {}, ticker=ticker)
    options = HttpOptions(cached_fragments=1_000)
    context = Context(store, options, feeds=(), stream_statistics=None, now_us=lambda: NOW_US)
    bulk = Bulk(context)
    read: list[bytes] = []
    keep = Bulk._keep

    def noted(self: Bulk, method: str, text: bytes, asked: Any) -> None:
        read.append(text)
        keep(self, method, text, asked)

    monkeypatch.setattr(Bulk, "_keep", noted)

    async def ask(part: slice) -> bytes:
        query = b"tickers=" + ",".join(tickers[part]).encode()
        await bulk.by_query(query, Wants())
        return query

    first, second = await ask(slice(0, 400)), await ask(slice(400, 800))
    assert first == await ask(slice(0, 400))
    third = await ask(slice(500, 900))
    assert [first, second, third] == read
    await ask(slice(0, 400))
    assert [first, second, third] == read
    await ask(slice(400, 800))

    assert [first, second, third, second] == read


async def test_markets_that_appear_later_are_found() -> None:
    """A list with unknown tickers is looked up each time."""
    store, script = filled_store()
    whole, _ = both(store)
    body = {"tickers": [LIVE, "KXNEW", ONE_SIDED]}

    before = await whole.post(PATH, body)
    script.snapshot({100: 1}, {}, ticker="KXNEW")
    after = await whole.post(PATH, body)

    assert ["KXNEW"] == before.json["missing"]
    assert [] == after.json["missing"]
    assert [LIVE, "KXNEW", ONE_SIDED] == [*by_ticker(after)]
