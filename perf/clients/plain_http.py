"""What one would write without this library's fragments: a Quart handler that builds dicts and dumps JSON."""

import json
import time
from typing import Any

from quart import Response, request
from quart_trio import QuartTrio

from kalshibook.numbers import ONE_DOLLAR, format_price, format_size
from kalshibook.store import Book, BookStore

__all__ = ["make_plain_app"]


def make_plain_app(store: BookStore) -> QuartTrio:
    """Return an application with `/tops`, which answers like the real one, and `/empty`."""
    app = QuartTrio("plain", static_folder=None)

    @app.get("/empty")
    async def empty() -> Response:
        return Response(b"")

    @app.post("/tops")
    async def tops() -> Response:
        body = await request.get_json()
        cut = store.cut()
        rows = [_row(cut[ticker]) for ticker in body["tickers"] if ticker in cut]
        answer = {
            "version": cut.version,
            "now_ms": time.time_ns() // 1_000_000,
            "missing": [],
            "markets": rows,
        }
        return Response(json.dumps(answer), content_type="application/json")

    return app


def _row(book: Book) -> dict[str, Any]:
    yes, no = book.yes.best, book.no.best
    exchange_us = book.stamps.exchange_us if book.stamps else None
    return {
        "ticker": book.ticker,
        "condition": book.condition.value,
        "status": book.market.status,
        "yes_bid_dollars": None if yes is None else format_price(yes.price),
        "yes_bid_size_fp": None if yes is None else format_size(yes.size),
        "yes_ask_dollars": None if no is None else format_price(ONE_DOLLAR - no.price),
        "yes_ask_size_fp": None if no is None else format_size(no.size),
        "no_bid_dollars": None if no is None else format_price(no.price),
        "no_ask_dollars": None if yes is None else format_price(ONE_DOLLAR - yes.price),
        "updated_ms": None if exchange_us is None else exchange_us // 1_000,
        "latency_ms": 0,
        "version": book.version,
    }
