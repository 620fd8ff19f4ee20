"""
The REST interface of the simulated exchange, with `control` beside it.

Shapes, parameters and errors follow Kalshi's REST reference of autumn 2026.
"""

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import trio
from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from kalshibook.simulator.answers import (
    JSON,
    Answer,
    Arguments,
    choice_of,
    error,
    flag_of,
    json_answer,
    limit_of,
    number_of,
    tickers_of,
)
from kalshibook.simulator.auth import KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, Denied
from kalshibook.simulator.bucket import TokenBuckets
from kalshibook.simulator.control import add_control
from kalshibook.simulator.ledger import FaultKind
from kalshibook.simulator.listing import (
    STATUS_FILTERS,
    BadQuery,
    MarketFilter,
    decode_cursor,
    encode_cursor,
    select,
)
from kalshibook.simulator.rows import RowWriter
from kalshibook.simulator.shapes import (
    book_shape,
    event_shape,
    market_shape,
    series_shape,
    time_text,
    trade_shape,
)
from kalshibook.simulator.venue import TradeRecord, Venue

__all__ = ["REST_ROOT", "Keys", "make_exchange_app"]

REST_ROOT: Final = "/trade-api/v2"
_ANONYMOUS: Final = ""
_MOST_BOOKS: Final = 100
_LONGEST_TICKER: Final = 200
_KEPT_BYTES: Final = 67_108_864


class Keys(Protocol):
    """Who checks signatures."""

    def admit(self, key_id: str | None, timestamp: str | None, signature: str | None, text: str) -> str:
        """
        Return the user of a signed request.

        Raises:
            Denied: it is not signed as it should be.
        """

    @property
    def wall_ms(self) -> int:
        """The exchange's wall clock."""


class _Kept(NamedTuple):
    at_s: float
    body: bytes

    @property
    def age_s(self) -> float:
        return trio.current_time() - self.at_s


class _KeptAnswers:
    """Answers that may be given again, bounded in bytes."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._bytes = 0

    def get(self, path: str) -> _Kept | None:
        return self._kept.get(path)

    def keep(self, path: str, body: bytes) -> None:
        if self._bytes + len(body) > _KEPT_BYTES:
            self._kept.clear()
            self._bytes = 0
        self._kept[path] = _Kept(trio.current_time(), body)
        self._bytes += len(body)


def make_exchange_app(
    venue: Venue,
    keys: Keys,
    tick: Callable[[], None],
    nudge: Callable[[], None],
    run: Callable[[int], object],
) -> QuartTrio:
    """
    Return the application.

    Args:
        venue: what is shown.
        keys: checks signatures, and knows the time.
        tick: brings the venue's clock up to date; called before each answer.
        nudge: called when something was done by which more may be due.
        run: lets so many changes happen, and freezes.
    """
    app = QuartTrio("kalshibook-simulator", static_folder=None)
    buckets = TokenBuckets(venue.options.read_tokens_per_second)
    kept = _KeptAnswers()

    @app.before_request
    async def before() -> Response | None:
        tick()
        if not request.path.startswith(REST_ROOT):
            return None
        return await _gate(venue, keys, buckets, kept)

    @app.after_request
    async def after(response: Response) -> Response:
        response.headers["Date"] = time.strftime(
            "%a, %d %b %Y %H:%M:%S GMT", time.gmtime(keys.wall_ms / 1_000)
        )
        if getattr(g, "keep", False) and response.status_code == 200:
            kept.keep(request.full_path, await response.get_data(as_text=False))
        return response

    @app.errorhandler(Answer)
    async def answered(answer: Answer) -> Response:
        return json_answer(answer.body, answer.status)

    @app.errorhandler(BadQuery)
    async def bad_query(bad: BadQuery) -> Response:
        return json_answer({"code": "invalid_parameters", "message": str(bad)}, 400)

    @app.errorhandler(HTTPException)
    async def http_error(failed: HTTPException) -> Response:
        status = failed.code or 500
        return json_answer(
            {"code": "not_found" if status == 404 else "bad_request", "message": failed.name}, status
        )

    _add_markets(app, venue)
    _add_events(app, venue)
    _add_exchange(app, venue, keys)
    add_control(app, venue, tick, nudge, run)
    return app


async def _gate(venue: Venue, keys: Keys, buckets: TokenBuckets, answers: _KeptAnswers) -> Response | None:
    """Judge a request before it is answered: faults, signature, tokens, cache."""
    faults = venue.faults
    if faults.delay_s:
        await trio.sleep(faults.delay_s)
    if faults.is_on(FaultKind.REST_ERROR):
        return json_answer({"code": "internal_server_error", "message": "internal server error"}, 500)
    g.user = _user(keys)
    if faults.is_on(FaultKind.REST_BUSY) or not buckets.take(g.user, trio.current_time()):
        return json_answer({"error": "too many requests"}, 429)
    is_old = faults.is_on(FaultKind.REST_OLD)
    if not is_old and (g.user != _ANONYMOUS or not venue.options.cache_seconds):
        return None
    kept = answers.get(request.full_path)
    if kept is not None and (is_old or kept.age_s < venue.options.cache_seconds):
        return Response(kept.body, 200, {"Age": f"{kept.age_s:.0f}"}, content_type=JSON)
    g.keep = True
    return None


def _user(keys: Keys) -> str:
    """Return who asks: market data is for everybody, but a wrong signature is refused."""
    headers = request.headers
    key_id = headers.get(KEY_HEADER)
    if key_id is None:
        return _ANONYMOUS
    text = f"{request.method}{request.path}"
    try:
        return keys.admit(key_id, headers.get(TIMESTAMP_HEADER), headers.get(SIGNATURE_HEADER), text)
    except Denied as denied:
        raise Answer(401, msgspec.Raw(denied.body())) from None


# Which timestamp filters go with which status (Kalshi REST reference, "Get Markets").
_TIMED: Final = {"created": {"", "unopened", "open"}, "close": {"", "closed"}, "settled": {"", "settled"}}


def _market_filter(args: Arguments) -> MarketFilter:
    status = choice_of(args, "status", STATUS_FILTERS)
    mve = choice_of(args, "mve_filter", ("only", "exclude"))
    times = {
        f"{edge}_{name}_s": number_of(args, f"{edge}_{name}_ts", None)
        for name in ("created", "close", "settled", "updated")
        for edge in ("min", "max")
    }
    given = {name.split("_")[1] for name, value in times.items() if value is not None}
    if len(given) > 1:
        raise BadQuery("timestamp filters of different kinds exclude each other")
    for name in given:
        if name != "updated" and status not in _TIMED[name]:
            raise BadQuery(f"{name} timestamps do not go with status {status}")
    if "updated" in given and (status or args.get("event_ticker") or args.get("tickers")):
        raise BadQuery("updated timestamps go with no other filter")
    return MarketFilter(
        status=status,
        event_ticker=args.get("event_ticker", ""),
        series_ticker=args.get("series_ticker", ""),
        tickers=tickers_of(args),
        combos=None if not mve else mve == "only",
        **times,
    )


def _add_markets(app: QuartTrio, venue: Venue) -> None:
    def market_of(ticker: str) -> Any:
        market = venue.model.get(ticker)
        if market is None or market.visible_us > venue.now_us:
            raise error(404, "not_found", "market not found")
        return market

    rows = RowWriter(venue.model)

    @app.get(f"{REST_ROOT}/markets")
    async def markets() -> Response:
        wanted = _market_filter(request.args)
        limit = limit_of(request.args, 100, 1_000)
        page = select(venue, wanted, decode_cursor(request.args.get("cursor", "")), limit)
        return Response(rows.page(page), 200, content_type=JSON)

    @app.get(f"{REST_ROOT}/markets/trades")
    async def trades() -> Response:
        args = request.args
        ticker, limit = args.get("ticker", ""), limit_of(args, 100, 1_000)
        low, high = number_of(args, "min_ts", None), number_of(args, "max_ts", None)
        start = decode_cursor(args.get("cursor", ""))
        found: list[TradeRecord] = []
        cursor = ""
        # Newest first; the cursor is the number of the last one shown, and they go down.
        for trade in reversed(venue.tape):
            if start and trade.number >= start - 1:
                continue
            second = trade.time_us // 1_000_000
            if low is not None and second < low:
                break
            if (ticker and trade.ticker != ticker) or (high is not None and second > high):
                continue
            if args.get("is_block_trade", "").lower() in {"true", "1"}:
                continue
            if len(found) == limit:
                cursor = encode_cursor(found[-1].number)
                break
            found.append(trade)
        return json_answer({"trades": [trade_shape(trade) for trade in found], "cursor": cursor})

    @app.get(f"{REST_ROOT}/markets/orderbooks")
    async def orderbooks() -> Response:
        tickers = [*dict.fromkeys(request.args.getlist("tickers"))]
        if not 1 <= len(tickers) <= _MOST_BOOKS:
            raise BadQuery(f"tickers is given {len(tickers)} times; it is 1 to {_MOST_BOOKS} tickers")
        if any(not 0 < len(ticker) <= _LONGEST_TICKER for ticker in tickers):
            raise BadQuery(f"a ticker has 1 to {_LONGEST_TICKER} characters")
        known = [market for ticker in tickers if (market := venue.model.get(ticker)) is not None]
        shown = [market for market in known if market.visible_us <= venue.now_us]
        return json_answer(
            {"orderbooks": [{"ticker": one.ticker, "orderbook_fp": book_shape(one)} for one in shown]}
        )

    @app.get(f"{REST_ROOT}/markets/<ticker>")
    async def market(ticker: str) -> Response:
        return json_answer({"market": market_shape(market_of(ticker))})

    @app.get(f"{REST_ROOT}/markets/<ticker>/orderbook")
    async def orderbook(ticker: str) -> Response:
        depth = number_of(request.args, "depth", 0, 100) or 0
        return json_answer({"orderbook_fp": book_shape(market_of(ticker), depth)})


def _add_events(app: QuartTrio, venue: Venue) -> None:
    def visible(markets: Any) -> list[Any]:
        return [market for market in markets if market.visible_us <= venue.now_us]

    async def listed(*, combos: bool) -> Response:
        args = request.args
        limit = limit_of(args, 200, 200)
        status = choice_of(args, "status", ("unopened", "open", "closed", "settled"))
        start = decode_cursor(args.get("cursor", ""))
        series, wanted = args.get("series_ticker", ""), tickers_of(args)
        close, nested = number_of(args, "min_close_ts", None), flag_of(args, "with_nested_markets")
        updated = number_of(args, "min_updated_ts", None)
        page: list[Any] = []
        cursor = ""
        for markets in venue.model.events(start, series=series, tickers=wanted, combos=combos):
            shown = visible(markets)
            if not shown:
                continue
            if status and not any(market.status in STATUS_FILTERS[status] for market in shown):
                continue
            if close is not None and not any((market.close_s or 0) >= close for market in shown):
                continue
            if updated is not None and not any(one.updated_us >= updated * 1_000_000 for one in shown):
                continue
            if len(page) == limit:
                cursor = encode_cursor(page[-1][-1].ordinal)
                break
            page.append(shown)
        answer: dict[str, Any] = {
            "events": [event_shape(one, nested=nested) for one in page],
            "cursor": cursor,
        }
        if flag_of(args, "with_milestones"):
            answer["milestones"] = []
        return json_answer(answer)

    @app.get(f"{REST_ROOT}/events")
    async def events() -> Response:
        return await listed(combos=False)

    @app.get(f"{REST_ROOT}/events/multivariate")
    async def multivariate() -> Response:
        return await listed(combos=True)

    @app.get(f"{REST_ROOT}/events/<ticker>")
    async def event(ticker: str) -> Response:
        markets = visible(venue.model.of_event(ticker))
        if not markets:
            raise error(404, "not_found", "event not found")
        nested = flag_of(request.args, "with_nested_markets")
        answer: dict[str, Any] = {"event": event_shape(markets, nested=nested)}
        if not nested:
            answer["markets"] = [market_shape(market) for market in markets]
        return json_answer(answer)

    @app.get(f"{REST_ROOT}/series")
    async def series() -> Response:
        args = request.args
        tickers = venue.model.series()
        wanted = args.get("category", "") in {"", "Nature"} and args.get("tags", "") in {"", "Pond"}
        return json_answer({"series": [series_shape(ticker) for ticker in tickers] if wanted else []})

    @app.get(f"{REST_ROOT}/series/<ticker>")
    async def one_series(ticker: str) -> Response:
        markets = visible(venue.model.of_series(ticker))
        if not markets:
            raise error(404, "not_found", "series not found")
        return json_answer({"series": series_shape(ticker, markets)})


def _add_exchange(app: QuartTrio, venue: Venue, keys: Keys) -> None:
    @app.get(f"{REST_ROOT}/exchange/status")
    async def status() -> Response:
        trading = not venue.faults.is_on(FaultKind.MAINTENANCE)
        shards = ("default", "combos")
        return json_answer(
            {
                "exchange_active": True,
                "trading_active": trading,
                "intra_exchange_transfers_active": True,
                "exchange_index_statuses": [
                    {
                        "exchange_index": index,
                        "description": name,
                        "exchange_active": True,
                        "trading_active": trading,
                        "intra_exchange_transfers_active": True,
                    }
                    for index, name in enumerate(shards)
                ],
            }
        )

    @app.get(f"{REST_ROOT}/exchange/schedule")
    async def schedule() -> Response:
        days = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
        whole = [{"open_time": "00:00", "close_time": "24:00"}]
        broken = [
            {"open_time": "00:00", "close_time": "03:00"},
            {"open_time": "05:00", "close_time": "24:00"},
        ]
        hours: dict[str, Any] = {day: broken if day == "thursday" else whole for day in days}
        start, end = (time_text(keys.wall_ms * 1_000 + days * 86_400_000_000) for days in (-365, 365))
        hours |= {"start_time": start, "end_time": end}
        return json_answer({"schedule": {"standard_hours": [hours], "maintenance_windows": []}})

    @app.get(f"{REST_ROOT}/historical/cutoff")
    async def cutoff() -> Response:
        cut = time_text(venue.start_us - 90 * 86_400_000_000)
        return json_answer({"market_settled_ts": cut, "trades_created_ts": cut, "orders_updated_ts": cut})

    @app.get(f"{REST_ROOT}/account/limits")
    async def limits() -> Response:
        if g.user == _ANONYMOUS:
            raise Answer(401, msgspec.Raw(Denied("authentication_error", "MISSING_HEADERS").body()))
        rate = int(venue.options.read_tokens_per_second)
        bucket = {"refill_rate": rate, "bucket_capacity": 2 * rate}
        return json_answer(
            {"usage_tier": "basic", "read": bucket, "write": {"refill_rate": 100, "bucket_capacity": 100}}
        )
