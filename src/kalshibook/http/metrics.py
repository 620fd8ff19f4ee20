"""
Metrics in Prometheus' text format, read from plain counters at the moment of a scrape.

Nothing is counted for Prometheus' sake: on the feed's thread a counter is an integer. Labels are
bounded by the code (conditions, kinds, endpoints) or by the topic (partitions); no label names a
market.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
| `kalshibook_up_seconds` | gauge | | time since this server was made |
| `kalshibook_ready` | gauge | | 1 when the feed has caught up |
| `kalshibook_store_version` | counter | | versions of the store so far |
| `kalshibook_markets` | gauge | condition | markets by condition of our copy |
| `kalshibook_messages` | counter | outcome | messages by how they ended |
| `kalshibook_incidents` | counter | kind | incidents by kind |
| `kalshibook_off_grid_changes` | counter | | changes at a price off the market's known grid |
| `kalshibook_empty_snapshots` | counter | | snapshots without a level |
| `kalshibook_source_markets` | gauge | source | books that follow a gatherer |
| `kalshibook_source_live_markets` | gauge | source | those of them that are live |
| `kalshibook_source_silent` | gauge | source | 1 when it owes a sign of life |
| `kalshibook_source_last_alive_seconds` | gauge | source | its last sign of life, Unix seconds |
| `kalshibook_next_offset` | gauge | partition | next offset to consume |
| `kalshibook_change_readers` | gauge | | open readers of changes |
| `kalshibook_conflated_changes` | counter | | changes folded for slow readers |
| `kalshibook_lost_notices` | counter | | notices dropped for slow readers |
| `kalshibook_c_vector` | gauge | | 1 when pyrsistent runs its C vector |
| `kalshibook_feed_ok` | gauge | feed | 1 when the feed is caught up, in time, connected and not silent |
| `kalshibook_feed_state` | gauge | feed, state | 1 for the state that the feed is in |
| `kalshibook_feed_lag_records` | gauge | feed | records still to be read; absent when unknown |
| `kalshibook_feed_waiting_seconds` | gauge | feed | for how long a record waits at least |
| `kalshibook_feed_queued_records` | gauge | feed | records fetched ahead |
| `kalshibook_feed_last_record_seconds` | gauge | feed | when the last record was read, Unix seconds |
| `kalshibook_feed_records` | counter | feed | records read |
| `kalshibook_feed_bytes` | counter | feed | bytes of their values |
| `kalshibook_feed_rejected_records` | counter | feed | records that could not be read |
| `kalshibook_feed_tombstones` | counter | feed | records without a value |
| `kalshibook_feed_quarantined_records` | counter | feed | rejected records that the quarantine keeps |
| `kalshibook_feed_quarantine_lost` | counter | feed | rejected records that the quarantine did not take |
| `kalshibook_stream` | gauge | name | counts of the stream server, by its own names |
| `kalshibook_http_answers` | counter | endpoint, status | answers of this server |
| `kalshibook_http_handling_seconds` | histogram | | time from request to answer, without the writing |
| `kalshibook_http_not_modified` | counter | | bulk requests answered with 304 |
| `kalshibook_http_compressed` | counter | | bulk answers compressed on request |
| `kalshibook_http_fragments_kept` | gauge | | encoded markets kept for reuse |
| `kalshibook_http_fragments_encoded` | counter | | encoded markets made |
| `kalshibook_http_fragments_reused` | counter | | encoded markets reused |

In a scrape the names of counters end in ``_total``, as Prometheus wants them.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from kalshibook.http.context import Context
from kalshibook.http.scrape import CONTENT_TYPE, counter, gauge, labelled, scrape
from kalshibook.http.traffic import BUCKETS_S
from kalshibook.store import Pulse, SourceStatistics

__all__ = ["CONTENT_TYPE", "render"]

_FEED_COUNTERS: Final = (
    ("records", "records", "Records read."),
    ("bytes", "bytes", "Bytes of their values."),
    ("rejected", "rejected_records", "Records that could not be read."),
    ("tombstones", "tombstones", "Records without a value."),
    ("quarantined", "quarantined_records", "Rejected records that the quarantine keeps."),
    ("quarantine_lost", "quarantine_lost", "Rejected records that the quarantine did not take."),
)


def render(context: Context) -> bytes:
    """Return all metrics as text; from any thread."""
    return scrape(lambda: _collect(context))


def _collect(context: Context) -> Iterator[Metric]:
    """Read every counter once."""
    yield gauge("up_seconds", "Time since this server was made.", context.uptime_ms() / 1_000)
    yield from _of_store(context)
    yield from _of_feeds(context)
    yield labelled(
        GaugeMetricFamily, "stream", "Counts of the stream server.", "name", context.stream().items()
    )
    yield from _of_http(context)


def _of_store(context: Context) -> Iterator[Metric]:
    cut, statistics = context.store.cut(), context.store.statistics()
    counts = cut.counts
    conditions = [(name, getattr(counts, name)) for name in counts.__struct_fields__]
    yield gauge("ready", "1 when the feed has caught up.", cut.ready)
    yield counter("store_version", "Versions of the store so far.", cut.version)
    yield labelled(GaugeMetricFamily, "markets", "Markets by condition of our copy.", "condition", conditions)
    outcomes, incidents = statistics.outcomes.items(), statistics.incidents.items()
    yield labelled(CounterMetricFamily, "messages", "Messages by how they ended.", "outcome", outcomes)
    yield labelled(CounterMetricFamily, "incidents", "Incidents by kind.", "kind", incidents)
    yield counter("off_grid_changes", "Changes at a price off the market's known grid.", statistics.off_grid)
    yield counter("empty_snapshots", "Snapshots without a level.", statistics.empty_snapshots)
    offsets = [(str(partition), offset) for partition, offset in cut.offsets.items()]
    yield labelled(GaugeMetricFamily, "next_offset", "Next offset to consume.", "partition", offsets)
    yield from _of_sources(statistics.sources)
    yield gauge("change_readers", "Open readers of changes.", statistics.readers)
    yield counter("conflated_changes", "Changes folded for slow readers.", statistics.conflated)
    yield counter("lost_notices", "Notices dropped for slow readers.", statistics.lost_notices)
    yield gauge("c_vector", "1 when pyrsistent runs its C vector.", statistics.has_c_vector)


def _of_sources(sources: Sequence[SourceStatistics]) -> Iterator[Metric]:
    alive = [(one.name, one.last_alive_us / 1e6) for one in sources if one.last_alive_us is not None]
    for name, text, values in (
        ("markets", "Books that follow a gatherer.", [(one.name, one.markets) for one in sources]),
        ("live_markets", "Those of them that are live.", [(one.name, one.live) for one in sources]),
        (
            "silent",
            "1 when it owes a sign of life.",
            [(one.name, one.pulse is Pulse.SILENT) for one in sources],
        ),
        ("last_alive_seconds", "Its last sign of life, Unix.", alive),
    ):
        yield labelled(GaugeMetricFamily, f"source_{name}", text, "source", values)


def _of_feeds(context: Context) -> Iterator[Metric]:
    feeds = context.feeds()
    ok = [(feed.name, feed.ok) for feed in feeds]
    yield labelled(
        GaugeMetricFamily, "feed_ok", "1 when caught up, in time, connected and not silent.", "feed", ok
    )
    state = GaugeMetricFamily(
        "kalshibook_feed_state", "1 for the state that the feed is in.", labels=["feed", "state"]
    )
    for feed in feeds:
        state.add_metric([feed.name, str(feed.state)], 1)
    yield state
    lags = [(feed.name, feed.lag) for feed in feeds if feed.lag is not None]
    yield labelled(GaugeMetricFamily, "feed_lag_records", "Records still to be read.", "feed", lags)
    waiting = [(feed.name, feed.waiting_us / 1e6) for feed in feeds]
    text = "How long, at least, the oldest unread record has been there."
    yield labelled(GaugeMetricFamily, "feed_waiting_seconds", text, "feed", waiting)
    queued = [(feed.name, feed.queued) for feed in feeds]
    yield labelled(GaugeMetricFamily, "feed_queued_records", "Records fetched ahead.", "feed", queued)
    last = [(feed.name, feed.last_record_us / 1e6) for feed in feeds if feed.last_record_us is not None]
    yield labelled(
        GaugeMetricFamily, "feed_last_record_seconds", "When the last record was read, Unix.", "feed", last
    )
    for attribute, name, text in _FEED_COUNTERS:
        values = [(feed.name, getattr(feed, attribute)) for feed in feeds]
        yield labelled(CounterMetricFamily, f"feed_{name}", text, "feed", values)


def _of_http(context: Context) -> Iterator[Metric]:
    traffic, fragments = context.traffic, context.fragments
    answers = CounterMetricFamily(
        "kalshibook_http_answers", "Answers of this server.", labels=["endpoint", "status"]
    )
    for (endpoint, status), count in list(traffic.answers.items()):
        answers.add_metric([endpoint, str(status)], count)
    yield answers
    totals = list(accumulate(traffic.buckets))
    bounds = [*map(str, BUCKETS_S), "+Inf"]
    yield HistogramMetricFamily(
        "kalshibook_http_handling_seconds",
        "Time from request to answer, without the writing.",
        buckets=list(zip(bounds, totals, strict=True)),
        sum_value=traffic.seconds,
    )
    yield counter("http_not_modified", "Bulk requests answered with 304.", traffic.not_modified)
    yield counter("http_compressed", "Bulk answers compressed on request.", traffic.compressed)
    yield gauge("http_fragments_kept", "Encoded markets kept for reuse.", len(fragments))
    yield counter("http_fragments_encoded", "Encoded markets made.", fragments.encoded)
    yield counter("http_fragments_reused", "Encoded markets reused.", fragments.reused)
