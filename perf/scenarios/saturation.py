"""A topic drained as fast as it goes into the store, with the server attached and asked meanwhile."""

from typing import Any

from perf.clients.load import LoadSettings
from perf.clients.worker import Worker
from perf.context import Context
from perf.measures import PERCENTILES
from perf.result import Goal, Measurement, ScenarioResult, Table
from perf.stage import Stage, per_unit_us, staged

_CLIENTS = 50
_LIMIT_MS = 25.0
_PAUSE_S = 0.015


def run(context: Context) -> ScenarioResult:
    """Fill the topic, start the feed, and ask for one top again and again until it is through."""
    changes = 100_000 if context.quick else 300_000
    # The embedded broker keeps 5 MiB a partition, compressed: even ones, and enough, hold the topic.
    load = LoadSettings(seed=context.seed, partitions=64, pareto=None)
    before = _applied(load, min(changes, 200_000))
    context.step(f"saturation: {changes:,} records are published")
    with staged(load, late=True) as stage:
        stage.begin(changes, None)
        stage.finish()
        context.step("saturation: the topic is drained")
        found = _drain(stage, changes)
        checks = stage.checks()
    after = _applied(load, min(changes, 200_000))
    rate = found["rate"]
    # Before and after, because the machine's pace may change within a minute.
    alone, alone_us = (before["rate"] + after["rate"]) / 2, (before["us"] + after["us"]) / 2
    feed_us = per_unit_us(found["feed_cpu"], changes)
    server_us = feed_us + per_unit_us(found["trio_cpu"], changes)
    percentiles = found["rest"]["percentiles_us"]
    return ScenarioResult(
        name="saturation",
        title=f"{changes:,} records drained from Kafka into the store, server attached, one REST client",
        conditions=(
            f"{load.markets:,} markets, {load.levels} levels a side, seed {load.seed}",
            f"{load.partitions} partitions; {_CLIENTS} WebSocket clients on all tops",
            f"REST: one connection, {_PAUSE_S * 1_000:g} ms between an answer and the next request",
            "'apply' here: the same records from a list, in a process of one thread, collector on",
        ),
        measurements=(
            Measurement("drained", rate, "updates/s"),
            Measurement("decoded and applied without Kafka and server", alone, "updates/s"),
            Measurement("the same", alone_us, "µs CPU/update"),
            Measurement("feed thread", feed_us, "µs CPU/update"),
            Measurement("feed thread and Trio thread", server_us, "µs CPU/update"),
            Measurement("drained, by CPU time", alone_us / server_us, "x apply alone", "feed and Trio"),
            Measurement("Trio thread meanwhile", found["trio_cpu"] / found["seconds"], "cores"),
        ),
        tables=(
            Table(
                "REST meanwhile, one top per request, ms",
                ("requests", *PERCENTILES),
                ((found["rest"]["requests"], *(percentiles[key] / 1_000 for key in PERCENTILES)),),
            ),
        ),
        goals=(
            Goal(
                text="drained at ≥ 60 % of the rate of decode and apply alone",
                value=rate / alone,
                limit=0.6,
                at_most=False,
                reason="the feed also takes records out of Kafka and tells readers, the server serves, and"
                " broker and clients use the machine too; by CPU time of the server's threads it is"
                f" {alone_us / server_us:.2f}",
            ),
            Goal(
                text=f"REST p99 of one top meanwhile ≤ {_LIMIT_MS:g} ms",
                value=percentiles["p99"] / 1_000,
                limit=_LIMIT_MS,
                unit="ms",
                reason="an answer takes 14 passes of Trio's loop; each waits up to a switch interval for the "
                "interpreter and half a millisecond for the hub, and for whoever else uses the machine",
            ),
        ),
        checks=tuple(checks),
    )


def _drain(stage: Stage, changes: int) -> dict[str, Any]:
    server = stage.server
    sockets, requests = stage.sockets(), stage.requests()
    sockets.ask("connect", count=_CLIENTS)
    sockets.ask("subscribe", first=0, count=_CLIENTS, markets=None, channel="top_of_book")
    total = stage.load.markets + changes
    before = server.ask("usage")
    sockets.tell("read", seconds=changes / 20_000, quiet=1.0)
    # Alone it would be through after this many seconds; the requests end before the topic does.
    seconds = changes / 100_000
    requests.tell("repeat", path="/v1/tops?tickers=KXPERF-26DEC01-T000000", seconds=seconds, pause_s=_PAUSE_S)
    server.ask("start_feed")
    applied = server.ask("wait_applied", count=total)
    after = server.ask("usage")
    rest = requests.hear()
    stage.settle()
    sockets.hear()
    return {
        "rate": total / applied["seconds"],
        "seconds": after["clock"] - before["clock"],
        "feed_cpu": after["feed_cpu"] - before["feed_cpu"],
        "trio_cpu": after["trio_cpu"] - before["trio_cpu"],
        "rest": rest,
    }


def _applied(load: LoadSettings, changes: int) -> dict[str, float]:
    with Worker("applier", load=load._asdict(), changes=changes) as applier:
        found: dict[str, float] = applier.ask("run")
    return found
