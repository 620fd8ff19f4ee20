"""
What it costs to save books, and how soon a store is there that begins with them.

Through a broker, in processes of their own; the topic of envelopes is left out: what a start reads of it
is what came since the last checkpoint, at the rate that `saturation` tells.
"""

from typing import Final

from perf.clients.worker import Worker
from perf.context import Context
from perf.result import Check, Goal, Measurement, ScenarioResult, Table

__all__ = ["run"]

_MARKETS: Final = 200_000
_QUICK: Final = 20_000
_PARTITIONS: Final = 64
"""Of the embedded broker, which keeps 5 MiB of each."""
_LIMIT_S: Final = 60


def run(context: Context) -> ScenarioResult:
    """Save all books of a store, again without a change, and begin with them in another process."""
    markets = _QUICK if context.quick else _MARKETS
    with Worker("broker", topics={"book-snapshots": _PARTITIONS, "market-data-all": 1}) as broker:
        address = broker.greeting["address"]
        context.step(f"warm-start: saving {markets:,} books")
        with Worker("saved", address=address, markets=markets) as first:
            saved, again = first.ask("save"), first.ask("save_again")
        context.step(f"warm-start: restoring {markets:,} books")
        with Worker("saved", address=address, markets=markets) as second:
            restored = second.ask("restore")
    rows = (
        ("save all", saved["seconds"], saved["cpu_seconds"], markets / saved["seconds"]),
        ("save without a change", again["seconds"], again["cpu_seconds"], 0.0),
        ("restore all", restored["seconds"], restored["cpu_seconds"], markets / restored["seconds"]),
    )
    per_million = restored["seconds"] * 1_000_000 / markets
    return ScenarioResult(
        name="warm-start",
        title=f"{markets:,} books of 5 levels a side, saved to a topic and restored from it.",
        conditions=(
            "embedded broker in a process of its own; the pace of saving is not limited",
            "CPU time of the process, with librdkafka's threads",
        ),
        measurements=(
            Measurement("restored", markets / restored["seconds"], "books/s", f"{markets:,} markets"),
            Measurement("saved", markets / saved["seconds"], "books/s", f"{markets:,} markets"),
            Measurement("a saved book", saved["bytes"] / markets, "bytes", "before compression"),
            Measurement("resident", restored["total_bytes"] / 1e6, "MB", "the restored process"),
        ),
        tables=(Table("rounds and a start", ("what", "s", "CPU s", "books/s"), rows),),
        goals=(
            Goal(
                text="restoring 1,000,000 books (by the rate measured)",
                value=per_million,
                limit=_LIMIT_S,
                unit="s",
                reason="each is read, decoded, and made of a dozen objects",
            ),
        ),
        checks=(
            Check(
                "every book is there again, live, and reading goes on at the checkpoints",
                (restored["live"], restored["offsets"]) == (markets, markets),
                f"{restored['live']:,.0f} books",
            ),
            Check(
                "a round without a change writes checkpoints only",
                again["records"] == 12,
                f"{again['records']}",
            ),
        ),
    )
