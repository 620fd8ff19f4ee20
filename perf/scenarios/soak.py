"""
Half an hour of real recordings in a loop: memory and latency must lie flat.

A recording's frames carry the exchange's times, so latency is measured on made-up markets beside them.
"""

from typing import Any, Final

from perf.clients.load import LoadSettings
from perf.context import Context
from perf.result import Check, Goal, Measurement, ScenarioResult, Series
from perf.stage import client_checks, staged

_SPEED: Final = 20.0
_RATE: Final = 200
_CLIENTS: Final = 50
_PIECE_S: Final = 30.0
_WARM_SHARE: Final = 0.2
_LIMIT: Final = 1.1
_LATENCY_LIMIT: Final = 1.5


def run(context: Context) -> ScenarioResult:
    """Play, and look at memory and latency in pieces of half a minute."""
    duration = 1_800.0 if context.soak else 20.0 if context.quick else 120.0
    piece = min(_PIECE_S, duration / 6)
    load = LoadSettings(seed=context.seed)
    folder = None if context.recordings is None else str(context.recordings)
    resident: list[float] = []
    latencies: list[float] = []
    with staged(load) as stage:
        player = None if folder is None else stage.player(folder, _SPEED)
        sockets = stage.sockets()
        sockets.ask("connect", count=_CLIENTS, keeps=5)
        sockets.ask("subscribe", first=0, count=_CLIENTS, markets=None, channel="top_of_book")
        pieces = int(duration / piece)
        stage.begin(int(_RATE * duration), _RATE)
        if player is not None:
            player.ask("start")
        for number in range(pieces):
            context.step(f"soak: {number * piece:.0f} of {duration:.0f} s", number / pieces)
            sockets.ask("watch")
            sockets.ask("read", seconds=piece)
            latencies.append(sockets.ask("latency")["percentiles_ms"]["p99"])
            stage.server.ask("collect")
            resident.append(stage.server.ask("usage")["resident"] / 1e6)
        played = {} if player is None else player.ask("stop")
        stage.finish()
        # Until the last of it has arrived.
        counts = sockets.ask("read", seconds=1.0, quiet=1.0)
        usage = stage.server.ask("usage")
        checks = [*stage.checks(), *client_checks(sockets, stage)]
        incidents = stage.server.ask("incidents")
    return _result(duration, piece, folder, resident, latencies, usage, counts, incidents, played, checks)


def _result(
    duration: float,
    piece: float,
    folder: str | None,
    resident: list[float],
    latencies: list[float],
    usage: dict[str, Any],
    counts: dict[str, Any],
    incidents: dict[str, int],
    played: dict[str, int],
    checks: list[Check],
) -> ScenarioResult:
    warm = max(int(len(resident) * _WARM_SHARE), 1)
    half = max((len(resident) - warm) // 2, 1)
    early, late = latencies[warm : warm + half], latencies[-half:]
    times = tuple((number + 1) * piece for number in range(len(resident)))
    return ScenarioResult(
        name="soak",
        title=f"{'recordings' if folder else 'made-up load'} in a loop, {_SPEED:g} times as fast",
        conditions=(
            f"{_CLIENTS} clients on all tops; memory after a pass of the collector",
            f"latency: of {_RATE} changes a second of 1,000 made-up markets beside the recordings",
        ),
        measurements=(
            Measurement("records", usage["records"], "records"),
            Measurement("records a second", usage["records"] / duration, "records/s"),
            Measurement("frames to clients", counts["frames"], "frames"),
            Measurement("resident after warm-up", resident[warm - 1], "MB"),
            Measurement("resident at the end", resident[-1], "MB"),
        ),
        series=(
            Series(plot="Memory", name="resident", x_label="s", y_label="MB", x=times, y=tuple(resident)),
            Series(
                plot="Latency of frames, p99",
                name="p99",
                x_label="s",
                y_label="ms",
                x=times,
                y=tuple(latencies),
            ),
        ),
        goals=(
            Goal(
                text="memory at the end within 10 % of that after warm-up",
                value=resident[-1] / resident[warm - 1],
                limit=_LIMIT,
                reason="markets of every recording are new to the store in its first round",
            ),
            Goal(
                text="median p99 of the later half within 1.5 times that of the earlier",
                value=_median(late) / max(_median(early), 0.1),
                limit=_LATENCY_LIMIT,
                reason="recordings have busy and quiet stretches",
            ),
        ),
        checks=(
            *checks,
            Check("no record was rejected", not usage["rejected"], str(usage["rejected"])),
            Check("every record was acknowledged", not played.get("failed")),
            Check("no client was cut", not counts["closed"], str(counts["closed"])),
        ),
        notes=(f"incidents: {incidents}",),
    )


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0
