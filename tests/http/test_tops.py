"""Bulk top of book, over the whole application."""

import threading
import zlib
from itertools import pairwise

import msgspec
import pytest
import trio

from kalshibook.http.answers import TickTopRow, TopRow
from kalshibook.http.options import HttpOptions
from kalshibook.store import BookStore
from tests.http.client import (
    ALL,
    AWAITING,
    CLOSED,
    LIVE,
    NOW_US,
    ONE_SIDED,
    STALE,
    api_of,
    by_ticker,
    filled_store,
)
from tests.store.builders import Script, trade

pytestmark = pytest.mark.trio


async def test_top_as_kalshi_writes_it() -> None:
    """Prices and sizes are Kalshi's strings, asks come from the other side, the head names the version."""
    store, _ = filled_store()

    answer = await api_of(store).get(f"/v1/tops?tickers={LIVE},NOBODY")

    cut = store.cut()
    assert 200 == answer.status
    assert {
        "version": cut.version,
        "offsets": {"0": cut.offsets[0]},
        "as_of": cut.applied_us // 1_000,
        "now_ms": NOW_US // 1_000,
        "behind": None,
        "missing": ["NOBODY"],
        "not_fresh": [],
        "cursor": "",
        "markets": [
            {
                "ticker": LIVE,
                "condition": "live",
                "status": None,
                "yes_bid_dollars": "0.4000",
                "yes_bid_size_fp": "75.50",
                "yes_ask_dollars": "0.4500",
                "yes_ask_size_fp": "0.01",
                "no_bid_dollars": "0.5500",
                "no_ask_dollars": "0.6000",
                "updated_ms": 1_000,
                "latency_ms": (cut[LIVE].stamps.applied_us - 1_000_000) // 1_000,  # type: ignore[union-attr]
                "version": cut[LIVE].version,
            }
        ],
    } == answer.json


async def test_top_in_ticks() -> None:
    """With numbers=ticks the same facts are integers."""
    store, _ = filled_store()

    answer = await api_of(store).get(f"/v1/tops?tickers={LIVE}&numbers=ticks&depth=2")

    row = by_ticker(answer)[LIVE]
    assert (4_000, 7_550, 4_500, 1) == (
        row["yes_bid"],
        row["yes_bid_size"],
        row["yes_ask"],
        row["yes_ask_size"],
    )
    assert (5_500, 6_000) == (row["no_bid"], row["no_ask"])
    assert [[4_000, 7_550], [3_800, 12_000]] == row["yes"]
    msgspec.convert(row, TickTopRow)


async def test_absent_sides_are_null() -> None:
    """A side on which nothing rests is null, never 0, and so is the ask derived from it."""
    store, _ = filled_store()

    rows = by_ticker(await api_of(store).get(f"/v1/tops?tickers={ONE_SIDED}&depth=1"))

    row = rows[ONE_SIDED]
    assert ("0.0100", None, None, "0.9900") == (
        row["yes_bid_dollars"],
        row["yes_ask_dollars"],
        row["no_bid_dollars"],
        row["no_ask_dollars"],
    )
    assert ([["0.0100", "0.05"]], []) == (row["yes"], row["no"])


async def test_every_condition_is_told() -> None:
    """Awaiting is not empty: its levels are null; doubt comes with its reason; closed is closed."""
    store, _ = filled_store()

    rows = by_ticker(await api_of(store).get(f"/v1/tops?tickers={','.join(ALL)}&depth=1"))

    assert ["live", "live", "awaiting", "stale", "closed"] == [rows[ticker]["condition"] for ticker in ALL]
    assert (None, None, None) == (rows[AWAITING]["yes"], rows[AWAITING]["no"], rows[AWAITING]["updated_ms"])
    assert "3 messages were lost" == rows[STALE]["stale_reason"]
    assert "stale_reason" not in rows[LIVE]
    assert "determined" == rows[CLOSED]["status"]
    for row in rows.values():
        msgspec.convert(row, TopRow)


async def test_duplicates_are_answered_once() -> None:
    """Order is that of first mention, and a repeated parameter is one list."""
    store, _ = filled_store()

    answer = await api_of(store).get(f"/v1/tops?tickers={STALE},{LIVE},{STALE}&tickers={LIVE},X,X")

    assert [STALE, LIVE] == [row["ticker"] for row in answer.json["markets"]]
    assert ["X"] == answer.json["missing"]


async def test_get_and_post_agree() -> None:
    """A body asks what a query string asks."""
    store, _ = filled_store()
    api = api_of(store)

    one = await api.get(f"/v1/tops?tickers={LIVE},X&depth=1&numbers=ticks&min_offset=0:0")
    other = await api.post(
        "/v1/tops", {"tickers": [LIVE, "X"], "depth": 1, "numbers": "ticks", "min_offset": {"0": 0}}
    )

    assert 200 == one.status == other.status
    assert one.json == other.json


async def test_old_markets_are_never_presented_as_fresh() -> None:
    """With max_age_ms, what is older, in doubt or awaiting stands in not_fresh only, with the reason."""
    store, script = filled_store()
    script.delta("yes", 4_000, 50, ticker=LIVE)  # the exchange's stamp: 5 s, 995 s before now
    api = api_of(store)

    answer = await api.get(f"/v1/tops?tickers={','.join(ALL)}&max_age_ms=995000")

    assert [LIVE] == [row["ticker"] for row in answer.json["markets"]]
    refused = {row["ticker"]: row for row in answer.json["not_fresh"]}
    assert {ONE_SIDED, AWAITING, STALE, CLOSED} == set(refused)
    assert ("awaiting", None) == (refused[AWAITING]["condition"], refused[AWAITING]["age_ms"])
    assert "3 messages were lost" == refused[STALE]["reason"]
    assert "its last message is 998999 ms old, 995000 ms are allowed" == refused[ONE_SIDED]["reason"]
    assert [] == (await api.get(f"/v1/tops?tickers={LIVE}&max_age_ms=994999")).json["markets"]


async def test_store_behind_refuses_a_bound_on_freshness() -> None:
    """While newer messages wait at the source no age can be vouched for; without a bound it is told."""
    store, _ = filled_store()
    with store.writer() as writer:
        writer.set_ready(ready=False, reason="no broker answers")
    api = api_of(store)

    refused = await api.get(f"/v1/tops?tickers={LIVE}&max_age_ms=1000000000")
    told = await api.get(f"/v1/tops?tickers={LIVE}")

    assert (503, "not_ready") == (refused.status, refused.code)
    assert "no broker answers" in refused.json["message"]
    assert "1" == refused.headers["Retry-After"]
    assert (200, "no broker answers") == (told.status, told.json["behind"])


@pytest.mark.parametrize("ask", ["get", "post"])
async def test_offset_not_reached(ask: str) -> None:
    """An offset that is not consumed yet is refused with what was reached."""
    store, _ = filled_store()
    api, reached = api_of(store), store.cut().offsets[0]

    if ask == "get":
        answer = await api.get(f"/v1/tops?tickers={LIVE}&min_offset=0:{reached}")
    else:
        answer = await api.post("/v1/tops", {"tickers": [LIVE], "min_offset": {"0": reached}})

    assert (503, "not_ready") == (answer.status, answer.code)
    assert {"partition": 0, "expected": reached, "reached": reached} == answer.json["details"]
    assert 200 == (await api.get(f"/v1/tops?tickers={LIVE}&min_offset=0:{reached - 1}")).status


async def test_past_versions() -> None:
    """A version and a moment lead back to the books of then; both together, or one not kept, are refused."""
    store, script = filled_store()
    before = store.cut()
    script.delta("yes", 4_100, 100, ticker=LIVE)
    api = api_of(store)

    by_version = await api.get(f"/v1/tops?tickers={LIVE}&version={before.version}")
    now = await api.get(f"/v1/tops?tickers={LIVE}&as_of={store.cut().applied_us // 1_000}")
    both = await api.get(f"/v1/tops?tickers={LIVE}&version=1&as_of=1")
    gone = await api.get(f"/v1/tops?tickers={LIVE}&version={before.version + 1_000}")

    assert (before.version, "0.4000") == (
        by_version.json["version"],
        by_ticker(by_version)[LIVE]["yes_bid_dollars"],
    )
    assert "0.4100" == by_ticker(now)[LIVE]["yes_bid_dollars"]
    assert (400, "bad_request") == (both.status, both.code)
    assert (410, "version_gone") == (gone.status, gone.code)
    assert store.cut().version == gone.json["details"]["newest"]


async def test_lists_are_sorted_and_paged() -> None:
    """Without names, markets come sorted, by prefix, event or series, in pages without hole or overlap."""
    store, _ = filled_store()
    api = api_of(store)

    async def walk(query: str) -> list[str]:
        cursor, found = "", []
        while True:
            page = (await api.get(f"/v1/tops?{query}&limit=2&cursor={cursor}")).json
            found += [row["ticker"] for row in page["markets"]]
            cursor = page["cursor"]
            if not cursor:
                return found

    assert sorted(ALL) == await walk("prefix=")
    assert [LIVE, ONE_SIDED] == await walk("prefix=KXFROG-26DEC01")
    assert [LIVE, ONE_SIDED] == await walk("event=KXFROG-26DEC01")
    assert [LIVE, ONE_SIDED, AWAITING] == await walk("series=KXFROG")
    assert [] == await walk("series=KXFRO")


async def test_unchanged_books_are_not_sent_again() -> None:
    """The same tag comes back as 304 until a book of the answer changes; other books do not matter."""
    store, script = filled_store()
    api, path = api_of(store), f"/v1/tops?tickers={LIVE},X"

    first = await api.get(path)
    condition = {"If-None-Match": first.headers["ETag"]}
    script.delta("yes", 100, 100, ticker=ONE_SIDED)
    unchanged = await api.get(path, condition)
    script.delta("yes", 4_000, 100, ticker=LIVE)
    changed = await api.get(path, condition)
    script.snapshot({1: 1}, {}, ticker="X")
    appeared = await api.get(path, {"If-None-Match": changed.headers["ETag"]})

    assert (304, b"") == (unchanged.status, unchanged.body)
    assert first.headers["ETag"] == unchanged.headers["ETag"]
    assert (200, "76.50") == (changed.status, by_ticker(changed)[LIVE]["yes_bid_size_fp"])
    assert (200, []) == (appeared.status, appeared.json["missing"])


async def test_tag_tells_bodies_and_ages_apart() -> None:
    """Another body, a market grown too old, or a store fallen behind are other answers."""
    store, _ = filled_store()
    clock = [1_000_000]
    api = api_of(store, now_us=lambda: clock[0])

    async def tag(body: object) -> str:
        return str((await api.post("/v1/tops", body)).headers["ETag"])

    bounded = {"tickers": [LIVE], "max_age_ms": 500}
    tags = [await tag({"tickers": [LIVE]}), await tag({"tickers": [LIVE], "depth": 1}), await tag(bounded)]
    again = await api.post("/v1/tops", bounded, {"If-None-Match": tags[-1]})
    clock[0] += 10_000_000
    tags.append(await tag(bounded))
    with store.writer() as writer:
        writer.set_ready(ready=False, reason="no broker answers")
    tags.append(await tag({"tickers": [LIVE]}))

    assert 304 == again.status
    assert len(tags) == len(set(tags))


async def test_gzip_only_if_asked() -> None:
    """A client that takes gzip gets the same JSON compressed; one that refuses it does not."""
    store, script = filled_store()
    for number in range(400):
        script.snapshot({100: 5}, {200: 7}, ticker=f"KXMANY-{number:03d}")
    api, path = api_of(store), "/v1/tops?prefix=&limit=1000"

    plain = await api.get(path)
    small = await api.get("/v1/tops?tickers=X", {"Accept-Encoding": "gzip"})
    packed = await api.get(path, {"Accept-Encoding": "gzip, deflate"})
    refused = await api.get(path, {"Accept-Encoding": "gzip;q=0"})

    assert "gzip" == packed.headers["Content-Encoding"]
    assert plain.body == zlib.decompress(packed.body, 31)
    assert "Content-Encoding" not in small.headers
    assert plain.body == refused.body
    assert "Accept-Encoding" == plain.headers["Vary"]


async def test_caps() -> None:
    """Too many tickers, levels, rows or bytes are refused with the limit."""
    store, _ = filled_store()
    api = api_of(store, HttpOptions(max_tickers=3, max_levels=10, max_page=5, max_body_bytes=1_024))

    tickers = await api.post("/v1/tops", {"tickers": list("ABCD")})
    repeated = await api.post("/v1/tops", {"tickers": ["A"] * 50})
    levels = await api.post("/v1/tops", {"tickers": ["A", "B"], "depth": 6})
    rows = await api.get("/v1/tops?limit=6")
    body = await api.post("/v1/tops", b" " * 1_025)

    assert (413, {"found": 4, "limit": 3}) == (tickers.status, tickers.json["details"])
    assert 200 == repeated.status
    assert (413, "too_many_levels") == (levels.status, levels.code)
    assert (400, {"parameter": "limit", "limit": 5}) == (rows.status, rows.json["details"])
    assert (413, "too_large", {"limit_bytes": 1_024}) == (body.status, body.code, body.json["details"])


async def test_ten_thousand_tickers_in_one_answer() -> None:
    """The largest list that is allowed by default comes from one version and in order."""
    store = BookStore()
    script = Script(store)
    tickers = [f"KXMANY-{number:05d}" for number in range(10_000)]
    for ticker in tickers:
        script.snapshot({100: 5}, {}, ticker=ticker)

    answer = await api_of(store).post("/v1/tops", {"tickers": tickers})

    assert tickers == [row["ticker"] for row in answer.json["markets"]]


async def test_one_version_while_a_writer_runs() -> None:
    """
    Markets that always change together are never seen apart.

    The writer moves all markets by one tick in turn; in any one version the sizes, in the order of
    writing, step down at most once, and by one.
    """
    store = BookStore()
    script = Script(store)
    tickers = [f"KXSTEP-{number}" for number in range(40)]
    for ticker in tickers:
        script.snapshot({100: 1}, {}, ticker=ticker)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for ticker in tickers:
                script.delta("yes", 100, 1, ticker=ticker)

    api = api_of(store)
    versions: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, write)
        try:
            while len(versions) < 60 or versions[-1] < versions[0] + 500:
                body = {"tickers": tickers, "numbers": "ticks", "depth": len(versions) % 2}
                answer = await api.post("/v1/tops", body)
                sizes = [row["yes_bid_size"] for row in answer.json["markets"]]
                versions.append(answer.json["version"])
                assert sum(one != two for one, two in pairwise(sizes)) <= 1
                assert sizes[0] - sizes[-1] in (0, 1)
                assert all(row["version"] <= versions[-1] for row in answer.json["markets"])
        finally:
            stop.set()

    assert versions == sorted(versions)


async def test_trade_changes_no_top() -> None:
    """A trade makes a new book object; its fragment is made anew and says the same prices."""
    store, script = filled_store()
    api = api_of(store)
    before = by_ticker(await api.get(f"/v1/tops?tickers={LIVE}"))[LIVE]

    script.apply(trade(ticker=LIVE))
    after = by_ticker(await api.get(f"/v1/tops?tickers={LIVE}"))[LIVE]

    assert before["yes_bid_dollars"] == after["yes_bid_dollars"]
    assert before["updated_ms"] == after["updated_ms"]


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ("depth=-1", "bad_request", "'depth' is '-1': Expected `int` >= 0"),
        ("depth=two", "bad_request", "'depth' is 'two'"),
        ("depth=1&depth=2", "bad_request", "'depth' is given 2 times"),
        ("max_age_ms=", "bad_request", "'max_age_ms' is ''"),
        ("max_age_ms=null", "bad_request", "'max_age_ms' is 'null'"),
        ("numbers=euros", "bad_request", "'numbers' is 'euros'"),
        ("min_offset=5", "bad_request", "'min_offset' is '5'"),
        ("tickers=A&prefix=B", "bad_request", "'tickers' and 'prefix' exclude each other"),
        ("event=", "bad_request", "'event' is ''"),
        ("event=A&series=B", "bad_request", "'event' and 'series' exclude each other"),
        ("cursor=%21", "bad_request", "'cursor' is '!'"),
        ("dpeth=1", "unknown_parameter", "did you mean 'depth'?"),
        ("tickers=" + "A" * 201, "bad_request", "a ticker has 201 characters"),
    ],
)
async def test_bad_queries(query: str, code: str, words: str) -> None:
    """Each names what was found and what is expected."""
    answer = await api_of(filled_store()[0]).get(f"/v1/tops?{query}")

    assert (400, code) == (answer.status, answer.code)
    assert words in answer.json["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is not JSON"),
        (b'{"tickers": ["A"', "the body is not JSON"),
        (b'{"tickers": ["\xff"]}', "the body is not JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `tickers`"),
        (b'{"tickers": "A"}', "does not fit at $.tickers"),
        (b'{"tickers": ["A", 5]}', "does not fit at $.tickers[1]"),
        (b'{"tickers": [], "depth": "2"}', "does not fit at $.depth"),
        (b'{"tickers": [], "min_offset": {"x": 1}}', "does not fit at key in $.min_offset"),
        (b'{"tickers": [], "dpeth": 1}', "unknown field `dpeth`"),
    ],
)
async def test_bad_bodies(body: bytes, words: str) -> None:
    """Each names the place and what is wrong there."""
    answer = await api_of(filled_store()[0]).post("/v1/tops", body)

    assert (400, "bad_request") == (answer.status, answer.code)
    assert words in answer.json["message"]
