"""A gatherer over HTTP: whether it lives, whether it is ready and why not, what it lost, what it holds."""

import time
from typing import Annotated, Final

import msgspec
import trio
from quart import Quart, Response, request
from quart_trio import QuartTrio

from kalshibook.gather.clock import SUSPICIOUS_SKEW_S
from kalshibook.gather.gatherer import Gatherer
from kalshibook.gather.metrics import Shown, render
from kalshibook.http.errors import ApiError, install_error_handlers
from kalshibook.http.options import HttpOptions
from kalshibook.http.queries import IncidentsQuery, NoQuery, read_before, read_query
from kalshibook.http.scrape import CONTENT_TYPE
from kalshibook.http.server import serve
from kalshibook.http.traffic import Traffic, count_traffic

__all__ = ["make_gatherer_app", "serve_gatherer"]

_MOST_ROWS: Final = 1_000
_ROWS: Final = 100

_ENDPOINTS: Final = {
    "/livez": "whether the process answers",
    "/readyz": "whether what is gathered can be relied on, and every reason why not",
    "/metrics": "counts for Prometheus",
    "/v1/gaps": "what was not received, newest first; ?limit=",
    "/v1/incidents": "what went wrong, newest first; ?limit=&cursor=",
    "/v1/connections": "the sockets and their markets, the router, Kafka, other gatherers",
    "/v1/registry": "the markets, by counts, and how they are kept true; ?ticker= for one of them",
    "/v1/polls": "order books over REST, and their comparison with our own",
}


class _GapsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which gaps to list."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=_MOST_ROWS)] = _ROWS


class _RegistryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which market to show."""

    ticker: str | None = None


async def serve_gatherer(
    gatherer: Gatherer, *, task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED
) -> None:
    """
    Serve what a gatherer shows of itself, at the address of its settings, until cancelled.

    It fits `Gatherer`'s attachments.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    options = gatherer.options
    where = HttpOptions(host=options.http_host, port=options.http_port)
    names = ("gather.http_host", "gather.http_port")
    await serve(make_gatherer_app(gatherer), where, names=names, task_status=task_status)


def make_gatherer_app(gatherer: Gatherer) -> QuartTrio:
    """Return the application; it only reads."""
    app = QuartTrio("kalshibook-gather", static_folder=None)
    traffic = Traffic()
    install_error_handlers(app, listed_at="/")
    _add_health(app, gatherer, traffic)
    _add_lists(app, gatherer)
    _add_state(app, gatherer)
    count_traffic(app, traffic)
    return app


def _add_health(app: Quart, gatherer: Gatherer, traffic: Traffic) -> None:
    @app.get("/")
    async def index() -> Response:
        return _json(_ENDPOINTS)

    @app.get("/livez")
    async def livez() -> Response:
        return _json({"status": "ok", "uptime_ms": (_now_us() - gatherer.started_us) // 1_000})

    @app.get("/readyz")
    async def readyz() -> Response:
        health = gatherer.health()
        answer = {
            "ready": health.is_ready,
            "source": health.source,
            "reasons": health.reasons,
            "remarks": _remarks(gatherer),
        }
        return _json(answer, 200 if health.is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        # In a thread: rendering takes a millisecond or more, in which no socket would be read.
        text = await trio.to_thread.run_sync(render, Shown.of(gatherer, traffic, _now_us()))
        return Response(text, 200, content_type=CONTENT_TYPE)


def _add_lists(app: Quart, gatherer: Gatherer) -> None:
    @app.get("/v1/gaps")
    async def gaps() -> Response:
        query = read_query(_GapsQuery, request.args)
        counts = gatherer.ledger.counts()
        facts = {"found": counts.found, "healed": counts.healed, "open": counts.open}
        return _json(
            {"counts": facts | {"causes": counts.by_cause}, "gaps": gatherer.ledger.recent(query.limit)}
        )

    @app.get("/v1/incidents")
    async def incidents() -> Response:
        query = read_query(IncidentsQuery, request.args)
        limit = _ROWS if query.limit is None else query.limit
        if limit > _MOST_ROWS:
            message = f"parameter 'limit' is {limit}; a page has at most {_MOST_ROWS} rows, follow its cursor"
            raise ApiError(400, "bad_request", message, {"parameter": "limit", "limit": _MOST_ROWS})
        found = gatherer.incidents.recent(limit + 1, before=read_before(query.cursor))
        rows = found[:limit]
        cursor = str(rows[-1].id) if len(found) > limit else ""
        return _json({"counts": gatherer.incidents.counts(), "cursor": cursor, "incidents": rows})


def _add_state(app: Quart, gatherer: Gatherer) -> None:
    @app.get("/v1/connections")
    async def connections() -> Response:
        read_query(NoQuery, request.args)
        facts = gatherer.health()
        pool, router = facts.pool, facts.router
        published = msgspec.structs.asdict(facts.published)
        return _json(
            {
                "source": facts.source,
                "markets": pool.markets,
                "by_state": pool.by_state,
                "homeless": pool.homeless,
                "imbalance": pool.imbalance,
                "connections": pool.connections,
                "sinks": router.sinks,
                "frames": router.types,
                "published": published | {"in_flight": facts.published.in_flight},
                "peers": facts.peers,
            }
        )

    @app.get("/v1/registry")
    async def registry() -> Response:
        query = read_query(_RegistryQuery, request.args)
        if gatherer.sync is None:
            raise ApiError(404, "not_found", "this gatherer keeps no registry: its markets are given")
        held = gatherer.sync.registry
        if query.ticker is None:
            return _json({"registry": held.statistics(), "sync": gatherer.sync.statistics()})
        status = held.status(query.ticker)
        if status is None:
            message = f"market {query.ticker[:200]!r} is not gathered: unknown, over, or not selected"
            raise ApiError(404, "unknown_market", message, {"ticker": query.ticker[:200]})
        return _json(
            {
                "ticker": query.ticker,
                "status": status,
                "open_us": held.open_us(query.ticker),
                "close_us": held.close_us(query.ticker),
                "is_combo": held.is_combo(query.ticker),
            }
        )

    @app.get("/v1/polls")
    async def polls() -> Response:
        read_query(NoQuery, request.args)
        attempts: dict[str, dict[str, int]] = {}
        client = None if gatherer.client is None else gatherer.client.statistics()
        for (endpoint, outcome), count in () if client is None else client.attempts.items():
            attempts.setdefault(endpoint, {})[outcome] = count
        return _json(
            {
                "polls": None if gatherer.poller is None else gatherer.poller.statistics(),
                "audit": None if gatherer.auditor is None else gatherer.auditor.statistics(),
                "rest_attempts": attempts,
                "clock_skew_s": None if client is None else client.clock_skew_s,
            }
        )


def _remarks(gatherer: Gatherer) -> list[str]:
    """Return what an operator should know, though what is gathered can be relied on."""
    remarks = [] if gatherer.poller is None else gatherer.poller.remarks()
    skew_s = None if gatherer.client is None else gatherer.client.statistics().clock_skew_s
    if skew_s is not None and abs(skew_s) > SUSPICIOUS_SKEW_S:
        direction = "ahead of" if skew_s > 0 else "behind"
        clock = f"this machine's clock is {abs(skew_s)} s {direction} the exchange's"
        remarks.append(f"{clock}; its signatures may be refused")
    return remarks


def _json(answer: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(answer), status, content_type="application/json")


def _now_us() -> int:
    return time.time_ns() // 1_000
