"""
Errors on the wire: every answer that is not a success is ``{code, message, details}``.

The shape is Kalshi's own (REST reference, "errors"). `code` is one word for programs, `message`
says what was found and what to do, `details` carries the data. Kalshi's models know `details` as a
string only, so below ``/trade-api`` it is the same data as JSON text.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from quart import Quart, Response, current_app, has_websocket_context, request
from werkzeug.exceptions import HTTPException

from kalshibook.errors import NotReady, ReadError, Stale, UnknownMarket, VersionGone

__all__ = ["ApiError", "ErrorBody", "install_error_handlers", "refusal_of"]

_log = logging.getLogger(__name__)

Details = Mapping[str, object]

KALSHI_ROOT: Final = "/trade-api/"

_CODES: Final = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "too_large",
    414: "too_large",
    415: "bad_request",
}


class ErrorBody(msgspec.Struct, frozen=True):
    """What went wrong, in one word, in a sentence, and as data."""

    code: str
    message: str
    details: dict[str, Any] | str


class ApiError(Exception):
    """
    A request that is refused.

    Attributes:
        status: the HTTP status.
        code: one word for programs.
        message: what was found and what to do.
        details: the data.
    """

    def __init__(self, status: int, code: str, message: str, details: Details | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details or {}


def refusal_of(error: ReadError) -> ApiError:
    """Tell a refused read in HTTP's words."""
    message = str(error.args[0])  # not str(error): a KeyError, which UnknownMarket also is, adds quotes
    match error:
        case UnknownMarket():
            return ApiError(404, "unknown_market", message, {"ticker": error.ticker})
        case NotReady():
            details = {
                "ticker": error.ticker,
                "partition": error.partition,
                "expected": error.expected,
                "reached": error.reached,
            }
            found = {name: value for name, value in details.items() if value is not None}
            return ApiError(503, "not_ready", message, found)
        case Stale():
            facts = {
                "ticker": error.ticker,
                "reason": error.reason,
                "age_ms": error.age_ms,
                "max_age_ms": error.max_age_ms,
            }
            return ApiError(503, "stale", message, facts)
        case VersionGone():
            return ApiError(410, "version_gone", message, {"oldest": error.oldest, "newest": error.newest})
        case _:
            return ApiError(503, "not_available", message)


def install_error_handlers(app: Quart, *, listed_at: str = "/docs") -> None:
    """
    Make every failure of `app` answer as JSON.

    Args:
        app: the application.
        listed_at: where it says what it serves.
    """
    app.config["KALSHIBOOK_LISTED_AT"] = listed_at
    app.register_error_handler(ApiError, _on_api_error)
    app.register_error_handler(ReadError, _on_read_error)
    app.register_error_handler(HTTPException, _on_http_exception)
    app.register_error_handler(Exception, _on_bug)


async def _on_api_error(error: ApiError) -> Response:
    response = _response(error.status, error.code, error.message, error.details)
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = "1"
    return response


async def _on_read_error(error: ReadError) -> Response:
    return await _on_api_error(refusal_of(error))


async def _on_http_exception(error: HTTPException) -> Response:
    if has_websocket_context():
        return _websocket_elsewhere()
    status = error.code or 500
    # The path as the client sent it is not repeated at any length: a URL may be 100 KB long.
    path = request.path[:200]
    details: dict[str, object] = {}
    match status:
        case 404:
            listed_at = current_app.config["KALSHIBOOK_LISTED_AT"]
            message = f"nothing is served at {path!r}; {listed_at} lists what is"
        case 405:
            allowed = sorted(set(getattr(error, "valid_methods", None) or ()) - {"OPTIONS"})
            details = {"allowed": allowed}
            message = f"{request.method} is not allowed at {path!r}; use {' or '.join(allowed)}"
        case 408:
            message = "the body did not arrive in time; send it at once"
        case 413:
            limit = request.max_content_length
            details = {"limit_bytes": limit}
            message = f"the body is over {limit} bytes; ask for less at once"
        case _:
            message = error.description or error.name
    response = _response(status, _CODES.get(status, "refused"), message, details)
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response


def _websocket_elsewhere() -> Response:
    message = "this address speaks REST; WebSockets are at the address of stream.host and stream.port"
    body = msgspec.json.encode(ErrorBody("not_found", message, {}))
    return Response(body, 404, content_type="application/json")


async def _on_bug(error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.path[:200], exc_info=error)
    message = "the server failed on this request; its log has the reason"
    return _response(500, "internal_error", message, {})


def _response(status: int, code: str, message: str, details: Details) -> Response:
    data: dict[str, object] | str = dict(details)
    if request.path.startswith(KALSHI_ROOT):
        data = msgspec.json.encode(data).decode()
    body = msgspec.json.encode(ErrorBody(code, message, data))
    return Response(body, status, content_type="application/json")
