"""The REST application: a Quart-Trio app that reads any store."""

import time
from collections.abc import Callable, Mapping, Sequence

from quart_schema import tag_blueprint
from quart_trio import QuartTrio

from kalshibook.http.books import books_blueprint
from kalshibook.http.bulk import Bulk
from kalshibook.http.context import Context
from kalshibook.http.errors import install_error_handlers
from kalshibook.http.health import FeedReport
from kalshibook.http.kalshi import kalshi_blueprint
from kalshibook.http.openapi import install_openapi
from kalshibook.http.operations import operations_blueprint
from kalshibook.http.options import HttpOptions
from kalshibook.http.pages import pages_blueprint
from kalshibook.http.tops import TopsShortcut, tops_blueprint
from kalshibook.http.traffic import count_traffic
from kalshibook.store import BookStore

__all__ = ["make_app"]


def make_app(
    store: BookStore,
    options: HttpOptions | None = None,
    *,
    feeds: Sequence[Callable[[], FeedReport]] = (),
    stream_statistics: Callable[[], Mapping[str, int]] | None = None,
    now_us: Callable[[], int] | None = None,
) -> QuartTrio:
    """
    Return an application that serves a store; run it with `kalshibook.http.server.serve`.

    Args:
        store: what is read; the application never writes to it.
        options: limits.
        feeds: each called for a feed's health (`Feed.health`), by ``/readyz`` and ``/metrics``.
        stream_statistics: called for the counts of a stream server beside this one.
        now_us: the clock, microseconds since the epoch; the system's where None.
    """
    options = options or HttpOptions()
    app = QuartTrio("kalshibook", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = options.max_body_bytes
    app.config["BODY_TIMEOUT"] = options.stuck_client_ms / 1_000
    context = Context(
        store, options, feeds=feeds, stream_statistics=stream_statistics, now_us=now_us or _system_clock
    )
    bulk = Bulk(context)
    install_error_handlers(app)
    install_openapi(app)
    for tag, blueprint in (
        ("books", tops_blueprint(bulk)),
        ("books", books_blueprint(context)),
        ("Kalshi's shape", kalshi_blueprint(context)),
        ("operation", operations_blueprint(context)),
        ("pages", pages_blueprint()),
    ):
        tag_blueprint(blueprint, [tag])
        app.register_blueprint(blueprint)
    count_traffic(app, context.traffic)
    shortcut = TopsShortcut(app.asgi_app, bulk, context.traffic, options.max_body_bytes)
    app.asgi_app = shortcut  # type: ignore[assignment, method-assign]  # as Quart wants middleware installed
    return app


def _system_clock() -> int:
    return time.time_ns() // 1_000
