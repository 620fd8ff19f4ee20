"""A gatherer's registry of markets, filled from an exchange's lists: time, memory, processor."""

from typing import Any, Final

from perf.clients.worker import Worker
from perf.context import Context
from perf.result import Check, Goal, Measurement, ScenarioResult, Table

__all__ = ["run", "synced"]

_SIZES: Final = (10_000, 300_000)
_SOAK: Final = (*_SIZES, 1_000_000)
_QUICK: Final = (2_000, 20_000)
_MOVING: Final = 100
_COLUMNS: Final = (
    "markets",
    "pages",
    "first markets after, s",
    "all after, s",
    "CPU, s",
    "memory, MB",
    "bytes each",
)


def run(context: Context) -> ScenarioResult:
    """Sync each number of markets, in a process of its own."""
    sizes = _QUICK if context.quick else _SOAK if context.soak else _SIZES
    found = [synced(context, size) for size in sizes]
    many, largest = found[-1], f"{sizes[-1]:,}"
    return ScenarioResult(
        name="registry",
        title=f"A gatherer learns of {sizes[0]:,} to {largest} markets from a simulated exchange's lists.",
        conditions=(
            "pages of 1,000 markets over HTTP; the exchange is a process of its own and sets no limit",
            "a tenth of the markets are combinations; names are as long as the exchange's",
        ),
        measurements=(
            Measurement("time", many["seconds"], "s", f"{largest} markets, the exchange's own work included"),
            Measurement("CPU", many["cpu_s"], "s", f"{largest} markets, the registry's process"),
            Measurement(
                "memory", many["bytes"] / 1e6, "MB", f"{largest} markets, all that the process grew by"
            ),
            Measurement(
                "a market", many["statistics"]["bytes_per_market"], "bytes", "the registry's own count"
            ),
        ),
        tables=(Table("by number of markets", _COLUMNS, tuple(map(_row, found))),),
        goals=(
            Goal(
                text=f"{largest} markets take at most 400 MB",
                value=many["bytes"] / 1e6,
                limit=400,
                unit="MB",
                reason="columns, an index, names and a timer a market",
            ),
            Goal(
                text="the first markets are handed on within a second",
                value=many["first_s"],
                limit=1,
                unit="s",
                reason="work starts with the first page",
            ),
        ),
        checks=tuple(
            Check(f"every market of {one['wanted']:,} is handed on once", one["markets"] == one["wanted"])
            for one in found
        ),
        notes=(
            "The exchange gives 20 requests a second at its smallest tier: a thousand pages then take 50 s.",
        ),
    )


def synced(context: Context, markets: int) -> dict[str, Any]:
    """Sync so many markets, and return what `registry_sync` found."""
    context.step(f"registry: {markets:,} markets")
    quiet = markets - _MOVING
    with (
        Worker(
            "exchange",
            open=True,
            markets=_MOVING,
            quiet_markets=quiet,
            messages_per_second=0,
            short_lived=0,
            read_tokens_per_second=0,
        ) as exchange,
        Worker("registry", rest_url=exchange.greeting["rest_url"]) as worker,
    ):
        found: dict[str, Any] = worker.ask("sync")
    return {**found, "wanted": markets}


def _row(one: dict[str, Any]) -> tuple[str | int | float, ...]:
    return (
        one["markets"],
        one["pages"],
        one["first_s"],
        one["seconds"],
        one["cpu_s"],
        one["bytes"] / 1e6,
        one["statistics"]["bytes_per_market"],
    )
