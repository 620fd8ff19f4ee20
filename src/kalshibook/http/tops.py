"""
Bulk top of book: many markets, one version, one answer.

Quart's own part of such a request, routing, contexts and signals, costs as much as the answer for 500
markets, and ten more passes of the loop. So a request that can be answered is answered before Quart sees
it, by the same `Bulk`; whatever is out of the ordinary, errors above all, is left to the views below.
"""

import time
from typing import Any, Final, final

import trio
from quart import Blueprint, Response, request
from quart_schema import document_querystring, document_request, document_response

from kalshibook.http.answers import TopsAnswer
from kalshibook.http.bulk import Answer, Bulk, Wants
from kalshibook.http.errors import ErrorBody
from kalshibook.http.queries import TopsBody, TopsQuery
from kalshibook.http.traffic import Traffic

__all__ = ["TopsShortcut", "tops_blueprint"]

_PATH: Final = "/v1/tops"
_ENDPOINTS: Final = {"GET": "tops.tops", "POST": "tops.tops_by_body"}

# A body that takes longer is Quart's to wait for, with its deadline and its error.
_PROMPT_S: Final = 0.1

# What ASGI calls scopes, messages and applications is untyped in its specification.
_Message = dict[str, Any]
_Asgi = Any


def tops_blueprint(bulk: Bulk) -> Blueprint:
    """Return the bulk endpoints."""
    blueprint = Blueprint("tops", __name__)

    @blueprint.get(_PATH)
    @document_querystring(TopsQuery)
    @document_response(TopsAnswer)
    @document_response(ErrorBody, 400)
    @document_response(ErrorBody, 410)
    @document_response(ErrorBody, 413)
    @document_response(ErrorBody, 503)
    async def tops() -> Response:
        """
        Tops of many books from one version of the store.

        Named by `tickers`, or listed, sorted and paged, by `prefix`, `event`, `series` or none of
        them. With `max_age_ms`, a market that is awaiting, stale or older stands in `not_fresh` and
        not among `markets`; while the store itself is `behind`, the answer is 503. Send
        `If-None-Match` to get 304 while none of the books has changed.
        """
        return _response(await bulk.by_query(request.query_string, _wants()))

    @blueprint.post(_PATH)
    @document_request(TopsBody)
    @document_response(TopsAnswer)
    @document_response(ErrorBody, 400)
    @document_response(ErrorBody, 410)
    @document_response(ErrorBody, 413)
    @document_response(ErrorBody, 503)
    async def tops_by_body() -> Response:
        """
        Tops of up to 10,000 named books from one version of the store.

        As the GET, for lists too long for a URL. It changes nothing, so `If-None-Match` with the
        same body is answered with 304 here too.
        """
        body = await request.get_data(as_text=False)
        assert isinstance(body, bytes)
        return _response(await bulk.by_body(body, _wants()))

    return blueprint


def _wants() -> Wants:
    headers = request.headers
    return Wants(headers.get("If-None-Match"), headers.get("Accept-Encoding"))


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers)


@final
class TopsShortcut:
    """
    An ASGI application before another: it answers bulk requests, and passes on what it does not answer.

    Args:
        app: Quart's own.
        bulk: what answers.
        traffic: where answers are counted.
        max_body_bytes: longer bodies are passed on, to be refused.
    """

    def __init__(self, app: _Asgi, bulk: Bulk, traffic: Traffic, max_body_bytes: int) -> None:
        self._app = app
        self._bulk = bulk
        self._traffic = traffic
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: _Message, receive: _Asgi, send: _Asgi) -> None:
        """Answer one request, or pass it on as it came."""
        if scope["type"] != "http" or scope["path"] != _PATH or scope["method"] not in _ENDPOINTS:
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        received = _Received(receive)
        answer = await self._answer(scope, received)
        if answer is None:
            await self._app(scope, received.again, send)
            return
        headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        headers.append((b"content-length", b"%d" % len(answer.body)))
        self._traffic.count(_ENDPOINTS[scope["method"]], answer.status, time.perf_counter() - began)
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: _Message, received: "_Received") -> Answer | None:
        # The first of each name counts, as with Quart.
        headers = dict(reversed(scope["headers"]))
        wants = Wants(_text(headers.get(b"if-none-match")), _text(headers.get(b"accept-encoding")))
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._max_body_bytes or b"transfer-encoding" in headers:
            return None
        try:
            if scope["method"] == "GET":
                return await self._bulk.by_query(scope["query_string"], wants) if int(length) == 0 else None
            body = await received.body()
            return None if body is None else await self._bulk.by_body(body, wants)
        except Exception:  # noqa: BLE001 - Quart runs into it again, and knows how to say it
            return None


@final
class _Received:
    """The messages of one request, to be received once more."""

    def __init__(self, receive: _Asgi) -> None:
        self._receive = receive
        self._messages: list[_Message] = []

    async def body(self) -> bytes | None:
        """Return the body, or None when it does not come at once."""
        with trio.move_on_after(_PROMPT_S):
            while True:
                message = await self._receive()
                self._messages.append(message)
                if message["type"] != "http.request":
                    return None
                if not message.get("more_body", False):
                    return b"".join([part.get("body", b"") for part in self._messages])
        return None

    async def again(self) -> _Message:
        """Return the next message, from the first on."""
        if self._messages:
            return self._messages.pop(0)
        message: _Message = await self._receive()
        return message


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
