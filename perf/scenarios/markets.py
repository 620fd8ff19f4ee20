"""
What the number of markets costs: memory, updates of skewed and even activity, pauses, filling.

Each size is a process of its own. The larger ones run with the collector set as `kalshibook serve`
sets it; how Python sets it stands beside.
"""

from typing import Any, Final

from perf.clients.worker import Worker
from perf.context import Context
from perf.result import Goal, Measurement, ScenarioResult, Series, Table
from perf.starting import start_from_topic

__all__ = ["run"]

_SIZES: Final = (1_000, 100_000, 1_000_000)
_QUICK: Final = (1_000, 20_000)
_MOST_PLAIN: Final = 100_000
_COLUMNS: Final = (
    "markets",
    "skewed, µs",
    "even, µs",
    "longest pause skewed, ms",
    "even, ms",
    "snapshots/s",
    "memory, MB",
)


def run(context: Context) -> ScenarioResult:
    """Fill and update each number of markets, with the server's collector and with Python's."""
    sizes, updates = (_QUICK, 20_000) if context.quick else (_SIZES, 100_000)
    served = [_measured(context, size, updates, served=True) for size in sizes]
    # A million with these pauses takes a minute to fill, and shows nothing that fewer do not.
    plain = [_measured(context, size, updates, served=False) for size in sizes if size <= _MOST_PLAIN]
    started = start_from_topic(context)
    few, many = served[0], served[-1]
    largest = f"{sizes[-1]:,}"
    return ScenarioResult(
        name="markets",
        title=f"Stores of {sizes[0]:,} to {largest} markets with 5 levels a side.",
        conditions=(
            f"{updates:,} updates each, decoded and applied; CPU time of the thread",
            "skewed: activity by a Pareto distribution of shape 0.6, as of real markets; even: any market",
            "beside each update a list is allocated and kept for 10,000 updates, as a serving process does",
            "pauses: passes of the garbage collector, which stop every thread; CPU time",
            *started.conditions,
        ),
        measurements=(
            Measurement("memory of a market", many["bytes"] / sizes[-1] / 1_024, "KB", f"{largest} markets"),
            Measurement("resident", many["total_bytes"] / 1e6, "MB", f"{largest} markets, the whole process"),
            *started.measurements,
        ),
        tables=(
            Table("with the collector as `kalshibook serve` sets it", _COLUMNS, tuple(map(_row, served))),
            Table("with the collector as Python sets it", _COLUMNS, tuple(map(_row, plain))),
            *started.tables,
        ),
        series=tuple(
            Series(
                plot="Cost of one update against markets",
                name=name,
                x_label="markets",
                y_label="µs an update",
                x=tuple(map(float, sizes)),
                y=tuple(one[name]["us"] for one in served),
                log_x=True,
            )
            for name in ("skewed", "even")
        ),
        goals=(*_goals(few, many, largest), *started.goals),
        checks=started.checks,
        notes=("Pauses are the collector's only; waiting for the interpreter is in thousand-books.",),
    )


def _goals(few: dict[str, Any], many: dict[str, Any], largest: str) -> tuple[Goal, ...]:
    cold = "every update of another market meets books and levels that are in no cache of the processor"
    return (
        Goal(
            text=f"skewed: an update at {largest} at most 2 x that at the fewest",
            value=many["skewed"]["us"] / few["skewed"]["us"],
            limit=2,
            reason=cold,
        ),
        Goal(
            text=f"even: an update at {largest} at most 5 x that at the fewest",
            value=many["even"]["us"] / few["even"]["us"],
            limit=5,
            reason=cold,
        ),
        Goal(
            text=f"memory of the process at {largest}",
            value=many["total_bytes"] / 1e9,
            limit=2,
            unit="GB",
            reason="a market is a book, two ladders, ten levels and their sizes",
        ),
        Goal(
            text=f"no pause over 20 ms while serving {largest}, skewed",
            value=_pause(many["skewed"]),
            limit=20,
            unit="ms",
            reason="the middle passes walk what has survived since the books were filled",
        ),
        Goal(
            text=f"applying {largest} first snapshots, without Kafka: at least half the rate at the fewest",
            value=many["rate"] / few["rate"],
            limit=0.5,
            at_most=False,
            reason=cold,
        ),
    )


def _measured(context: Context, markets: int, updates: int, *, served: bool) -> dict[str, Any]:
    collector = "the server's" if served else "Python's"
    context.step(f"markets: {markets:,}, {collector} collector")
    with Worker("markets", markets=markets, seed=context.seed, served=served) as worker:
        found: dict[str, Any] = worker.ask("fill")
        # Once unmeasured: the first updates meet a history that is not full yet.
        worker.ask("run", updates=5_000, skewed=True)
        for name, skewed in (("skewed", True), ("even", False)):
            found[name] = worker.ask("run", updates=updates, skewed=skewed)
    return {**found, "markets": markets, "rate": markets / found["seconds"]}


def _row(one: dict[str, Any]) -> tuple[str | int | float, ...]:
    return (
        one["markets"],
        one["skewed"]["us"],
        one["even"]["us"],
        _pause(one["skewed"]),
        _pause(one["even"]),
        one["rate"],
        one["total_bytes"] / 1e6,
    )


def _pause(found: dict[str, Any]) -> float:
    return float(max(found["pauses"]["longest_ms"]))
