"""Many clients: what a delivered frame costs beside trio-websocket's sending, and what an idle one weighs."""

from typing import Any, Final

from perf.clients.load import LoadSettings
from perf.clients.worker import Worker, WorkerError
from perf.context import Context
from perf.measures import PERCENTILES
from perf.result import Check, Goal, Measurement, ScenarioResult, Series, Table
from perf.stage import Stage, all_read, client_checks, per_unit_us, staged

_RATE: Final = 1_000
_MARKETS_EACH: Final = 20
_MANY: Final = 10_000
_IDLE_LIMIT_MB: Final = 400.0
_CONNECT_LIMIT_S: Final = 60.0
_SPARE: Final = 500
_KEEPING: Final = 5


def run(context: Context) -> ScenarioResult:
    """Serve growing numbers of clients on 20 markets each, then a hundred on all markets."""
    load = LoadSettings(seed=context.seed, top_share=1.0, pareto=None)
    counts = (1_000,) if context.quick else (100, 1_000, _MANY)
    duration = 2.0 if context.quick else 10.0
    context.step("fan-out: trio-websocket's send_message, for comparison")
    plain_us = _plain_cost(rounds=50 if context.quick else 300)
    rows: list[tuple[str | int | float, ...]] = []
    checks: list[Check] = []
    goals: list[Goal] = []
    measurements = [
        Measurement("trio-websocket send_message", plain_us, "µs CPU/frame", "100 clients, 360 bytes")
    ]
    costs: list[tuple[int, float]] = []
    notes: list[str] = []
    for clients, on_all in [*((count, False) for count in counts), (100, True)]:
        name = f"{clients:,} clients on {'all' if on_all else _MARKETS_EACH} markets"
        context.step(f"fan-out: {name}")
        with staged(load, descriptors=clients + _SPARE, stream={"max_connections": clients}) as stage:
            allowed = stage.server.greeting["descriptors"]
            if allowed < clients + _SPARE:
                notes.append(f"this machine allows {allowed:,} descriptors: no run of {clients:,} clients")
                continue
            found = _measure(stage, clients, duration, on_all=on_all)
        percentiles = found["latency"]["percentiles_ms"]
        cost_us = per_unit_us(found["trio_cpu"], found["frames"])
        rows.append(
            (
                name,
                found["frames"] / found["seconds"],
                found["frames_per_read"],
                cost_us,
                cost_us / plain_us,
                *(percentiles[key] for key in PERCENTILES),
            )
        )
        checks += [Check(f"{name}: {check.text}", check.passed, check.detail) for check in found["checks"]]
        goals.append(
            Goal(
                text=f"{name}: a delivered frame costs ≤ 1/10 of send_message",
                value=cost_us / plain_us,
                limit=0.1,
                reason="a write to a socket costs the kernel alone as much; few frames wait when it is made",
            )
        )
        if not on_all:
            costs.append((clients, cost_us))
            megabytes = found["idle_bytes"] / 1e6
            measurements += [
                Measurement(
                    f"idle: {clients:,} clients", megabytes, "MB", "after the handshake, before subscribing"
                ),
                Measurement(f"idle: one of {clients:,}", found["idle_bytes"] / clients / 1_000, "kB"),
                Measurement(f"subscribed: one of {clients:,}", found["held_bytes"] / clients / 1_000, "kB"),
                Measurement(f"connecting {clients:,}", found["connect_s"], "s"),
            ]
            if clients == _MANY:
                goals += [
                    Goal(
                        text=f"{_MANY:,} idle clients hold ≤ {_IDLE_LIMIT_MB:g} MB",
                        value=megabytes,
                        limit=_IDLE_LIMIT_MB,
                        unit="MB",
                        reason="Trio's tasks and trio-websocket's buffers",
                    ),
                    Goal(
                        text=f"{_MANY:,} clients connect in ≤ {_CONNECT_LIMIT_S:g} s",
                        value=found["connect_s"],
                        limit=_CONNECT_LIMIT_S,
                        unit="s",
                        reason="handshakes are trio-websocket's",
                    ),
                ]
    return ScenarioResult(
        name="fan-out",
        title="1,000 top-of-book changes a second to growing numbers of clients",
        conditions=(
            f"{load.markets:,} markets, every change at the top, activity uniform, seed {load.seed}",
            "cost: CPU of the whole Trio thread over frames that arrived, routing and idle work included",
            f"latency: at {_KEEPING} of the clients, which also keep books",
        ),
        measurements=tuple(measurements),
        tables=(
            Table(
                "Delivering",
                (
                    "clients",
                    "frames/s",
                    "frames/read",
                    "µs/frame",
                    "of send_message",
                    *(f"{key} ms" for key in PERCENTILES),
                ),
                tuple(rows),
            ),
        ),
        series=(
            Series(
                plot="Cost of a delivered frame against clients",
                name="20 markets each",
                x_label="clients",
                y_label="µs CPU",
                x=tuple(float(count) for count, _ in costs),
                y=tuple(cost for _, cost in costs),
                log_x=True,
            ),
            Series(
                plot="Cost of a delivered frame against clients",
                name="trio-websocket's send_message",
                x_label="clients",
                y_label="µs CPU",
                x=tuple(float(count) for count, _ in costs),
                y=tuple(plain_us for _ in costs),
                log_x=True,
            ),
        ),
        goals=tuple(goals),
        checks=tuple(checks),
        notes=tuple(notes),
    )


def _measure(stage: Stage, clients: int, duration: float, *, on_all: bool) -> dict[str, Any]:
    server = stage.server
    sockets = stage.sockets(descriptors=clients + _SPARE)
    server.ask("collect")
    start = server.ask("usage")["resident"]
    connected = sockets.ask("connect", count=clients, keeps=_KEEPING)
    server.ask("collect")
    idle = server.ask("usage")["resident"] - start
    lists = None if on_all else market_lists(stage.load.markets)
    sockets.ask("subscribe", first=0, count=clients, markets=lists, channel="top_of_book")
    sockets.ask("read", quiet=1.0)
    server.ask("collect")
    held = server.ask("usage")["resident"] - start
    sockets.ask("watch")
    before, first = server.ask("usage"), sockets.ask("counts")
    stage.begin(int(_RATE * duration), _RATE)
    sockets.tell("read", seconds=duration, quiet=1.0)
    stage.finish()
    stage.settle()
    after = server.ask("usage")
    last = all_read(sockets)
    frames = last["frames"] - first["frames"]
    return {
        "idle_bytes": idle,
        "held_bytes": held,
        "connect_s": connected["seconds"],
        "frames": frames,
        "frames_per_read": frames / max(last["reads"] - first["reads"], 1),
        "seconds": after["clock"] - before["clock"],
        "trio_cpu": after["trio_cpu"] - before["trio_cpu"],
        "latency": sockets.ask("latency"),
        "checks": [
            *stage.checks(),
            *client_checks(sockets, stage),
            Check("every client connected and none was cut", not last["closed"], str(last["closed"])),
        ],
    }


def market_lists(markets: int) -> list[list[str]]:
    """Return fifty lists of 20 markets, which together are all markets."""
    tickers = [f"KXPERF-26DEC01-T{number:06d}" for number in range(markets)]
    groups = max(markets // _MARKETS_EACH, 1)
    return [tickers[place::groups] for place in range(groups)]


def _plain_cost(rounds: int) -> float:
    with Worker("plain_websocket") as plain:
        with Worker("sockets", address=plain.greeting["address"]) as sockets:
            sockets.ask("connect", count=100)
            plain.ask("send", rounds=5)
            sockets.tell("read", seconds=0.0, quiet=1.0)
            found = plain.ask("send", rounds=rounds)
            if sockets.hear()["frames"] == 0:
                raise WorkerError("nothing arrived from the server of comparison")
        return per_unit_us(found["cpu"], found["frames"])
