"""Clients that come, subscribe, change their minds and leave, for minutes: nothing of them may stay."""

from typing import Any, Final

from perf.clients.load import LoadSettings
from perf.context import Context
from perf.result import Check, Goal, Measurement, ScenarioResult, Series
from perf.stage import Stage, staged

_RATE: Final = 500
_AT_ONCE: Final = 200
_LIMIT: Final = 1.05
_WARM_UP: Final = 0.2
"""Of the duration, before it."""


def run(context: Context) -> ScenarioResult:
    """Warm up until memory stands, then churn, and weigh the process before and after."""
    duration = 6.0 if context.quick else 120.0
    slices = 2 if context.quick else 8
    load = LoadSettings(seed=context.seed)
    with staged(load) as stage:
        sockets = stage.sockets()
        stage.begin(int(_RATE * duration * (1 + _WARM_UP)), _RATE)
        context.step("churn: warming up")
        sockets.ask("churn", seconds=duration * _WARM_UP, at_once=_AT_ONCE, seed=context.seed)
        start = _resident(stage)
        resident = [start]
        visits = 0
        for number in range(slices):
            context.step("churn: clients come and go", number / slices)
            done = sockets.ask(
                "churn", seconds=duration / slices, at_once=_AT_ONCE, seed=context.seed + number + 1
            )
            visits += done["visits"]
            resident.append(_resident(stage))
        stage.finish()
        stage.settle()
        counts = stage.server.ask("stream_counts")
        checks = [
            *stage.checks(),
            Check("routing table empty", counts["hub"]["routes"] == 0, str(counts["hub"]["routes"])),
            Check(
                "no client and no connection left",
                counts["open"] == 0 == counts["hub"]["clients"],
                str(counts["open"]),
            ),
            Check("no connection failed on our side", not counts["ended"].get("failure")),
        ]
    megabytes = [value / 1e6 for value in resident]
    return ScenarioResult(
        name="churn",
        title=f"up to {_AT_ONCE} clients that come, subscribe, update, leave at random for {duration:g} s",
        conditions=(
            f"{load.markets:,} markets, {_RATE} updates/s, seed {load.seed}",
            "some close with a frame, some just hang up",
            f"start is after {duration * _WARM_UP:g} s of the same, each time after a pass of the collector",
        ),
        measurements=(
            Measurement("visits", visits, "connections"),
            Measurement("resident at the start", megabytes[0], "MB"),
            Measurement("resident at the end", megabytes[-1], "MB"),
        ),
        series=(
            Series(
                plot="Memory while clients come and go",
                name="resident",
                x_label="s",
                y_label="MB",
                x=tuple(number * duration / slices for number in range(slices + 1)),
                y=tuple(megabytes),
            ),
        ),
        goals=(
            Goal(
                text="memory at the end within 5 % of the start",
                value=megabytes[-1] / megabytes[0],
                limit=_LIMIT,
                reason="the allocator has not returned what the busiest moment took",
            ),
        ),
        checks=tuple(checks),
    )


def _resident(stage: Stage) -> int:
    stage.server.ask("wait_no_clients")
    stage.server.ask("collect")
    usage: dict[str, Any] = stage.server.ask("usage")
    return int(usage["resident"])
