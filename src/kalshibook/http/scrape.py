"""
One scrape: what is counted in plain integers elsewhere, as Prometheus' text at the moment it is asked for.

Whoever has counts yields them as metrics; nothing is kept here, and no lock is taken where they are counted.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "counter", "gauge", "labelled", "scrape"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def scrape(collect: Callable[[], Iterator[Metric]]) -> bytes:
    """Return what `collect` yields, as text; from any thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(collect))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def describe(self) -> Iterable[Metric]:
        """Spare the registry a scrape at registration."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read every counter once."""
        return self._collect()


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a value that goes up and down."""
    return GaugeMetricFamily(f"kalshibook_{name}", text, value=value)


def counter(name: str, text: str, value: float) -> Metric:
    """Return a count; its name gains ``_total`` in a scrape."""
    return CounterMetricFamily(f"kalshibook_{name}", text, value=value)


def labelled(
    family: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    text: str,
    label: str,
    values: Iterable[tuple[str, float]],
) -> Metric:
    """Return values that are told apart by one label; the label's values must be bounded."""
    metric = family(f"kalshibook_{name}", text, labels=[label])
    for value_of_label, value in values:
        metric.add_metric([value_of_label], value)
    return metric
