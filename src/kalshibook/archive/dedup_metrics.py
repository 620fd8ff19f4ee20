"""
Metrics of the deduplicator, read from plain counters at the moment of a scrape.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
| `kalshibook_dedup_source_reachable` | gauge | source | 1 while its database answers |
| `kalshibook_dedup_source_behind` | gauge | source | 1 while more of it is waiting than one round takes |
| `kalshibook_dedup_source_last_row_seconds` | gauge | source | receipt of its latest row, Unix seconds |
| `kalshibook_dedup_source_rows` | counter | source, table | rows read of it |
| `kalshibook_dedup_source_share` | gauge | source | share of the changes known since the start that it saw |
| `kalshibook_dedup_rows` | counter | table | rows read of all sources |
| `kalshibook_dedup_events` | counter | table | events that nobody had seen before |
| `kalshibook_dedup_duplicates` | counter | table | rows that only confirmed an event; 66 % is normal |
| `kalshibook_dedup_late` | counter | table | events that another source confirmed in a later round |
| `kalshibook_dedup_rounds` | counter | | rounds done |
| `kalshibook_dedup_gaps` | counter | outcome | gaps judged: filled, backfilled or lost |
| `kalshibook_dedup_backfilled_trades` | counter | | trades that only REST had |
| `kalshibook_dedup_described` | counter | table | new states of series, events and markets |
| `kalshibook_dedup_chore_failures` | counter | chore | passes over REST or the ledger that failed |

In a scrape the names of counters end in ``_total``. No label names a market.
"""

from collections.abc import Iterable, Iterator
from typing import Final, final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kalshibook.archive.chores import ChoreCounts
from kalshibook.archive.dedup import Progress, SourceState

__all__ = ["DedupCollector", "registry_of"]

_PREFIX: Final = "kalshibook_dedup"
_CHANGES: Final = "orderbook_deltas"


@final
class DedupCollector(Collector):
    """Yields what a deduplicator and its chores have counted."""

    def __init__(
        self, states: Iterable[SourceState], progress: Progress, chores: ChoreCounts | None = None
    ) -> None:
        self._states = [*states]
        self._progress = progress
        self._chores = ChoreCounts() if chores is None else chores

    def describe(self) -> Iterable[Metric]:
        """Spare the registry a scrape at registration."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read every counter once."""
        states, progress, chores = self._states, self._progress, self._chores
        yield _gauge(
            "source_reachable", "1 while its database answers.", [(s.name, s.reachable) for s in states]
        )
        yield _gauge(
            "source_behind",
            "1 while more of it is waiting than one round takes.",
            [(s.name, s.behind) for s in states],
        )
        yield _gauge(
            "source_last_row_seconds",
            "Receipt of its latest row merged, Unix seconds.",
            [(s.name, s.last_received_us / 1e6) for s in states if s.last_received_us is not None],
        )
        rows = CounterMetricFamily(f"{_PREFIX}_source_rows", "Rows read of it.", labels=["source", "table"])
        for state in states:
            for table, count in [*state.total_rows.items()]:
                rows.add_metric([state.name, table], count)
        yield rows
        known = progress.new.get(_CHANGES, 0)
        shares = [(s.name, min(1.0, s.total_rows.get(_CHANGES, 0) / known)) for s in states] if known else []
        yield _gauge("source_share", "Share of the changes known since the start that it saw.", shares)
        duplicates = {t: n - progress.new.get(t, 0) for t, n in progress.rows.items()}
        for name, text, label, counts in (
            ("rows", "Rows read of all sources.", "table", progress.rows),
            ("events", "Events that nobody had seen before.", "table", progress.new),
            ("duplicates", "Rows that only confirmed an event.", "table", duplicates),
            ("late", "Events confirmed in a later round.", "table", progress.grown),
            ("gaps", "Gaps judged.", "outcome", chores.gaps),
            ("described", "New states of series, events and markets.", "table", chores.described),
            ("chore_failures", "Passes that failed.", "chore", chores.failures),
        ):
            yield _counter(name, text, label, counts)
        yield CounterMetricFamily(f"{_PREFIX}_rounds", "Rounds done.", value=progress.rounds)
        yield CounterMetricFamily(
            f"{_PREFIX}_backfilled_trades", "Trades that only REST had.", value=chores.backfilled_trades
        )


def registry_of(collector: DedupCollector) -> CollectorRegistry:
    """Return a registry of its own for one deduplicator."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def _gauge(name: str, text: str, values: Iterable[tuple[str, float]]) -> Metric:
    metric = GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=["source"])
    for source, value in values:
        metric.add_metric([source], float(value))
    return metric


def _counter(name: str, text: str, label: str, counts: dict[str, int]) -> Metric:
    metric = CounterMetricFamily(f"{_PREFIX}_{name}", text, labels=[label])
    # Copied at once: the deduplicator's thread adds keys.
    for key, count in [*counts.items()]:
        metric.add_metric([key], count)
    return metric
