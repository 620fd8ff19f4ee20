"""
The REST interface of the simulated exchange, and beside it ``/simulator`` for truth and faults.

Shapes, parameters and errors follow Kalshi's REST reference of autumn 2026. What is under
``/simulator`` is ours: it asks for no key and costs no tokens.
"""

import time
from collections.abc import Callable
from typing import Annotated, Any, Final, Protocol

import msgspec
import trio
from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException

from kalshibook.simulator import steering
from kalshibook.simulator.auth import KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, Denied
from kalshibook.simulator.bucket import TokenBuckets
from kalshibook.simulator.faults import NothingToHarm
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
_RECKONED_AT_ONCE: Final = 200
_KEPT_ANSWERS: Final = 20_000
_encode = msgspec.json.Encoder().encode


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


class _Answer(Exception):  # noqa: N818 - an answer, not a failure
    def __init__(self, status: int, body: object) -> None:
        self.status = status
        self.body = body


def _error(status: int, code: str, message: str, details: str = "") -> _Answer:
    body = {"code": code, "message": message}
    return _Answer(status, body | {"details": details} if details else body)


class _Kept(msgspec.Struct):
    at_s: float
    body: bytes


def make_exchange_app(
    venue: Venue, keys: Keys, tick: Callable[[], None], nudge: Callable[[], None]
) -> QuartTrio:
    """
    Return the application.

    Args:
        venue: what is shown.
        keys: checks signatures, and knows the time.
        tick: brings the venue's clock up to date; called before each answer.
        nudge: called when something was done by which more may be due.
    """
    app = QuartTrio("kalshibook-simulator", static_folder=None)
    buckets = TokenBuckets(venue.options.read_tokens_per_second)
    answers: dict[str, _Kept] = {}

    @app.before_request
    async def before() -> Response | None:
        tick()
        if not request.path.startswith(REST_ROOT):
            return None
        return await _gate(venue, keys, buckets, answers)

    @app.after_request
    async def after(response: Response) -> Response:
        response.headers["Date"] = time.strftime(
            "%a, %d %b %Y %H:%M:%S GMT", time.gmtime(keys.wall_ms / 1_000)
        )
        if getattr(g, "keep", False) and response.status_code == 200:
            if len(answers) >= _KEPT_ANSWERS:
                answers.clear()
            answers[request.full_path] = _Kept(trio.current_time(), await response.get_data(as_text=False))
        return response

    @app.errorhandler(_Answer)
    async def answered(answer: _Answer) -> Response:
        return _json(answer.body, answer.status)

    @app.errorhandler(BadQuery)
    async def bad_query(error: BadQuery) -> Response:
        return _json({"code": "invalid_parameters", "message": str(error)}, 400)

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        return _json({"code": "not_found" if status == 404 else "bad_request", "message": error.name}, status)

    _add_markets(app, venue)
    _add_events(app, venue)
    _add_exchange(app, venue, keys)
    _add_simulator(app, venue, tick, nudge)
    return app


async def _gate(
    venue: Venue, keys: Keys, buckets: TokenBuckets, answers: dict[str, _Kept]
) -> Response | None:
    """Judge a request before it is answered: faults, signature, tokens, cache."""
    faults = venue.faults
    if faults.delay_s:
        await trio.sleep(faults.delay_s)
    if faults.is_on(FaultKind.REST_ERROR):
        return _json({"code": "internal_server_error", "message": "internal server error"}, 500)
    g.user = _user(keys)
    if faults.is_on(FaultKind.REST_BUSY) or not buckets.take(g.user, trio.current_time()):
        return _json({"error": "too many requests"}, 429)
    is_old = faults.is_on(FaultKind.REST_OLD)
    if not is_old and (g.user != _ANONYMOUS or not venue.options.cache_seconds):
        return None
    kept = answers.get(request.full_path)
    if kept is not None and (is_old or trio.current_time() - kept.at_s < venue.options.cache_seconds):
        return Response(kept.body, 200, {"Age": f"{trio.current_time() - kept.at_s:.0f}"}, content_type=_JSON)
    g.keep = True
    return None


_JSON: Final = "application/json"


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
        raise _Answer(401, msgspec.Raw(denied.body())) from None


def _json(body: object, status: int = 200) -> Response:
    return Response(_encode(body), status, content_type=_JSON)


# Parameters.


def _number(args: MultiDict[str, str], name: str, default: int | None, most: int = 2**62) -> int | None:
    text = args.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) > most:
        raise BadQuery(f"{name} is {text!r}; it is a number" + (f" from 0 to {most}" if most < 2**62 else ""))
    return int(text)


def _limit(args: MultiDict[str, str], default: int, most: int) -> int:
    # 0 is allowed, and means the default.
    return _number(args, "limit", default, most) or default


def _flag(args: MultiDict[str, str], name: str) -> bool:
    return args.get(name, "").lower() in {"true", "1"}


def _choice(args: MultiDict[str, str], name: str, choices: Any) -> str:
    value = args.get(name, "")
    if value and value not in choices:
        raise BadQuery(f"{name} is {value!r}; it is one of {', '.join(choices)}")
    return value


def _tickers(args: MultiDict[str, str], name: str = "tickers") -> tuple[str, ...]:
    return tuple(dict.fromkeys(ticker for ticker in args.get(name, "").split(",") if ticker))


# Which timestamp filters go with which status (Kalshi REST reference, "Get Markets").
_TIMED: Final = {"created": {"", "unopened", "open"}, "close": {"", "closed"}, "settled": {"", "settled"}}


def _market_filter(args: MultiDict[str, str]) -> MarketFilter:
    status = _choice(args, "status", STATUS_FILTERS)
    mve = _choice(args, "mve_filter", ("only", "exclude"))
    times = {
        f"{edge}_{name}_s": _number(args, f"{edge}_{name}_ts", None)
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
        tickers=_tickers(args),
        combos=None if not mve else mve == "only",
        **times,
    )


def _add_markets(app: QuartTrio, venue: Venue) -> None:
    def market_of(ticker: str) -> Any:
        market = venue.model.get(ticker)
        if market is None or market.visible_us > venue.now_us:
            raise _error(404, "not_found", "market not found")
        return market

    rows = RowWriter(venue.model)

    @app.get(f"{REST_ROOT}/markets")
    async def markets() -> Response:
        wanted = _market_filter(request.args)
        limit = _limit(request.args, 100, 1_000)
        page = select(venue, wanted, decode_cursor(request.args.get("cursor", "")), limit)
        return Response(rows.page(page), 200, content_type=_JSON)

    @app.get(f"{REST_ROOT}/markets/trades")
    async def trades() -> Response:
        args = request.args
        ticker, limit = args.get("ticker", ""), _limit(args, 100, 1_000)
        low, high = _number(args, "min_ts", None), _number(args, "max_ts", None)
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
        return _json({"trades": [trade_shape(trade) for trade in found], "cursor": cursor})

    @app.get(f"{REST_ROOT}/markets/orderbooks")
    async def orderbooks() -> Response:
        tickers = [*dict.fromkeys(request.args.getlist("tickers"))]
        if not 1 <= len(tickers) <= _MOST_BOOKS:
            raise BadQuery(f"tickers is given {len(tickers)} times; it is 1 to {_MOST_BOOKS} tickers")
        if any(not 0 < len(ticker) <= _LONGEST_TICKER for ticker in tickers):
            raise BadQuery(f"a ticker has 1 to {_LONGEST_TICKER} characters")
        known = [market for ticker in tickers if (market := venue.model.get(ticker)) is not None]
        shown = [market for market in known if market.visible_us <= venue.now_us]
        return _json(
            {"orderbooks": [{"ticker": one.ticker, "orderbook_fp": book_shape(one)} for one in shown]}
        )

    @app.get(f"{REST_ROOT}/markets/<ticker>")
    async def market(ticker: str) -> Response:
        return _json({"market": market_shape(market_of(ticker))})

    @app.get(f"{REST_ROOT}/markets/<ticker>/orderbook")
    async def orderbook(ticker: str) -> Response:
        depth = _number(request.args, "depth", 0, 100) or 0
        return _json({"orderbook_fp": book_shape(market_of(ticker), depth)})


def _add_events(app: QuartTrio, venue: Venue) -> None:
    def visible(markets: Any) -> list[Any]:
        return [market for market in markets if market.visible_us <= venue.now_us]

    async def listed(*, combos: bool) -> Response:
        args = request.args
        limit = _limit(args, 200, 200)
        status = _choice(args, "status", ("unopened", "open", "closed", "settled"))
        start = decode_cursor(args.get("cursor", ""))
        series, wanted = args.get("series_ticker", ""), _tickers(args)
        close, nested = _number(args, "min_close_ts", None), _flag(args, "with_nested_markets")
        updated = _number(args, "min_updated_ts", None)
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
        if _flag(args, "with_milestones"):
            answer["milestones"] = []
        return _json(answer)

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
            raise _error(404, "not_found", "event not found")
        nested = _flag(request.args, "with_nested_markets")
        answer: dict[str, Any] = {"event": event_shape(markets, nested=nested)}
        if not nested:
            answer["markets"] = [market_shape(market) for market in markets]
        return _json(answer)

    @app.get(f"{REST_ROOT}/series")
    async def series() -> Response:
        args = request.args
        tickers = venue.model.series()
        wanted = args.get("category", "") in {"", "Nature"} and args.get("tags", "") in {"", "Pond"}
        return _json({"series": [series_shape(ticker) for ticker in tickers] if wanted else []})

    @app.get(f"{REST_ROOT}/series/<ticker>")
    async def one_series(ticker: str) -> Response:
        markets = visible(venue.model.of_series(ticker))
        if not markets:
            raise _error(404, "not_found", "series not found")
        return _json({"series": series_shape(ticker, markets)})


def _add_exchange(app: QuartTrio, venue: Venue, keys: Keys) -> None:
    @app.get(f"{REST_ROOT}/exchange/status")
    async def status() -> Response:
        trading = not venue.faults.is_on(FaultKind.MAINTENANCE)
        shards = ("default", "combos")
        return _json(
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
        return _json({"schedule": {"standard_hours": [hours], "maintenance_windows": []}})

    @app.get(f"{REST_ROOT}/historical/cutoff")
    async def cutoff() -> Response:
        cut = time_text(venue.start_us - 90 * 86_400_000_000)
        return _json({"market_settled_ts": cut, "trades_created_ts": cut, "orders_updated_ts": cut})

    @app.get(f"{REST_ROOT}/account/limits")
    async def limits() -> Response:
        if g.user == _ANONYMOUS:
            raise _Answer(401, msgspec.Raw(Denied("authentication_error", "MISSING_HEADERS").body()))
        rate = int(venue.options.read_tokens_per_second)
        bucket = {"refill_rate": rate, "bucket_capacity": 2 * rate}
        return _json(
            {"usage_tier": "basic", "read": bucket, "write": {"refill_rate": 100, "bucket_capacity": 100}}
        )


class _FaultOrder(msgspec.Struct, forbid_unknown_fields=True):
    kind: FaultKind
    connection: int | None = None
    sid: int | None = None
    channel: str | None = None
    count: int = 1
    duration_ms: int | None = None


class _Campaign(msgspec.Struct, forbid_unknown_fields=True):
    count: Annotated[int, msgspec.Meta(ge=0)]
    span: Annotated[int, msgspec.Meta(ge=1)]


_orders = msgspec.json.Decoder(_FaultOrder)
_campaigns = msgspec.json.Decoder(_Campaign)
_steerings = msgspec.json.Decoder(steering.Steering)


def _add_simulator(app: QuartTrio, venue: Venue, tick: Callable[[], None], nudge: Callable[[], None]) -> None:
    @app.get("/simulator/truth")
    async def truth() -> Response:
        if tickers := _tickers(request.args):
            known = [ticker for ticker in tickers if ticker in venue.model]
            return _json({"at_us": venue.now_us, "books": [venue.truth(ticker) for ticker in known]})
        while not venue.reckon(_RECKONED_AT_ONCE):
            await trio.lowlevel.checkpoint()
        tick()
        return _json(venue.checksum())

    @app.get("/simulator/truth/<ticker>")
    async def true_book(ticker: str) -> Response:
        if ticker not in venue.model:
            raise _error(404, "not_found", "market not found")
        return _json(venue.truth(ticker))

    @app.get("/simulator/faults")
    async def faults() -> Response:
        return _json({"done": venue.ledger.done, "faults": list(venue.ledger)})

    @app.post("/simulator/faults")
    async def inject() -> Response:
        try:
            order = _orders.decode(await request.get_data())
        except msgspec.DecodeError as error:
            raise BadQuery(str(error)) from None
        try:
            injected = venue.faults.inject(
                order.kind,
                connection=order.connection,
                sid=order.sid,
                channel=order.channel,
                count=order.count,
                duration_ms=order.duration_ms,
            )
        except NothingToHarm as error:
            raise _error(409, "nothing_to_harm", str(error)) from None
        return _json({"faults": injected}, 201)

    @app.post("/simulator/calm")
    async def calm() -> Response:
        venue.calm_down()
        return _json(venue.checksum())

    @app.post("/simulator/campaign")
    async def campaign() -> Response:
        try:
            wanted = _campaigns.decode(await request.get_data())
        except msgspec.DecodeError as error:
            raise BadQuery(str(error)) from None
        venue.faults.campaign(wanted.count, wanted.span)
        return _json(wanted, 201)

    @app.post("/simulator/freeze")
    async def freeze() -> Response:
        venue.freeze()
        return _json({"frozen": True})

    @app.post("/simulator/thaw")
    async def thaw() -> Response:
        venue.thaw()
        nudge()
        return _json({"frozen": False})

    @app.post("/simulator/markets/<ticker>/<action>")
    async def steer(ticker: str, action: str) -> Response:
        try:
            order = _steerings.decode(await request.get_data() or b"{}")
            steering.steer(venue, ticker, action, order)
        except (msgspec.DecodeError, ValueError) as error:
            raise BadQuery(str(error)) from None
        except KeyError:
            raise _error(404, "not_found", "no such market, action or grid") from None
        nudge()
        return _json(venue.truth(ticker) if ticker in venue.model else {"ticker": ticker}, 201)

    @app.get("/simulator/status")
    async def simulator_status() -> Response:
        sessions = venue.sessions.values()
        return _json(
            {
                "at_us": venue.now_us,
                "markets": len(venue.model),
                "kept_markets": venue.model.kept_count,
                "changes": venue.lives.steps,
                "faults": len(venue.ledger),
                "connections": [
                    {
                        "connection": session.number,
                        "user": session.user,
                        "peer": session.peer,
                        "frames": session.frames,
                        "backlog": session.backlog,
                        "subscriptions": [
                            {
                                "sid": held.sid,
                                "channel": held.channel.name,
                                "seq": held.seq,
                                "markets": None if held.every else len(held.tickers),
                            }
                            for held in session.subscriptions
                        ],
                    }
                    for session in sessions
                ],
            }
        )
