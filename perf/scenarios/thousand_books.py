"""A thousand books through Kafka, beside reader threads and WebSocket clients: latency, and nothing lost."""

from typing import Any, Final

from perf.clients.load import LoadSettings
from perf.clients.worker import Worker
from perf.context import Context
from perf.measures import PERCENTILES
from perf.result import Check, Goal, Measurement, ScenarioResult, Series, Table
from perf.stage import Stage, all_read, client_checks, staged

_READERS: Final = 20
_CLIENTS: Final = 50
_KEEPING: Final = 5
_DEPTH_CLIENTS: Final = 5
_BASE_RATE: Final = 1_000
_UNLOADED_S: Final = 5.0
_LATENCY_LIMIT_MS: Final = {1: 20.0, 10: 50.0}


def run(context: Context) -> ScenarioResult:
    """Run the load at once, ten and fifty times the base rate; a quick run at the first two."""
    seconds = {1: 3.0, 10: 2.0} if context.quick else {1: 60.0, 10: 15.0, 50: 4.0}
    # Even partitions: the embedded broker keeps 5 MiB of each, seconds of the highest rate.
    load = LoadSettings(seed=context.seed, partitions=16, pareto=None)
    measurements: list[Measurement] = []
    goals: list[Goal] = []
    checks: list[Check] = []
    rows: list[tuple[str | int | float, ...]] = []
    series: list[Series] = []
    for factor, duration in seconds.items():
        context.step(f"thousand-books: {factor * _BASE_RATE:,} updates/s for {duration:g} s")
        with staged(load) as stage:
            found = _measure(stage, factor * _BASE_RATE, duration, unloaded_s=min(_UNLOADED_S, duration))
        name = f"{factor * _BASE_RATE:,}/s"
        frame, read, unloaded = found["frame"], found["read"], found["unloaded"]
        rows += [
            (name, "append to client frame, ms", *(frame["percentiles_ms"][key] for key in PERCENTILES)),
            (name, "20 tops read, loaded, µs", *(read["percentiles_us"][key] for key in PERCENTILES)),
            (name, "20 tops read, unloaded, µs", *(unloaded["percentiles_us"][key] for key in PERCENTILES)),
        ]
        by_second = frame["by_second"]
        series.append(
            Series(
                plot="Kafka append to client frame, p99 of each second",
                name=name,
                x_label="second",
                y_label="ms",
                x=tuple(float(row[0]) for row in by_second),
                y=tuple(float(row[1]) for row in by_second),
                log_y=True,
            )
        )
        measurements += [
            Measurement(f"frames to clients {name}", found["frames"] / found["seconds"], "frames/s"),
            Measurement(
                f"publisher's rate {name}", found["rate"], "updates/s", f"wanted {factor * _BASE_RATE:,}"
            ),
            Measurement(f"server CPU {name}", found["cpu"] / found["seconds"], "cores"),
            Measurement(f"longest collector pause {name}", found["collector_longest_ms"], "ms"),
            Measurement(f"reads {name}", read["reads"] / found["seconds"], "reads/s"),
        ]
        checks += [Check(f"{name}: {check.text}", check.passed, check.detail) for check in found["checks"]]
        busy = found["cpu"] / (found["seconds"] + found["behind_s"])
        sent = found["frames"] / found["seconds"]
        crowded = (
            f"one interpreter does the feed, {_READERS} readers and {sent:,.0f} frames/s; it takes {busy:.2f}"
            " cores, beside broker, publisher and clients"
        )
        if factor in _LATENCY_LIMIT_MS:
            limit = _LATENCY_LIMIT_MS[factor]
            goals.append(
                Goal(
                    text=f"{name}: p99 from Kafka append to client frame ≤ {limit:g} ms",
                    value=frame["percentiles_ms"]["p99"],
                    limit=limit,
                    unit="ms",
                    reason=crowded,
                )
            )
            limit_us = 1.2 * unloaded["percentiles_us"]["p99"] + found["interval_us"]
            goals.append(
                Goal(
                    text=f"{name}: p99 of a read ≤ 1.2 times unloaded, plus a switch interval",
                    value=read["percentiles_us"]["p99"],
                    limit=limit_us,
                    unit="µs",
                    reason="a reader without the interpreter waits an interval for each thread before it",
                )
            )
        else:
            goals.append(
                Goal(
                    text=f"{name}: the feed is through at most 10 % after the publisher",
                    value=(found["seconds"] + found["behind_s"]) / found["seconds"],
                    limit=1.1,
                    reason=crowded,
                )
            )
    columns = ("load", "what", *PERCENTILES)
    return ScenarioResult(
        name="thousand-books",
        title="1,000 books through Kafka; 20 reader threads, 50 clients on all tops, 5 on full depth",
        conditions=(
            f"{load.markets:,} markets, {load.levels} levels a side, seed {load.seed}",
            f"{load.top_share:.0%} of changes at the top, activity uniform, {load.partitions} partitions",
            "broker (embedded), publisher (linger 1 ms), clients and server are processes of one machine",
            "times of one clock, floored to ms when published",
        ),
        measurements=tuple(measurements),
        tables=(Table("Latency", columns, tuple(rows)),),
        series=tuple(series),
        goals=tuple(goals),
        checks=tuple(checks),
    )


def _measure(stage: Stage, rate: int, duration: float, *, unloaded_s: float) -> dict[str, Any]:
    server, count = stage.server, int(rate * duration)
    sockets = stage.sockets()
    _connect(sockets, stage)
    server.ask("start_readers", threads=_READERS, steps=0)
    sockets.ask("read", seconds=unloaded_s)
    unloaded = server.ask("stop_readers")
    server.ask("start_readers", threads=_READERS, steps=count)
    sockets.ask("watch")
    before, frames_before = server.ask("usage"), sockets.ask("counts")["frames"]
    stage.begin(count, rate)
    sockets.tell("read", seconds=duration, quiet=1.0)
    published = stage.finish()
    after_publisher = stage.settle()
    after = server.ask("usage")
    counts = all_read(sockets)
    read = server.ask("stop_readers")
    checks = [
        *stage.checks(),
        *client_checks(sockets, stage),
        Check(f"{read['cuts']} whole cuts read under load, none torn", not read["torn"]),
        Check(
            f"{read['reads']:,} bulk reads, none of mixed versions",
            not read["mixed"] and not unloaded["mixed"],
        ),
        Check("no client was cut", not counts["closed"], str(counts["closed"])),
    ]
    return {
        "frame": sockets.ask("latency"),
        "read": read,
        "unloaded": unloaded,
        "frames": counts["frames"] - frames_before,
        "seconds": published["seconds"],
        "rate": count / published["seconds"],
        "behind_s": after_publisher["applied_s"],
        "cpu": after["cpu"] - before["cpu"],
        "collector_longest_ms": after["collector_longest_ms"],
        "interval_us": server.greeting["interval_us"],
        "checks": checks,
    }


def _connect(sockets: Worker, stage: Stage) -> None:
    every = [f"KXPERF-26DEC01-T{number:06d}" for number in range(stage.load.markets)]
    # Those that keep books are few, so that what reads does not hold up what is measured.
    sockets.ask("connect", count=_CLIENTS, keeps=_KEEPING)
    sockets.ask("connect", count=_DEPTH_CLIENTS, keeps=_DEPTH_CLIENTS, depth=True)
    sockets.ask("subscribe", first=0, count=_CLIENTS, markets=None, channel="top_of_book")
    lists = [every[place::_DEPTH_CLIENTS] for place in range(_DEPTH_CLIENTS)]
    sockets.ask("subscribe", first=_CLIENTS, count=_DEPTH_CLIENTS, markets=lists, channel="orderbook_delta")
    sockets.ask("read", quiet=0.5)
