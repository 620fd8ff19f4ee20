"""Health, readiness, metrics, statistics and incidents."""

import re

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kalshibook.feeds.base import FeedState
from kalshibook.http import metrics
from kalshibook.http.answers import IncidentsAnswer, ReadyAnswer, SourceRow, StatisticsAnswer
from kalshibook.http.options import HttpOptions
from kalshibook.store import BookStore, IncidentKind
from kalshibook.testing import FrameFactory
from tests.http.client import LIVE, STALE, api_of, filled_store
from tests.http.feeds import healthy

pytestmark = pytest.mark.trio


async def test_alive_whatever_the_store_is() -> None:
    """Liveness asks nothing of the store: a restart would not help it."""
    answer = await api_of(BookStore()).get("/healthz")

    assert (200, "ok") == (answer.status, answer.json["status"])


async def test_ready() -> None:
    """All is well: green, and it says what it looked at."""
    store, _ = filled_store()

    answer = await api_of(store, HttpOptions(stale_share_limit=0.5), feeds=[healthy]).get("/readyz")

    ready = msgspec.json.decode(answer.body, type=ReadyAnswer)
    assert (200, True, []) == (answer.status, ready.ready, ready.reasons)
    assert {"awaiting": 1, "live": 2, "stale": 1, "closed": 1} == ready.conditions
    assert [("kafka", "live", 4)] == [(feed.name, feed.state, feed.lag) for feed in ready.feeds]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"state": FeedState.BROKER_DOWN, "reason": "9092 refuses"},
            "feed kafka is broker_down: 9092 refuses",
        ),
        ({"state": FeedState.CATCHING_UP, "reason": "9 to go"}, "feed kafka is catching_up: 9 to go"),
        ({"silent": True, "reason": "70 s without a record"}, "feed kafka is silent: 70 s without a record"),
    ],
)
async def test_feed_turns_readiness_red(changes: dict[str, object], words: str) -> None:
    """A dead broker, lag and silence are told in the feed's own words."""
    store, _ = filled_store()

    answer = await api_of(
        store, HttpOptions(stale_share_limit=1), feeds=[healthy, lambda: healthy(**changes)]
    ).get("/readyz")

    assert (503, False) == (answer.status, answer.json["ready"])
    assert [("feed", words)] == [(reason["check"], reason["message"]) for reason in answer.json["reasons"]]


async def test_stale_share_turns_readiness_red() -> None:
    """One of three open books is in doubt: a limit of a third holds, a smaller one does not."""
    store, _ = filled_store()

    within = await api_of(store, HttpOptions(stale_share_limit=0.34)).get("/readyz")
    beyond = await api_of(store, HttpOptions(stale_share_limit=0.33)).get("/readyz")

    assert (200, 503) == (within.status, beyond.status)
    (reason,) = beyond.json["reasons"]
    assert ("stale_share", {"stale": 1, "live": 2}) == (reason["check"], reason["details"])


async def test_every_reason_is_told_at_once() -> None:
    """A store that is behind, a feed that is down and a doubtful share make three reasons."""
    store, _ = filled_store()
    with store.writer() as writer:
        writer.set_ready(ready=False, reason="no broker answers")

    answer = await api_of(store, feeds=[lambda: healthy(state=FeedState.BROKER_DOWN)]).get("/readyz")

    assert ["store", "feed", "stale_share"] == [reason["check"] for reason in answer.json["reasons"]]
    assert "books may be behind the exchange: no broker answers" == answer.json["reasons"][0]["message"]


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return the table in the docstring of `metrics`: name to type and labels."""
    assert metrics.__doc__ is not None
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| *([\w, ]*?) *\|", metrics.__doc__, re.MULTILINE)
    return {name: (kind, set(filter(None, labels.split(", ")))) for name, kind, labels in rows}


async def test_every_documented_metric_is_in_a_scrape_and_no_other() -> None:
    """The table is the scrape: names, types and labels, once something of everything has happened."""
    store, _ = filled_store()
    _give_sign_of_life(store)
    api = api_of(store, feeds=[healthy], stream_statistics=lambda: {"connections": 3})
    await api.get(f"/v1/tops?tickers={LIVE}")

    answer = await api.get("/metrics")

    found = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        found[family.name] = (family.type, labels)
    assert documented() == found
    assert "text/plain; version=0.0.4; charset=utf-8" == answer.headers["Content-Type"]


def _give_sign_of_life(store: BookStore) -> None:
    frames = FrameFactory(source="g1", start_us=1_790_000_000_000_000)
    with store.writer() as writer:
        writer.apply(*frames.arrived(frames.notice("alive")))


async def test_sources_are_shown() -> None:
    """Readiness and metrics tell of each gatherer: alive or not, since when, and what follows it."""
    store, _ = filled_store()
    _give_sign_of_life(store)
    api = api_of(store, HttpOptions(stale_share_limit=0.5), feeds=[healthy])

    ready = msgspec.json.decode((await api.get("/readyz")).body, type=ReadyAnswer)
    text = (await api.get("/metrics")).body.decode()

    assert [SourceRow("g1", "alive", 1_790_000_000_001_000, 4, 3)] == ready.sources
    for line in (
        'kalshibook_source_markets{source="g1"} 4.0',
        'kalshibook_source_live_markets{source="g1"} 3.0',
        'kalshibook_source_silent{source="g1"} 0.0',
        'kalshibook_source_last_alive_seconds{source="g1"} 1.790000000001e+09',
    ):
        assert line in text.splitlines()


async def test_metrics_tell_the_truth_and_name_no_market() -> None:
    """Values are those of the store, the feed and the traffic; an unknown path makes no label."""
    store, _ = filled_store()
    api = api_of(store, feeds=[healthy], stream_statistics=lambda: {"connections": 3})
    await api.get(f"/v1/books/{LIVE}")
    await api.get("/v1/books/NOBODY")
    await api.get("/some/unknown/path")

    text = (await api.get("/metrics")).body.decode()

    for line in (
        f"kalshibook_store_version_total {float(store.cut().version)}",
        'kalshibook_markets{condition="live"} 2.0',
        'kalshibook_incidents_total{kind="doubted"} 1.0',
        f'kalshibook_next_offset{{partition="0"}} {float(store.cut().offsets[0])}',
        'kalshibook_feed_lag_records{feed="kafka"} 4.0',
        'kalshibook_feed_state{feed="kafka",state="live"} 1.0',
        'kalshibook_stream{name="connections"} 3.0',
        'kalshibook_http_answers_total{endpoint="books.book",status="200"} 1.0',
        'kalshibook_http_answers_total{endpoint="books.book",status="404"} 1.0',
        'kalshibook_http_answers_total{endpoint="none",status="404"} 1.0',
        "kalshibook_http_handling_seconds_count 3.0",
        'kalshibook_http_handling_seconds_bucket{le="+Inf"} 3.0',
    ):
        assert line in text.splitlines()
    assert "KXFROG" not in text
    assert "NOBODY" not in text


async def test_unknown_lag_is_absent() -> None:
    """What is not known is left out of a scrape and null in JSON, not 0."""
    unknown = healthy(partitions=(msgspec.structs.replace(healthy().partitions[0], end_offset=None),))
    api = api_of(filled_store()[0], feeds=[lambda: unknown])

    text = (await api.get("/metrics")).body.decode()
    statistics = (await api.get("/v1/statistics")).json

    assert "kalshibook_feed_lag_records{" not in text
    assert statistics["feeds"][0]["lag"] is None


async def test_statistics() -> None:
    """Counts of every part stand side by side."""
    store, _ = filled_store()
    api = api_of(store, feeds=[healthy], stream_statistics=lambda: {"connections": 3})
    for _ in range(2):
        await api.get(f"/v1/tops?tickers={LIVE}")

    answer = await api.get("/v1/statistics")

    found = msgspec.json.decode(answer.body, type=StatisticsAnswer)
    assert msgspec.json.decode(msgspec.json.encode(store.statistics())) == found.store
    assert {"connections": 3} == found.stream
    assert (2, 1, 1) == (
        found.http["answers"],
        found.http["fragments_encoded"],
        found.http["fragments_reused"],
    )
    assert ["kafka"] == [feed.name for feed in found.feeds]


async def test_no_more_fragments_are_kept_than_the_setting_says() -> None:
    """A crawl over many markets does not grow the server's memory beyond cached_fragments."""
    store, script = filled_store()
    for number in range(1_100):
        script.snapshot({100: 1}, {}, ticker=f"KXMANY-{number}")
    api = api_of(store, HttpOptions(cached_fragments=1_000, max_page=5_000))

    answer = await api.get("/v1/tops?prefix=&limit=5000")

    assert len(store.cut()) == len(answer.json["markets"])
    assert 1_000 >= (await api.get("/v1/statistics")).json["http"]["fragments_kept"]


async def test_incidents_are_paged_newest_first() -> None:
    """Every incident is found, once, and the counts are told with it."""
    store, _ = filled_store()
    for number in range(4):
        store.incidents.record(
            IncidentKind.REJECTED, f"record {number}", ticker="T", partition=1, offset=number
        )
    api = api_of(store)

    pages: list[IncidentsAnswer] = []
    cursor = ""
    while not pages or cursor:
        answer = await api.get(f"/v1/incidents?limit=2&cursor={cursor}")
        pages.append(msgspec.json.decode(answer.body, type=IncidentsAnswer))
        cursor = pages[-1].cursor

    details = [incident.detail for page in pages for incident in page.incidents]
    assert ["record 3", "record 2", "record 1", "record 0"] == details[:4]
    assert STALE == pages[-1].incidents[-1].ticker
    assert (4, 1) == (pages[0].counts["rejected"], pages[0].counts["doubted"])
    assert ("T", 1, 3) == (
        pages[0].incidents[0].ticker,
        pages[0].incidents[0].partition,
        pages[0].incidents[0].offset,
    )


@pytest.mark.parametrize(
    "path",
    ["/v1/incidents?cursor=x", "/v1/incidents?cursor=-1", "/v1/incidents?limit=0", "/v1/statistics?x=1"],
)
async def test_bad_queries(path: str) -> None:
    """Here too what is not understood is refused."""
    answer = await api_of(BookStore()).get(path)

    assert 400 == answer.status
    assert answer.json["message"]
