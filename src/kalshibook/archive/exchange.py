"""
The exchange over REST, without Trio: what the deduplicator asks for, a few times in an hour.

What may be asked and what answers mean is in `kalshibook.wire.rest`.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Self, TypeVar, final

import httpx
import msgspec
import stamina

from kalshibook.errors import ExchangeRefused, ExchangeUnavailable, WireError
from kalshibook.wire import Trade
from kalshibook.wire.rest import (
    Request,
    events_request,
    markets_request,
    next_request,
    read_refusal,
    read_trades,
    series_request,
    trades_request,
)

__all__ = ["Exchange"]

T = TypeVar("T")

_ATTEMPTS: Final = 6
_TOO_MANY: Final = 429
_FAILURES: Final = 500
_BAD: Final = 400


class _Again(Exception):  # noqa: N818 - a reason to try again, never seen outside
    """The exchange cannot answer now."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class _Bodies(msgspec.Struct, frozen=True):
    cursor: str | None = None
    series: list[dict[str, Any]] | None = None
    events: list[dict[str, Any]] | None = None
    markets: list[dict[str, Any]] | None = None


@final
class Exchange:
    """
    Asks the exchange; one thread uses it.

    Args:
        base_url: base of the REST addresses, up to and with ``/trade-api/v2``.
        requests_per_second: paced to this.
        headers: signs a request by method and path, or None to ask anonymously.
        transport: httpx's way out; the network's where None.
        sleep: waits.
    """

    def __init__(
        self,
        base_url: str,
        *,
        requests_per_second: float = 10.0,
        headers: Callable[[str, str], dict[str, str]] | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = httpx.Client(base_url=base_url, timeout=20.0, transport=transport)
        self._gap_s = 1 / requests_per_second
        self._headers = headers
        self._sleep = sleep
        self._next_s = 0.0
        self.requests = 0
        """Since the start, repeated ones too."""

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def series(self) -> Iterator[dict[str, Any]]:
        """Yield every series, as the exchange describes it."""
        yield from self._bodies(series_request(), "series")

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield every event."""
        yield from self._bodies(events_request(), "events")

    def markets(self, *, updated_since_s: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield every market, or those of which anything but trading has changed since."""
        yield from self._bodies(markets_request(min_updated_s=updated_since_s), "markets")

    def trades(self, *, ticker: str = "", min_s: int, max_s: int) -> Iterator[Trade]:
        """
        Yield the trades of a stretch of time, of one market or of all.

        Raises:
            WireError: one cannot be read.
            ExchangeUnavailable: the exchange does not answer.
            ExchangeRefused: it refuses.
        """
        request: Request | None = trades_request(ticker=ticker, min_s=min_s, max_s=max_s)
        while request is not None:
            page = read_trades(self._get(request))
            for error in page.rejected:
                raise error
            yield from page.items
            request = next_request(request, page.cursor)

    def _bodies(self, request: Request | None, name: str) -> Iterator[dict[str, Any]]:
        while request is not None:
            try:
                page = msgspec.json.decode(self._get(request), type=_Bodies)
            except msgspec.MsgspecError as error:
                raise WireError("$", f"the answer of {request.endpoint} cannot be read: {error}") from None
            yield from getattr(page, name) or ()
            request = next_request(request, page.cursor)

    def _get(self, request: Request) -> bytes:
        try:
            for attempt in stamina.retry_context(on=_Again, attempts=_ATTEMPTS, timeout=120):
                with attempt:
                    return self._once(request)
        except _Again as error:
            message = f"{request.endpoint} over REST: {error}"
            raise ExchangeUnavailable(message, attempts=_ATTEMPTS, status=error.status) from None
        raise AssertionError("not reached: the last attempt raises")

    def _once(self, request: Request) -> bytes:
        now_s = time.monotonic()
        if now_s < self._next_s:
            self._sleep(self._next_s - now_s)
        self._next_s = max(now_s, self._next_s) + self._gap_s
        self.requests += 1
        headers = self._headers("GET", request.path) if self._headers is not None else None
        try:
            answer = self._client.get(request.target, headers=headers)
        except httpx.TransportError as error:
            raise _Again(f"no answer: {error!r}", None) from None
        if answer.status_code == _TOO_MANY or answer.status_code >= _FAILURES:
            raise _Again(f"{answer.status_code}: {read_refusal(answer.content)}", answer.status_code)
        if answer.status_code >= _BAD:
            refusal = read_refusal(answer.content)
            message = f"{request.endpoint} over REST: {answer.status_code}: {refusal}"
            raise ExchangeRefused(message, status=answer.status_code, code=refusal.code)
        return answer.content
