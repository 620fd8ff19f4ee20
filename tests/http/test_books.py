"""One book with its stamps, and the list of markets."""

import msgspec
import pytest

from kalshibook.http import books as books_module
from kalshibook.http.answers import BookAnswer, MarketsAnswer
from tests.http.client import ALL, AWAITING, CLOSED, LIVE, NOW_US, ONE_SIDED, STALE, api_of, filled_store
from tests.store.builders import lifecycle, ticker_message

pytestmark = pytest.mark.trio


async def test_book_with_all_stamps() -> None:
    """Status and close time stand at the top, every hop's time is told, each level has its own stamps."""
    store, script = filled_store()
    script.apply(lifecycle("created", ticker=LIVE, close_us=7_000_000, open_us=6_000_000, title="Frogs?"))
    script.apply(ticker_message(ticker=LIVE, last_price=4_300, volume=1_234, open_interest=56))
    script.delta("yes", 4_000, 50, ticker=LIVE)

    answer = await api_of(store).get(f"/v1/books/{LIVE}")

    book = msgspec.json.decode(answer.body, type=BookAnswer)
    cut = store.cut()
    stamps = cut[LIVE].stamps
    assert stamps is not None
    assert ("live", "initialized", 7_000, 6_000, "Frogs?") == (
        book.condition,
        book.status,
        book.close_ms,
        book.open_ms,
        book.title,
    )
    assert ("0.4300", "12.34", "0.56") == (book.last_price_dollars, book.volume_fp, book.open_interest_fp)
    assert book.stamps is not None
    assert (5_000_000, stamps.received_us, stamps.published_us, stamps.kafka_us, stamps.consumed_us) == (
        book.stamps.exchange_us,
        book.stamps.received_us,
        book.stamps.published_us,
        book.stamps.kafka_us,
        book.stamps.consumed_us,
    )
    assert (stamps.applied_us, 10) == (book.stamps.applied_us, book.stamps.kafka_latency_us)
    assert (5_000, NOW_US // 1_000 - 5_000) == (book.updated_ms, book.age_ms)
    assert (cut.version, None) == (book.version, book.behind)
    assert book.yes is not None
    best, second = book.yes
    assert ("0.4000", "76.00", 5_000_000) == (best.price_dollars, best.size_fp, best.stamps.exchange_us)
    assert ("0.3800", "120.00", None) == (second.price_dollars, second.size_fp, second.stamps.exchange_us)


async def test_result_of_a_market_that_is_over() -> None:
    """A determined market shows its result."""
    book = (await api_of(filled_store()[0]).get(f"/v1/books/{CLOSED}")).json

    assert ("closed", "determined", "yes") == (book["condition"], book["status"], book["result"])


async def test_depth_counts_from_the_best() -> None:
    """Depth cuts the far end, and the number of levels tells what was cut."""
    book = (await api_of(filled_store()[0]).get(f"/v1/books/{LIVE}?depth=1")).json

    assert ["0.4000"] == [level["price_dollars"] for level in book["yes"]]
    assert ["0.5500"] == [level["price_dollars"] for level in book["no"]]
    assert (2, 3) == (book["yes_levels"], book["no_levels"])


async def test_unknown_is_not_empty() -> None:
    """An awaiting book has null sides, a one-sided book an empty one."""
    api = api_of(filled_store()[0])

    awaiting = (await api.get(f"/v1/books/{AWAITING}")).json
    one_sided = (await api.get(f"/v1/books/{ONE_SIDED}")).json

    assert ("awaiting", None, None) == (awaiting["condition"], awaiting["yes"], awaiting["no"])
    assert [] == one_sided["no"]


@pytest.mark.parametrize(
    ("ticker", "query", "status", "code"),
    [
        ("NOBODY", "", 404, "unknown_market"),
        (LIVE, "max_age_ms=1", 503, "stale"),
        (STALE, "max_age_ms=999999999", 503, "stale"),
        (AWAITING, "max_age_ms=999999999", 503, "stale"),
        (STALE, "", 200, None),
        (LIVE, "max_age_ms=999999999", 200, None),
        (LIVE, "min_offset=0:99", 503, "not_ready"),
        (LIVE, "version=99999", 410, "version_gone"),
        (LIVE, "depth=10001", 400, "bad_request"),
        (LIVE, "numbers=ticks", 400, "unknown_parameter"),
    ],
)
async def test_refusals(ticker: str, query: str, status: int, code: str | None) -> None:
    """A bound that is not kept refuses; without one every known book is shown."""
    answer = await api_of(filled_store()[0]).get(f"/v1/books/{ticker}?{query}")

    assert (status, code) == (answer.status, answer.json.get("code"))


async def test_store_behind_refuses_a_bound_on_age() -> None:
    """A single book keeps the rule of the bulk answer."""
    store, _ = filled_store()
    with store.writer() as writer:
        writer.set_ready(ready=False, reason="no broker answers")
    api = api_of(store)

    assert 503 == (await api.get(f"/v1/books/{LIVE}?max_age_ms=999999999")).status
    assert "no broker answers" == (await api.get(f"/v1/books/{LIVE}")).json["behind"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ALL),
        ("search=frog", [LIVE, ONE_SIDED, AWAITING]),
        ("search=dec01-t", [LIVE, ONE_SIDED, STALE, CLOSED]),
        ("search=jumps", [STALE]),
        ("condition=awaiting", [AWAITING]),
        ("status=determined", [CLOSED]),
        ("status=unknown&condition=live", [LIVE, ONE_SIDED]),
        ("search=nobody", []),
    ],
)
async def test_markets_are_found(query: str, expected: list[str]) -> None:
    """Search looks into tickers and titles in any case; filters combine."""
    store, script = filled_store()
    script.apply(lifecycle("metadata_updated", ticker=STALE, title="Who JUMPS first?"))

    answer = await api_of(store).get(f"/v1/markets?{query}")

    found = msgspec.json.decode(answer.body, type=MarketsAnswer)
    assert sorted(expected) == [row.ticker for row in found.markets]
    assert "" == found.cursor


async def test_every_live_book_is_found_by_its_name() -> None:
    """Searching for a ticker finds it."""
    store, _ = filled_store()
    api = api_of(store)

    for ticker, book in store.cut().items():
        rows = (await api.get(f"/v1/markets?search={ticker}")).json["markets"]
        assert [(ticker, book.condition)] == [(row["ticker"], row["condition"]) for row in rows]


async def test_markets_are_paged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages have no hole and no overlap, also where the walk stops before a page is full."""
    store, _ = filled_store()
    api = api_of(store)

    async def walk(query: str) -> tuple[list[str], int]:
        cursor, found, pages = "", [], 0
        while True:
            page = (await api.get(f"/v1/markets?{query}&cursor={cursor}")).json
            found += [row["ticker"] for row in page["markets"]]
            cursor, pages = page["cursor"], pages + 1
            if not cursor:
                return found, pages

    assert (sorted(ALL), 3) == await walk("limit=2")
    assert (sorted(ALL), 1) == await walk("limit=5")
    monkeypatch.setattr(books_module, "_EXAMINED_AT_ONCE", 2)
    assert ([CLOSED], 3) == await walk("condition=closed")
    assert ([LIVE, ONE_SIDED], 3) == await walk("condition=live&limit=2")
