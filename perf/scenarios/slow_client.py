"""Clients that stop reading, and clients that read a byte a second, beside well-behaved ones."""

from typing import Any, Final

from perf.clients.load import LoadSettings
from perf.context import Context
from perf.measures import PERCENTILES
from perf.result import Check, Goal, Measurement, ScenarioResult, Table
from perf.scenarios.fan_out import market_lists
from perf.stage import Stage, client_checks, staged

_CLIENTS: Final = 100
_ON_ALL: Final = 50
_RATE: Final = 1_000
_SLOW_EACH: Final = 10
_TOLERANCE: Final = 1.2
_SEND_TIMEOUT_S: Final = 2.0
_DRAIN_TIMEOUT_S: Final = 6.0
_RECEIVE_BUFFER: Final = 4_096


def run(context: Context) -> ScenarioResult:
    """Run the same load without and with the slow clients, twice in turn."""
    duration = 4.0 if context.quick else 10.0
    load = LoadSettings(seed=context.seed, top_share=1.0, pareto=None)
    found: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for slow in (False, True) if context.quick else (False, True, False, True):
        context.step(f"slow-client: {'with' if slow else 'without'} the slow ones, {duration:g} s")
        with staged(
            load, stream={"send_timeout_s": _SEND_TIMEOUT_S, "drain_timeout_s": _DRAIN_TIMEOUT_S}
        ) as stage:
            found[slow].append(_measure(stage, duration, slow=slow))
    rows = tuple(
        (
            "with" if slow else "without",
            *(one["latency"]["percentiles_ms"][key] for key in PERCENTILES),
            one["rate"],
        )
        for slow, several in found.items()
        for one in several
    )
    p99 = {
        slow: min(one["latency"]["percentiles_ms"]["p99"] for one in several)
        for slow, several in found.items()
    }
    rate = {slow: max(one["rate"] for one in several) for slow, several in found.items()}
    last = found[True][-1]
    return ScenarioResult(
        name="slow-client",
        title=f"{_CLIENTS} clients on 20 markets, {_ON_ALL} on all; 10 stop reading, 10 read a byte a second",
        conditions=(
            f"1,000 top changes a second for {duration:g} s, seed {load.seed}",
            f"slow clients: on all markets, receive buffers of {_RECEIVE_BUFFER:,} bytes",
            f"send_timeout_s {_SEND_TIMEOUT_S:g}, drain_timeout_s {_DRAIN_TIMEOUT_S:g} (defaults 5 and 30)",
        ),
        measurements=(
            Measurement("frames conflated", last["conflated"], "frames", "for the slow ones, mostly"),
        ),
        tables=(
            Table(
                "Kafka append to the others' frames, ms", ("slow ones", *PERCENTILES, "feed, updates/s"), rows
            ),
        ),
        goals=(
            Goal(
                text="the others' p99 is within 20 % of the run without them",
                value=p99[True] / p99[False],
                limit=_TOLERANCE,
                reason="p99 of two runs differs by as much on a shared machine",
            ),
            Goal(
                text="the feed's rate is within 20 % of the run without them",
                value=rate[True] / rate[False],
                limit=1 / _TOLERANCE,
                at_most=False,
            ),
        ),
        checks=tuple(check for several in found.values() for one in several for check in one["checks"]),
    )


def _measure(stage: Stage, duration: float, *, slow: bool) -> dict[str, Any]:
    server = stage.server
    sockets = stage.sockets()
    sockets.ask("connect", count=_CLIENTS, keeps=5)
    sockets.ask("connect", count=_ON_ALL, keeps=2)
    sockets.ask(
        "subscribe", first=0, count=_CLIENTS, markets=market_lists(stage.load.markets), channel="top_of_book"
    )
    sockets.ask("subscribe", first=_CLIENTS, count=_ON_ALL, markets=None, channel="top_of_book")
    sockets.ask("read", quiet=0.5)
    misbehaving = stage.sockets()
    if slow:
        misbehaving.ask("connect", count=2 * _SLOW_EACH, receive_buffer=_RECEIVE_BUFFER)
        misbehaving.ask("stall", count=_SLOW_EACH, drip=_SLOW_EACH)
        misbehaving.ask("subscribe", first=0, count=2 * _SLOW_EACH, markets=None, channel="top_of_book")
    sockets.ask("watch")
    before = server.ask("usage")
    count = int(_RATE * duration)
    stage.begin(count, _RATE)
    sockets.tell("read", seconds=duration, quiet=1.0)
    misbehaving.tell("read", seconds=duration)
    stage.finish()
    server.ask("wait_applied", count=stage.load.markets + stage.published)
    after = server.ask("usage")
    counts = sockets.hear()
    misbehaving.hear()
    checks = [
        Check("well-behaved clients were not cut", not counts["closed"], str(counts["closed"])),
        *stage.checks(),
        *client_checks(sockets, stage),
    ]
    if slow:
        checks += _slow_checks(stage, misbehaving)
    stream = server.ask("stream_counts")
    return {
        "latency": sockets.ask("latency"),
        "rate": count / (after["clock"] - before["clock"]),
        "conflated": stream["hub"]["conflated"],
        "checks": checks,
    }


def _slow_checks(stage: Stage, misbehaving: Any) -> list[Check]:
    ended = misbehaving.ask("stuck")["ended"]
    stream = stage.server.ask("stream_counts")
    causes = stream["ended"]
    cut = causes.get("slow_write", 0) + causes.get("slow_backlog", 0)
    return [
        Check(
            f"all {2 * _SLOW_EACH} slow clients were cut as too slow within their time",
            cut == 2 * _SLOW_EACH and "still open" not in ended,
            f"causes {causes}, at the client {ended}",
        ),
        Check("what waited for them was conflated", stream["hub"]["conflated"] > 0),
    ]
