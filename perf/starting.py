"""How fast a store is filled from a topic that holds a snapshot of every market, beside plain changes."""

from typing import Any, Final

from tests.kafka.apache_kafka import why_unavailable

from perf.clients.load import LoadSettings
from perf.context import Context
from perf.result import Check, Goal, Measurement, ScenarioResult, Table
from perf.stage import per_unit_us, staged

__all__ = ["start_from_topic"]

_MARKETS: Final = 1_000_000
_CHANGES: Final = 150_000
_QUICK: Final = 5_000
_PARTITIONS: Final = 16
_LIMIT: Final = 0.5


def start_from_topic(context: Context) -> ScenarioResult:
    """
    Read a topic of snapshots into an empty store, and one of changes for comparison, server attached.

    The embedded broker keeps 5 MiB a partition, so a million snapshots need Apache Kafka.
    """
    missing = None if context.quick else why_unavailable()
    markets, changes = (_QUICK, _QUICK) if context.quick or missing else (_MARKETS, _CHANGES)
    apache = not (context.quick or missing)
    broker = "Apache Kafka" if apache else "the embedded broker"
    context.step(f"markets: {changes:,} changes are published to {broker}")
    plain = LoadSettings(seed=context.seed, partitions=_PARTITIONS, pareto=None)
    change, _ = _drained(context, plain, changes, apache=apache)
    many = LoadSettings(markets=markets, levels=5, seed=context.seed, partitions=_PARTITIONS, pareto=None)
    context.step(f"markets: {markets:,} snapshots are published to {broker}")
    snapshot, checks = _drained(context, many, 0, apache=apache)
    return ScenarioResult(
        name="markets",
        title="",
        conditions=(
            f"start: {broker}, {_PARTITIONS} partitions, from the beginning; beside it {changes:,} changes",
        ),
        tables=(
            Table(
                "start from a topic, server attached, no clients",
                ("records", "of them", "seconds", "records/s", "feed, µs CPU a record"),
                tuple(
                    (name, one["records"], one["seconds"], one["records"] / one["seconds"], one["us"])
                    for name, one in (("snapshots", snapshot), ("changes", change))
                ),
            ),
        ),
        measurements=(
            Measurement("start with one snapshot a market", snapshot["seconds"], "s", f"{markets:,} markets"),
            Measurement("resident after it", snapshot["resident"] / 1e6, "MB", f"{markets:,} markets"),
        ),
        goals=(
            Goal(
                text=f"start from a topic of {_MARKETS:,} snapshots: at least half the rate of changes, "
                "by CPU time of the feed",
                value=0.0 if missing else change["us"] / snapshot["us"],
                limit=_LIMIT,
                at_most=False,
                reason=missing
                or "a snapshot of ten levels is ten prices and sizes to read and ten levels to make",
            ),
        ),
        checks=tuple(checks),
    )


def _drained(
    context: Context, load: LoadSettings, changes: int, *, apache: bool
) -> tuple[dict[str, Any], list[Check]]:
    with staged(load, late=True, apache=apache) as stage:
        if changes:
            stage.begin(changes, None)
            stage.finish()
        context.step(f"markets: {load.markets + changes:,} records are read")
        server, records = stage.server, load.markets + changes
        before = server.ask("usage")
        server.ask("start_feed")
        applied = server.ask("wait_applied", count=records)
        after = server.ask("usage")
        found = {
            "records": records,
            "seconds": applied["seconds"],
            "us": per_unit_us(after["feed_cpu"] - before["feed_cpu"], records),
            "resident": after["resident"],
        }
        return found, [] if changes else stage.checks()
