"""A gatherer over HTTP: each answer of a real one, gathering from a simulated exchange."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from kalshibook.errors import SettingsError
from kalshibook.feeds import EmbeddedBroker
from kalshibook.gather import metrics
from kalshibook.gather.gatherer import Gatherer
from kalshibook.gather.http import make_gatherer_app, serve_gatherer
from kalshibook.gather.options import GatherOptions
from kalshibook.simulator.ledger import FaultKind
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from tests.gather.gathering import EXCHANGE, GATHERER, TIMEOUT_S, TOPICS, kafka_of, until
from tests.http.client import Api

pytestmark = pytest.mark.trio


@asynccontextmanager
async def gathering(**options: Any) -> AsyncIterator[tuple[SimulatedExchange, Gatherer, Api]]:
    """Run a gatherer that finds its markets by itself, until it is ready."""
    simulated = SimulatorOptions(**(EXCHANGE | {"read_tokens_per_second": 0, "rest_lag_ms": 0}))
    with EmbeddedBroker(TOPICS) as broker:
        async with SimulatedExchange(simulated) as exchange:
            values = {
                "environment": "custom",
                "rest_url": exchange.rest_url,
                "stream_url": exchange.stream_url,
            }
            found = GatherOptions(**(values | GATHERER | {"read_budget": 10_000} | options))
            async with Gatherer(found, kafka_of(broker), seed=1) as gatherer:
                await until(lambda: gatherer.health().is_ready)
                await until(lambda: len(gatherer.pool.placement) == len(exchange.tickers))
                await until(lambda: gatherer.health().pool.by_state == {"live": len(exchange.tickers)})
                with trio.fail_after(TIMEOUT_S):
                    yield exchange, gatherer, Api(make_gatherer_app(gatherer))


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return the table in the docstring of `metrics`: name to type and labels."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| *([\w, ]*?) *\|", str(metrics.__doc__), re.MULTILINE)
    return {name: (kind, set(filter(None, labels.split(", ")))) for name, kind, labels in rows}


async def test_every_documented_metric_is_in_a_scrape_and_no_other() -> None:
    """The table is the scrape: names, types and labels; no label names a market."""
    async with gathering(poll_seconds=1) as (exchange, gatherer, api):
        exchange.inject(FaultKind.LOST, channel="orderbook_delta")
        exchange.step(500)
        await until(lambda: gatherer.incidents.counts()["healed"] > 0)
        poller = gatherer.poller
        assert poller is not None
        await until(lambda: poller.statistics().books > 0)
        exchange.close(exchange.tickers[0])
        await api.get("/livez")

        answer = await api.get("/metrics")

    text = answer.body.decode()
    found = {}
    for family in text_string_to_metric_families(text):
        labels = {name for sample in family.samples for name in sample.labels}
        found[family.name] = (family.type, labels)
    missing_labels = {name for name, (_, labels) in found.items() if labels != documented()[name][1]}
    assert set(documented()) == set(found)
    # Labels of what has not happened yet.
    assert {"kalshibook_gather_registry_removed"} >= missing_labels
    assert {name: kind for name, (kind, _) in documented().items()} == {
        name: kind for name, (kind, _) in found.items()
    }
    assert "text/plain; version=0.0.4; charset=utf-8" == answer.headers["Content-Type"]
    assert 'kalshibook_gather_markets{state="live"} 30.0' in text
    assert 'kalshibook_gather_http_answers_total{endpoint="livez",status="200"} 1.0' in text
    assert "KX" not in text


async def test_ready_and_why_not() -> None:
    """Green when all is whole; red with the words of whoever is not, while the process lives."""
    async with gathering() as (exchange, gatherer, api):
        ready = await api.get("/readyz")
        assert (200, True, []) == (ready.status, ready.json["ready"], ready.json["reasons"])
        assert "g1" == ready.json["source"]

        exchange.inject("maintenance", duration_ms=60_000)
        await until(lambda: not gatherer.health().is_ready)
        red = await api.get("/readyz")
        alive = await api.get("/livez")

    assert (503, False) == (red.status, red.json["ready"])
    assert red.json["reasons"]
    assert (200, "ok") == (alive.status, alive.json["status"])


async def test_remarks_are_no_reasons() -> None:
    """A clock that is off and a budget too small are told, and do not make it red."""
    async with gathering(poll_seconds=1, read_budget=40, poll_share=0.1) as (exchange, gatherer, api):
        client, poller = gatherer.client, gatherer.poller
        assert client is not None
        assert poller is not None
        exchange.inject("clock_skew", duration_ms=60_000)
        await client.exchange_status()
        await until(lambda: poller.statistics().cadence_s > 1)

        answer = await api.get("/readyz")

    assert 200 == answer.status
    assert ["instead of every 1 s", "this machine's clock is"] == [
        words
        for words in ("instead of every 1 s", "this machine's clock is")
        if any(words in remark for remark in answer.json["remarks"])
    ]


async def test_gaps_and_incidents() -> None:
    """What was lost and what went wrong, newest first, paged and counted."""
    async with gathering() as (exchange, gatherer, api):
        for count in (1, 2, 3):
            exchange.inject(FaultKind.LOST, channel="orderbook_delta")
            exchange.step(300)
            await until(lambda count=count: gatherer.ledger.counts().healed >= count)  # type: ignore[misc]

        gaps = await api.get("/v1/gaps?limit=2")
        first = await api.get("/v1/incidents?limit=3")
        second = await api.get(f"/v1/incidents?limit=3&cursor={first.json['cursor']}")

    assert 3 <= gaps.json["counts"]["found"]
    assert 0 == gaps.json["counts"]["open"]
    assert 2 == len(gaps.json["gaps"])
    assert ["g1", "g1"] == [gap["source"] for gap in gaps.json["gaps"]]
    assert all(gap["healedUs"] for gap in gaps.json["gaps"])
    ids = [incident["id"] for incident in (*first.json["incidents"], *second.json["incidents"])]
    assert sorted(ids, reverse=True) == ids
    assert 6 == len(set(ids))
    assert 3 <= first.json["counts"]["gap"]


async def test_connections_and_polls() -> None:
    """Each socket with its markets; sinks add up; what REST was asked."""
    async with gathering(poll_seconds=1) as (_, gatherer, api):
        poller = gatherer.poller
        assert poller is not None
        await until(lambda: poller.statistics().books > 0)

        connections = (await api.get("/v1/connections")).json
        polls = (await api.get("/v1/polls")).json

    books = [one for one in connections["connections"] if one["role"] == "books"]
    assert 30 == connections["markets"] == sum(one["markets"]["live"] for one in books)
    assert all(
        sink["offered"] == sink["processed"] + sink["dropped"] + sink["waiting"]
        for sink in connections["sinks"].values()
    )
    assert connections["published"]["offered"] >= connections["published"]["delivered"]
    assert polls["rest_attempts"]["markets"]["ok"] >= 3
    assert polls["polls"]["books"] >= 30
    assert polls["audit"]["markets"] == 30


async def test_registry_and_one_market() -> None:
    """Counts of all, facts of one; one that is not gathered is told so."""
    async with gathering() as (exchange, _, api):
        ticker = exchange.tickers[0]
        every = (await api.get("/v1/registry")).json
        one = (await api.get(f"/v1/registry?ticker={ticker}")).json
        nobody = await api.get("/v1/registry?ticker=NOBODY")

    assert 30 == every["registry"]["markets"]
    assert 1 <= every["sync"]["sweeps"]
    assert (ticker, "active") == (one["ticker"], one["status"])
    assert (404, "unknown_market") == (nobody.status, nobody.code)


async def test_bad_requests() -> None:
    """An unknown name, a limit beyond the most, a cursor of nobody, an unknown path: each says what to do."""
    async with gathering() as (_, _, api):
        for path, status, words in (
            ("/v1/gaps?limt=5", 400, "limt"),
            ("/v1/gaps?limit=0", 400, "limit"),
            ("/v1/incidents?limit=1001", 400, "1001"),
            ("/v1/incidents?cursor=x", 400, "which no page gave"),
            ("/v1/connections?x=1", 400, "x"),
            ("/v2", 404, "nothing is served at '/v2'; / lists what is"),
        ):
            answer = await api.get(path)
            assert status == answer.status
            assert words in answer.json["message"]
        assert "/readyz" in (await api.get("/")).json


async def test_listens_where_the_settings_say() -> None:
    """Over a real socket, beside the gatherer; an impossible address is one clear error."""
    async with gathering(http_port=0) as (_, gatherer, _), trio.open_nursery() as nursery:
        host, port = await nursery.start(serve_gatherer, gatherer)
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://{host}:{port}/livez")
        assert 200 == answer.status_code
        nursery.cancel_scope.cancel()
    async with gathering(http_host="203.0.113.7", http_port=0) as (_, gatherer, _):
        with pytest.raises(SettingsError, match=r"port 0 of 203\.0\.113\.7 cannot be listened on"):
            await serve_gatherer(gatherer)
    async with gathering(http_host="no such host", http_port=0) as (_, gatherer, _):
        with pytest.raises(SettingsError, match=r"gather\.http_host 'no such host'"):
            await serve_gatherer(gatherer)
