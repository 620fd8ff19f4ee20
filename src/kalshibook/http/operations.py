"""What operators ask: health, readiness, metrics, statistics, incidents."""

import msgspec
import trio
from quart import Blueprint, Response, request
from quart_schema import document_querystring, document_response, hide

from kalshibook.http.answers import (
    HealthAnswer,
    IncidentRow,
    IncidentsAnswer,
    ReadyAnswer,
    SourceRow,
    StatisticsAnswer,
)
from kalshibook.http.context import Context, json_response, page_limit
from kalshibook.http.errors import ErrorBody
from kalshibook.http.health import feed_answer, reasons_against
from kalshibook.http.metrics import render
from kalshibook.http.queries import IncidentsQuery, NoQuery, read_before, read_query
from kalshibook.http.scrape import CONTENT_TYPE

__all__ = ["operations_blueprint"]


def operations_blueprint(context: Context) -> Blueprint:
    """Return the endpoints of operation."""
    blueprint = Blueprint("operations", __name__)
    store = context.store

    @blueprint.get("/healthz")
    @document_response(HealthAnswer)
    async def healthz() -> Response:
        """Whether the process answers; nothing else, so that a restart is tried only when it helps."""
        return json_response(HealthAnswer("ok", context.uptime_ms()))

    @blueprint.get("/readyz")
    @document_response(ReadyAnswer)
    @document_response(ReadyAnswer, 503)
    async def readyz() -> Response:
        """Whether answers can be relied on: 200, or 503 with every reason why not."""
        cut, feeds = store.cut(), context.feeds()
        reasons = reasons_against(behind=cut.behind, counts=cut.counts, feeds=feeds, options=context.options)
        conditions = {name: getattr(cut.counts, name) for name in cut.counts.__struct_fields__}
        sources = [SourceRow(**msgspec.structs.asdict(one)) for one in store.statistics().sources]
        answer = ReadyAnswer(
            not reasons, reasons, cut.version, conditions, [feed_answer(feed) for feed in feeds], sources
        )
        return json_response(answer, 503 if reasons else 200)

    @blueprint.get("/metrics")
    @hide
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        # In a thread: rendering takes a millisecond or more, which would be added to every answer.
        text = await trio.to_thread.run_sync(render, context)
        return Response(text, 200, content_type=CONTENT_TYPE)

    @blueprint.get("/v1/statistics")
    @document_querystring(NoQuery)
    @document_response(StatisticsAnswer)
    @document_response(ErrorBody, 400)
    async def statistics() -> Response:
        """Counts of the store, the feeds, the stream server and this server since the start."""
        read_query(NoQuery, request.args)
        traffic, fragments = context.traffic, context.fragments
        answer = StatisticsAnswer(
            now_ms=context.now_us() // 1_000,
            uptime_ms=context.uptime_ms(),
            store=msgspec.to_builtins(store.statistics()),
            feeds=[feed_answer(feed) for feed in context.feeds()],
            stream=context.stream(),
            http={
                "answers": sum(traffic.answers.values()),
                "not_modified": traffic.not_modified,
                "compressed": traffic.compressed,
                "fragments_kept": len(fragments),
                "fragments_encoded": fragments.encoded,
                "fragments_reused": fragments.reused,
            },
        )
        return json_response(answer)

    @blueprint.get("/v1/incidents")
    @document_querystring(IncidentsQuery)
    @document_response(IncidentsAnswer)
    @document_response(ErrorBody, 400)
    async def incidents() -> Response:
        """Gaps, quarantined records, conflations and the like, newest first."""
        query = read_query(IncidentsQuery, request.args)
        limit = page_limit(context, query.limit)
        found = store.incidents.recent(limit + 1, before=read_before(query.cursor))
        rows = [IncidentRow(**msgspec.structs.asdict(incident)) for incident in found[:limit]]
        cursor = str(rows[-1].id) if len(found) > limit else ""
        return json_response(IncidentsAnswer(store.incidents.counts(), cursor, rows))

    return blueprint
