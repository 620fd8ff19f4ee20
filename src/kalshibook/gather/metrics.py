"""
A gatherer's metrics in Prometheus' text format, read from plain counters at the moment of a scrape.

Labels are bounded by the code (states, kinds, endpoints, reasons) or by the exchange's own few words
(frame types, market statuses); none names a market. What is not there (a gatherer without an audit, for
example) has no metric.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
| `kalshibook_gather_up_seconds` | gauge | | time since the start |
| `kalshibook_gather_ready` | gauge | | 1 when what is gathered can be relied on |
| `kalshibook_gather_markets` | gauge | state | markets to be followed, by how far they are |
| `kalshibook_gather_homeless_markets` | gauge | | markets that no connection has room for |
| `kalshibook_gather_imbalance` | gauge | | how unevenly markets are spread, a share |
| `kalshibook_gather_connections` | gauge | role, state | connections by what they are doing |
| `kalshibook_gather_connects` | counter | role | handshakes that succeeded |
| `kalshibook_gather_frames` | counter | role | frames received |
| `kalshibook_gather_last_frame_seconds` | gauge | role | when the last frame came, Unix seconds |
| `kalshibook_gather_routed_frames` | counter | type | frames handed to sinks, by type |
| `kalshibook_gather_unwanted_frames` | counter | | frames that no sink wanted |
| `kalshibook_gather_sink_frames` | counter | sink, outcome | frames that sinks took, did and lost |
| `kalshibook_gather_sink_waiting_frames` | gauge | sink | frames that wait in sinks |
| `kalshibook_gather_socket_waits` | counter | | how often sockets were not read, a sink being full |
| `kalshibook_gather_socket_waited_seconds` | counter | | for how long |
| `kalshibook_gather_records` | counter | outcome | Kafka records: delivered, failed, ignored |
| `kalshibook_gather_unacknowledged_records` | gauge | | records that Kafka has not answered for |
| `kalshibook_gather_gaps` | counter | cause | gaps found |
| `kalshibook_gather_gaps_healed` | counter | | gaps whose markets are all whole again |
| `kalshibook_gather_gaps_open` | gauge | | gaps that are not, those that never will be among them |
| `kalshibook_gather_incidents` | counter | kind | incidents by kind |
| `kalshibook_gather_peers` | gauge | state | other gatherers: at_work, silent |
| `kalshibook_gather_registry_markets` | gauge | status | markets by the exchange's status |
| `kalshibook_gather_registry_combos` | gauge | | combinations among them |
| `kalshibook_gather_registry_bytes_per_market` | gauge | | the registry's memory over its markets |
| `kalshibook_gather_registry_added` | counter | | markets taken in |
| `kalshibook_gather_registry_removed` | counter | reason | markets that are over |
| `kalshibook_gather_registry_refused` | counter | | markets not taken in, the registry being full |
| `kalshibook_gather_registry_checks` | gauge | | markets that wait to be asked for by name |
| `kalshibook_gather_sync_sweeps` | counter | | complete passes over the exchange's lists |
| `kalshibook_gather_sync_pages` | counter | | pages of them |
| `kalshibook_gather_sync_listed_markets` | counter | | markets on those pages |
| `kalshibook_gather_sync_rejected_markets` | counter | | markets on them that could not be read |
| `kalshibook_gather_sync_failures` | counter | | questions without an answer, all attempts over |
| `kalshibook_gather_sync_checked_markets` | counter | | markets asked for by name |
| `kalshibook_gather_sync_lifecycle_messages` | counter | | lifecycle messages |
| `kalshibook_gather_sync_waiting_markets` | gauge | | markets not yet handed to the connections |
| `kalshibook_gather_sync_last_sweep_seconds` | gauge | | when the last pass ended, Unix seconds |
| `kalshibook_gather_sync_sweep_seconds` | gauge | | how long it took |
| `kalshibook_gather_rest_attempts` | counter | endpoint, outcome | REST requests by how they ended |
| `kalshibook_gather_rest_waited_seconds` | counter | | time spent waiting for the budget |
| `kalshibook_gather_rest_in_flight` | gauge | | requests under way |
| `kalshibook_gather_clock_skew_seconds` | gauge | | how far our clock is ahead of the exchange's |
| `kalshibook_gather_poll_rounds` | counter | | rounds of order books over REST |
| `kalshibook_gather_poll_calls` | counter | | calls that were answered |
| `kalshibook_gather_poll_books` | counter | outcome | books: read, missing, rejected, published, unstored |
| `kalshibook_gather_poll_failures` | counter | | calls without an answer |
| `kalshibook_gather_poll_wanted_seconds` | gauge | | how often each book should be asked for |
| `kalshibook_gather_poll_cadence_seconds` | gauge | | how often it is, by the budget |
| `kalshibook_gather_audit_markets` | gauge | | books kept for comparison |
| `kalshibook_gather_audit_books` | counter | verdict | books over REST: same, unjudged, different |
| `kalshibook_gather_audit_suspects` | gauge | | markets that wait for a second look |
| `kalshibook_gather_audit_cleared` | counter | | suspects whose second book was right |
| `kalshibook_gather_audit_diverged` | counter | | books of ours that were wrong twice |
| `kalshibook_gather_audit_impossible` | counter | | changes that took away more than was there |
| `kalshibook_gather_audit_refreshed_differently` | counter | | needless snapshots that differed |
| `kalshibook_gather_http_answers` | counter | endpoint, status | answers of the gatherer's HTTP server |

In a scrape the names of counters end in ``_total``, as Prometheus wants them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from kalshibook.gather.audit import AuditStatistics
from kalshibook.gather.gatherer import Gatherer, GathererHealth
from kalshibook.gather.poller import PollStatistics
from kalshibook.gather.pool import PoolHealth
from kalshibook.gather.registry import RegistryStatistics
from kalshibook.gather.rest import RestStatistics
from kalshibook.gather.router import RouterStatistics
from kalshibook.gather.sync import SyncStatistics
from kalshibook.http.scrape import counter, gauge, labelled, scrape
from kalshibook.http.traffic import Traffic

__all__ = ["Shown", "render"]

_COUNTER: Final = CounterMetricFamily
_GAUGE: Final = GaugeMetricFamily


class Shown(NamedTuple):
    """
    All counts of a gatherer at one moment; a part that it does not have is None.

    Taken on Trio's thread, where they change, and rendered on another.
    """

    uptime_s: float
    health: GathererHealth
    incidents: dict[str, int]
    registry: RegistryStatistics | None
    sync: SyncStatistics | None
    rest: RestStatistics | None
    polls: PollStatistics | None
    audit: AuditStatistics | None
    answers: dict[tuple[str, str], int]

    @classmethod
    def of(cls, gatherer: Gatherer, traffic: Traffic, now_us: int) -> "Shown":
        """Return a gatherer's counts as they are."""
        sync, client, poller, auditor = gatherer.sync, gatherer.client, gatherer.poller, gatherer.auditor
        return cls(
            (now_us - gatherer.started_us) / 1e6,
            gatherer.health(),
            gatherer.incidents.counts(),
            None if sync is None else sync.registry.statistics(),
            None if sync is None else sync.statistics(),
            None if client is None else client.statistics(),
            None if poller is None else poller.statistics(),
            None if auditor is None else auditor.statistics(),
            {(endpoint, str(status)): count for (endpoint, status), count in traffic.answers.items()},
        )


def render(shown: Shown) -> bytes:
    """Return all metrics as text; from any thread."""
    return scrape(lambda: _collect(shown))


def _collect(shown: Shown) -> Iterator[Metric]:
    health = shown.health
    yield _one(_GAUGE, "up_seconds", "Time since the start.", shown.uptime_s)
    yield _one(_GAUGE, "ready", "1 when what is gathered can be relied on.", health.is_ready)
    yield from _of_pool(health.pool)
    yield from _of_router(health.router)
    yield from _of_kafka(health)
    yield _by(_COUNTER, "incidents", "Incidents by kind.", "kind", shown.incidents.items())
    if shown.registry is not None:
        yield from _of_registry(shown.registry)
    if shown.sync is not None:
        yield from _of_sync(shown.sync)
    if shown.rest is not None:
        yield from _of_client(shown.rest)
    if shown.polls is not None:
        yield from _of_poller(shown.polls)
    if shown.audit is not None:
        yield from _of_auditor(shown.audit)
    labels = ("endpoint", "status")
    yield _by_two(_COUNTER, "http_answers", "Answers of this server.", labels, shown.answers)


def _of_pool(pool: PoolHealth) -> Iterator[Metric]:
    yield _by(_GAUGE, "markets", "Markets to be followed.", "state", pool.by_state.items())
    yield _one(_GAUGE, "homeless_markets", "Markets that no connection has room for.", pool.homeless)
    yield _one(_GAUGE, "imbalance", "How unevenly markets are spread.", pool.imbalance)
    states = Counter((one.role, one.state) for one in pool.connections)
    yield _by_two(_GAUGE, "connections", "Connections by state.", ("role", "state"), states)
    connects: Counter[str] = Counter()
    frames: Counter[str] = Counter()
    last: dict[str, float] = {}
    for one in pool.connections:
        connects[one.role] += one.connects
        frames[one.role] += one.frames
        if one.last_frame_us is not None:
            last[one.role] = max(last.get(one.role, 0.0), one.last_frame_us / 1e6)
    yield _by(_COUNTER, "connects", "Handshakes that succeeded.", "role", connects.items())
    yield _by(_COUNTER, "frames", "Frames received.", "role", frames.items())
    yield _by(_GAUGE, "last_frame_seconds", "When the last frame came, Unix.", "role", last.items())


def _of_router(router: RouterStatistics) -> Iterator[Metric]:
    yield _by(_COUNTER, "routed_frames", "Frames handed to sinks.", "type", router.types.items())
    yield _one(_COUNTER, "unwanted_frames", "Frames that no sink wanted.", router.unwanted)
    outcomes = {
        (name, outcome): getattr(counts, outcome)
        for name, counts in router.sinks.items()
        for outcome in ("offered", "processed", "dropped")
    }
    yield _by_two(_COUNTER, "sink_frames", "What sinks did with frames.", ("sink", "outcome"), outcomes)
    waiting = [(name, counts.waiting) for name, counts in router.sinks.items()]
    yield _by(_GAUGE, "sink_waiting_frames", "Frames that wait in sinks.", "sink", waiting)
    yield _one(_COUNTER, "socket_waits", "How often sockets were not read.", router.waits)
    yield _one(_COUNTER, "socket_waited_seconds", "For how long.", router.waited_us / 1e6)


def _of_kafka(facts: GathererHealth) -> Iterator[Metric]:
    published, gaps = facts.published, facts.gaps
    outcomes = [(name, getattr(published, name)) for name in ("delivered", "failed", "ignored")]
    yield _by(_COUNTER, "records", "Kafka records.", "outcome", outcomes)
    yield _one(_GAUGE, "unacknowledged_records", "Records without an answer.", published.in_flight)
    yield _by(_COUNTER, "gaps", "Gaps found.", "cause", gaps.by_cause.items())
    yield _one(_COUNTER, "gaps_healed", "Gaps whose markets are whole again.", gaps.healed)
    yield _one(_GAUGE, "gaps_open", "Gaps that are not.", gaps.open)
    at_work = sum(facts.peers.values())
    peers = [("at_work", at_work), ("silent", len(facts.peers) - at_work)]
    yield _by(_GAUGE, "peers", "Other gatherers.", "state", peers)


def _of_registry(found: RegistryStatistics) -> Iterator[Metric]:
    yield _by(_GAUGE, "registry_markets", "Markets by status.", "status", found.statuses.items())
    yield _one(_GAUGE, "registry_combos", "Combinations among them.", found.combos)
    yield _one(_GAUGE, "registry_bytes_per_market", "Memory of a market.", found.bytes_per_market)
    yield _one(_COUNTER, "registry_added", "Markets taken in.", found.total_added)
    removed = found.total_removed.items()
    yield _by(_COUNTER, "registry_removed", "Markets that are over.", "reason", removed)
    yield _one(_COUNTER, "registry_refused", "Markets not taken in.", found.total_refused)
    yield _one(_GAUGE, "registry_checks", "Markets to be asked for by name.", found.checks)


def _of_sync(found: SyncStatistics) -> Iterator[Metric]:
    for name, text, value in (
        ("sync_sweeps", "Complete passes over the lists.", found.sweeps),
        ("sync_pages", "Pages of them.", found.pages),
        ("sync_listed_markets", "Markets on those pages.", found.listed),
        ("sync_rejected_markets", "Markets that could not be read.", found.rejected),
        ("sync_failures", "Questions without an answer.", found.failures),
        ("sync_checked_markets", "Markets asked for by name.", found.checks),
        ("sync_lifecycle_messages", "Lifecycle messages.", found.lifecycle),
    ):
        yield _one(_COUNTER, name, text, value)
    yield _one(_GAUGE, "sync_waiting_markets", "Markets not yet handed over.", found.waiting)
    if found.last_sweep_us is not None and found.last_sweep_took_us is not None:
        yield _one(_GAUGE, "sync_last_sweep_seconds", "When the last pass ended.", found.last_sweep_us / 1e6)
        yield _one(_GAUGE, "sync_sweep_seconds", "How long it took.", found.last_sweep_took_us / 1e6)


def _of_client(found: RestStatistics) -> Iterator[Metric]:
    labels = ("endpoint", "outcome")
    yield _by_two(_COUNTER, "rest_attempts", "REST requests.", labels, found.attempts)
    waited_s = found.waited_us / 1e6
    yield _one(_COUNTER, "rest_waited_seconds", "Time spent waiting for the budget.", waited_s)
    yield _one(_GAUGE, "rest_in_flight", "Requests under way.", found.in_flight)
    if found.clock_skew_s is not None:
        yield _one(_GAUGE, "clock_skew_seconds", "How far our clock is ahead.", found.clock_skew_s)


def _of_poller(found: PollStatistics) -> Iterator[Metric]:
    yield _one(_COUNTER, "poll_rounds", "Rounds of order books.", found.rounds)
    yield _one(_COUNTER, "poll_calls", "Calls that were answered.", found.calls)
    outcomes = (
        ("read", found.books),
        ("missing", found.missing),
        ("rejected", found.rejected),
        ("published", found.published),
        ("unstored", found.unstored),
    )
    yield _by(_COUNTER, "poll_books", "Books.", "outcome", outcomes)
    yield _one(_COUNTER, "poll_failures", "Calls without an answer.", found.failures)
    yield _one(_GAUGE, "poll_wanted_seconds", "How often each should be asked for.", found.wanted_s)
    yield _one(_GAUGE, "poll_cadence_seconds", "How often each is.", found.cadence_s)


def _of_auditor(found: AuditStatistics) -> Iterator[Metric]:
    yield _one(_GAUGE, "audit_markets", "Books kept for comparison.", found.markets)
    different = found.compared - found.same - found.unjudged
    verdicts = (("same", found.same), ("unjudged", found.unjudged), ("different", different))
    yield _by(_COUNTER, "audit_books", "Books that were compared.", "verdict", verdicts)
    yield _one(_GAUGE, "audit_suspects", "Markets that wait for a second look.", found.suspects)
    for name, text in (
        ("cleared", "Suspects that were right."),
        ("diverged", "Books that were wrong twice."),
        ("impossible", "Changes that took away more than was there."),
        ("refreshed_differently", "Needless snapshots that differed."),
    ):
        yield _one(_COUNTER, f"audit_{name}", text, getattr(found, name))


_Family = type[GaugeMetricFamily] | type[CounterMetricFamily]


def _one(family: _Family, name: str, text: str, value: float) -> Metric:
    return (counter if family is CounterMetricFamily else gauge)(f"gather_{name}", text, value)


def _by(family: _Family, name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    return labelled(family, f"gather_{name}", text, label, values)


def _by_two(
    family: _Family, name: str, text: str, labels: tuple[str, str], values: Mapping[tuple[str, str], float]
) -> Metric:
    metric = family(f"kalshibook_gather_{name}", text, labels=labels)
    for pair, value in values.items():
        metric.add_metric(list(pair), value)
    return metric
