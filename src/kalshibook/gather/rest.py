"""
The exchange over REST: paced, retried, counted, and typed. On Trio.

What may be asked and what answers mean is in `kalshibook.wire.rest`, without a socket. Here is what a
network adds: a budget to keep to, answers that do not come, and answers that say "not now".

Retries are a loop of this module's own and not stamina's. Stamina pauses for an exponential time plus a
little jitter, and measures its deadline by the system's clock; after a failure of the exchange all
clients should spread over the whole pause ("full jitter"), and time must be Trio's, so that tests run it.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar, final
from urllib.parse import urlsplit

import httpx
import msgspec
import trio

from kalshibook.errors import ExchangeRefused, ExchangeUnavailable, WireError
from kalshibook.gather.clock import explain_unauthorized, skew_s
from kalshibook.gather.credentials import Credentials
from kalshibook.gather.limiter import READ_COST, TokenBucket
from kalshibook.gather.options import GatherOptions
from kalshibook.wire import BookSnapshot, rest
from kalshibook.wire.rest import Page, Request

__all__ = ["ExchangeClient", "RestStatistics"]

T = TypeVar("T")

# The longest pause grows 0.5, 1, 2 … 20 s; the pause itself is anything up to it.
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 20.0
_KEEP_ALIVE_S: Final = 60
# The exchange's two slowest tiers save up two seconds of budget, the others one.
_SAVED_SECONDS: Final = 1
_NOT_FOUND: Final = 404
_UNAUTHORIZED: Final = 401
_TOO_MANY: Final = 429
_FAILURES: Final = 500


class RestStatistics(msgspec.Struct, frozen=True):
    """What was asked of the exchange since the start."""

    attempts: Mapping[tuple[str, str], int]
    """
    Attempts by endpoint and outcome: `ok`; `refused` (4xx), `limited` (429), `failed` (5xx), `unreachable`
    (no answer in time), `unreadable`.
    """
    waited_us: int
    """Time spent waiting for the budget."""
    in_flight: int
    clock_skew_s: int | None
    """How far our clock is ahead of the exchange's by its last answer; None before the first."""


@final
class ExchangeClient:
    """
    Asks the exchange, within its limits; ``async with`` closes its connections.

    Args:
        base_url: base of the REST addresses, up to and with ``/trade-api/v2``.
        credentials: a key; every request is signed with it. None asks anonymously, whose answers
            come from a cache and may be 15 s old.
        read_budget: tokens a second for reads.
        attempts: how often a request is tried.
        timeout_ms: how long one attempt may take.
        connections: how many at once, kept open between requests.
        transport: httpx's way out; the network's where None.
        now_ms: the system's clock, Unix ms: signatures carry it.
        draw: a number from 0 to 1, for pauses.
    """

    def __init__(
        self,
        base_url: str,
        credentials: Credentials | None = None,
        *,
        read_budget: int = 200,
        attempts: int = 6,
        timeout_ms: int = 10_000,
        connections: int = 8,
        transport: httpx.AsyncBaseTransport | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._root = urlsplit(self._base).path
        self._credentials = credentials
        self._attempts = attempts
        self._timeout_s = timeout_ms / 1_000
        self._now_ms = now_ms
        self._draw = draw
        self._read_budget = read_budget
        self._bucket: TokenBucket | None = None
        # Not httpx's own pool limit, which ends a wait with an error; and the budget is only taken
        # by whoever has a connection to spend it on.
        self._slots = trio.Semaphore(connections)
        self._connections = connections
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._waited_us = 0
        self._skew_s: int | None = None
        self._http = httpx.AsyncClient(
            transport=transport,
            http2=False,
            timeout=None,  # noqa: S113 - an attempt has one deadline over all its steps
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=_KEEP_ALIVE_S,
            ),
            headers={"Accept": "application/json", "User-Agent": "kalshibook"},
        )
        # It tells of every request, of which there may be a hundred a second.
        logging.getLogger("httpx").setLevel(logging.WARNING)

    @classmethod
    def of(cls, options: GatherOptions, credentials: Credentials | None) -> Self:
        """Return a client as the settings want it."""
        return cls(
            options.endpoints().rest_url,
            credentials,
            read_budget=options.read_budget,
            attempts=options.rest_attempts,
            timeout_ms=options.rest_timeout_ms,
            connections=options.rest_connections,
        )

    async def __aenter__(self) -> Self:
        """Return it; connections are made as they are needed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @property
    def read_budget(self) -> int:
        """Tokens a second."""
        return self._read_budget

    def statistics(self) -> RestStatistics:
        """Return the counts since the start; from any thread."""
        return RestStatistics(
            dict(self._outcomes), self._waited_us, self._connections - self._slots.value, self._skew_s
        )

    async def market(self, ticker: str) -> rest.Market:
        """Return one market; a refusal with status 404 says that the exchange does not know it (yet)."""
        return await self.get(rest.market_request(ticker), rest.read_market)

    async def orderbook(self, ticker: str, depth: int = 0) -> BookSnapshot:
        """Return one book, which may be some seconds old."""
        return await self.get(
            rest.orderbook_request(ticker, depth), lambda data: rest.read_orderbook(data, ticker)
        )

    async def orderbooks(self, tickers: Sequence[str]) -> Page[BookSnapshot]:
        """Return up to a hundred books, which may be some seconds old; a market may be missing."""
        return await self.get(rest.orderbooks_request(tickers), rest.read_orderbooks)

    async def exchange_status(self) -> rest.ExchangeStatus:
        """Return whether the exchange is open, which it also says with a status of failure."""
        return await self.get(
            rest.exchange_status_request(), rest.read_exchange_status, failures_are_read=True
        )

    async def exchange_schedule(self) -> rest.ExchangeSchedule:
        """Return hours and maintenance."""
        return await self.get(rest.exchange_schedule_request(), rest.read_exchange_schedule)

    async def pages(
        self, request: Request, read: Callable[[bytes], Page[T]]
    ) -> AsyncGenerator[Page[T], None]:
        """
        Yield a list's pages in their order, from the one that `request` names.

        The next page is asked for when the consumer asks for it. To go on after a failure, keep the
        last page's cursor.

        Raises:
            ExchangeError: as `get`.
            WireError: as `get`, or the pages lead round in circles.
        """
        following: Request | None = request
        while following is not None:
            page = await self.get(following, read)
            following = rest.next_request(following, page.cursor)
            yield page

    async def get(
        self, request: Request, read: Callable[[bytes], T], *, failures_are_read: bool = False
    ) -> T:
        """
        Ask, again where that may help, and read the answer.

        Args:
            request: what is asked.
            read: turns the body into a value, or raises `WireError`.
            failures_are_read: an answer with a 5xx status may carry the value too.

        Raises:
            ExchangeRefused: a 4xx other than 429; asking again would not help.
            ExchangeUnavailable: no attempt succeeded.
            WireError: the last attempt's answer could not be read.
        """
        problem: Exception | None = None
        retry_after: str | None = None
        for attempt in range(1, self._attempts + 1):
            if attempt > 1:
                await trio.sleep(self._pause_s(attempt - 1, retry_after))
                retry_after = None
            try:
                response = await self._send(request)
            except (httpx.RequestError, trio.TooSlowError) as error:
                self._count(request, "unreachable")
                reason = f"no answer within {self._timeout_s:g} s"
                if not isinstance(error, trio.TooSlowError):
                    reason = str(error) or type(error).__name__
                problem = self._unavailable(request, attempt, None, reason)
                continue
            status = response.status_code
            readable = status < 300 or (failures_are_read and status >= _FAILURES)
            if readable:
                try:
                    value = read(response.content)
                except WireError as error:
                    problem = error
                    if status < _FAILURES:
                        # Also what a cache or a proxy answers in the exchange's place.
                        self._count(request, "unreadable")
                        continue
                else:
                    self._count(request, "ok")
                    return value
            refusal = rest.read_refusal(response.content)
            if status == _TOO_MANY:
                self._count(request, "limited")
                self._budget().empty(_trio_us())
            elif status >= _FAILURES:
                self._count(request, "failed")
            else:
                self._count(request, "refused")
                raise self._refused(request, status, refusal)
            problem = self._unavailable(request, attempt, status, str(refusal))
            retry_after = response.headers.get("Retry-After")
        assert problem is not None
        raise problem

    async def _send(self, request: Request) -> httpx.Response:
        async with self._slots:
            await self._wait_for_budget()
            headers = {}
            if self._credentials is not None:
                # Signed when it is sent: a signature is only good for some seconds.
                headers = self._credentials.headers("GET", self._root + request.path, self._now_ms())
            with trio.fail_after(self._timeout_s):
                response = await self._http.get(self._base + request.target, headers=headers)
        self._skew_s = skew_s(response.headers.get("Date"), response.headers.get("Age"), self._now_ms())
        return response

    async def _wait_for_budget(self) -> None:
        wait_us = self._budget().reserve(READ_COST, _trio_us())
        if not wait_us:
            return
        self._waited_us += wait_us
        try:
            await trio.sleep(wait_us / 1e6)
        except trio.Cancelled:
            self._budget().give_back(READ_COST)
            raise

    def _budget(self) -> TokenBucket:
        # Made at first use: its clock is that of the run that it is used in.
        if self._bucket is None:
            self._bucket = TokenBucket(self._read_budget, self._read_budget * _SAVED_SECONDS, _trio_us())
        return self._bucket

    def _pause_s(self, attempt: int, retry_after: str | None) -> float:
        pause_s: float = self._draw() * min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 1))
        if retry_after is not None and retry_after.isascii() and retry_after.isdecimal():
            pause_s += min(_LONGEST_PAUSE_S, float(retry_after[:6]))
        return pause_s

    def _count(self, request: Request, outcome: str) -> None:
        self._outcomes[request.endpoint, outcome] += 1

    def _refused(self, request: Request, status: int, refusal: rest.Refusal) -> ExchangeRefused:
        reason = str(refusal)
        if status == _UNAUTHORIZED:
            reason = explain_unauthorized(reason, self._skew_s, signed=self._credentials is not None)
        return ExchangeRefused(
            f"GET {request.target[:200]} was refused with status {status}: {reason}",
            status=status,
            code=refusal.code,
        )

    def _unavailable(
        self, request: Request, attempts: int, status: int | None, reason: str
    ) -> ExchangeUnavailable:
        last = reason if status is None else f"status {status}, {reason}"
        times = "once" if attempts == 1 else f"{attempts} times"
        return ExchangeUnavailable(
            f"GET {request.target[:200]} was tried {times}; the last time: {last}",
            attempts=attempts,
            status=status,
        )


def _trio_us() -> int:
    return int(trio.current_time() * 1e6)
