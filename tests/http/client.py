"""A store with a few markets in every condition, and a small client of the application that reads it."""

from typing import Any

import msgspec
from quart_trio import QuartTrio

from kalshibook.http.app import make_app
from kalshibook.http.options import HttpOptions
from kalshibook.store import BookStore
from kalshibook.wire import BookDelta
from tests.store.builders import Script, lifecycle

LIVE = "KXFROG-26DEC01-T40"
ONE_SIDED = "KXFROG-26DEC01-T50"
AWAITING = "KXFROG-26DEC02-T40"
STALE = "KXTOAD-26DEC01-T1"
CLOSED = "KXTOAD-26DEC01-T2"

ALL = [LIVE, ONE_SIDED, AWAITING, STALE, CLOSED]

NOW_US = 1_000_000_000


class Answer:
    """A response, read."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """An error's one word."""
        code: str = self.json["code"]
        return code


class Api:
    """Asks an application without a socket."""

    def __init__(self, app: QuartTrio) -> None:
        self._client = app.test_client()

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """GET a path."""
        return await self.ask("GET", path, headers=headers)

    async def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> Answer:
        """POST bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self.ask("POST", path, data=data, headers=headers)

    async def ask(self, method: str, path: str, **arguments: Any) -> Answer:
        """Send any request."""
        response = await self._client.open(path, method=method, **arguments)
        body = await response.get_data(as_text=False)
        return Answer(response.status_code, response.headers, bytes(body))


def filled_store() -> tuple[BookStore, Script]:
    """Return a ready store with one market of every kind in `ALL`, and the script that goes on with it."""
    store = BookStore()
    script = Script(store)
    script.snapshot({3_800: 12_000, 4_000: 7_550}, {5_500: 1, 5_400: 200, 5_300: 300}, ticker=LIVE)
    script.snapshot({100: 5}, {}, ticker=ONE_SIDED)
    script.apply(BookDelta(AWAITING, "yes", 100, 5, None))
    script.snapshot({2_000: 100}, {7_000: 100}, ticker=STALE)
    script.snapshot({9_900: 100}, {}, ticker=CLOSED)
    script.apply(lifecycle("determined", ticker=CLOSED, result="yes"))
    with store.writer() as writer:
        writer.doubt(STALE, "3 messages were lost")
        writer.set_ready(ready=True)
    return store, script


def api_of(store: BookStore, options: HttpOptions | None = None, **arguments: Any) -> Api:
    """Return a client of an application whose clock stands at `NOW_US`."""
    arguments.setdefault("now_us", lambda: NOW_US)
    return Api(make_app(store, options, **arguments))


def by_ticker(answer: Answer) -> dict[str, dict[str, Any]]:
    """Return the rows of `markets` by ticker."""
    return {row["ticker"]: row for row in answer.json["markets"]}
