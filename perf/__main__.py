"""`python -m perf [NAME...] [--quick] [--soak] [--profile]`: run scenarios, write the report."""

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from perf.context import Context
from perf.machine import machine_facts
from perf.profiling import ProfileUnavailable, recorded, top_functions
from perf.progress import shown_progress
from perf.report import write_report
from perf.result import ScenarioResult

SCENARIOS: Final = (
    "small-concurrency",
    "apply",
    "depth",
    "markets",
    "warm-start",
    "peers",
    "thousand-books",
    "saturation",
    "fan-out",
    "slow-client",
    "bulk",
    "churn",
    "registry",
    "gather",
    "archive-writer",
    "archive-production",
    "soak",
)
"""In the order in which they run; `soak` only when named or with --soak."""

_RESULTS: Final = Path(__file__).with_name("results")


def main() -> int:
    """Run what was asked for; 1 when a check of correctness failed."""
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--quick", action="store_true", help="about a minute in all; rough numbers")
    parser.add_argument("--soak", action="store_true", help="also the half-hour scenario, at full length")
    parser.add_argument("--profile", action="store_true", help="record each scenario with py-spy")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if not _named(name)]
    if unknown:
        parser.error(f"unknown scenario {', '.join(unknown)}; there are: {', '.join(SCENARIOS)}")
    names = [found for name in arguments.names for found in _named(name)]
    if not names:
        names = [name for name in SCENARIOS if name != "soak" or arguments.soak]
    folder = _RESULTS / datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    folder.mkdir(parents=True)
    facts = machine_facts()
    results = []
    with shown_progress(names) as show:
        context = Context(quick=arguments.quick, soak=arguments.soak, results=folder, show=show)
        for name in names:
            try:
                results.append(_run(name, context, profile=arguments.profile))
            except ProfileUnavailable as missing:
                parser.exit(1, f"--profile: {missing}\n")
            # After each: a run that is broken off leaves what it has found.
            write_report(folder, results, facts, quick=arguments.quick)
    print((folder / "report.md").read_text())
    print(f"report: {folder / 'report.html'}")
    return 0 if all(check.passed for result in results for check in result.checks) else 1


def _named(name: str) -> list[str]:
    """Return the scenario of a name, and those that it is the first word of."""
    return [scenario for scenario in SCENARIOS if scenario == name or scenario.startswith(f"{name}-")]


def _run(name: str, context: Context, *, profile: bool) -> ScenarioResult:
    module = importlib.import_module(f"perf.scenarios.{name.replace('-', '_')}")
    context.step(name)
    started = time.perf_counter()
    with recorded(context.results / f"{name}.svg") if profile else nullcontext():
        result: ScenarioResult = module.run(context)
    load = f"load average of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    result = msgspec.structs.replace(
        result, seconds=time.perf_counter() - started, conditions=(*result.conditions, load)
    )
    if context.quick or all(goal.met for goal in result.goals):
        return result
    return _explained(result, module.run, context)


def _explained(
    result: ScenarioResult, run: Callable[[Context], ScenarioResult], context: Context
) -> ScenarioResult:
    """Add what a profile of a short run shows: a goal that is missed is told with where the time goes."""
    target = context.results / f"{result.name}.stacks.txt"
    context.step(f"{result.name}: a short run with a profile, because a goal is missed")
    try:
        with recorded(target):
            run(context.shortened())
    except ProfileUnavailable as missing:
        note = f"A goal is missed, and no profile can show why: {missing}"
        return msgspec.structs.replace(result, notes=(*result.notes, note))
    note = f"All stacks of the profile are in {target.name}; speedscope.app draws them."
    return msgspec.structs.replace(
        result, tables=(*result.tables, top_functions(target)), notes=(*result.notes, note)
    )


if __name__ == "__main__":
    sys.exit(main())
