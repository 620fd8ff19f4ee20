"""
The client against faults that a real exchange gives rarely: made up by httpx's own test transport.

Against the simulated exchange it is tested in `test_rest_exchange`.
"""

from collections.abc import Callable
from contextlib import aclosing

import httpx
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ed25519

from kalshibook.errors import ExchangeRefused, ExchangeUnavailable, WireError
from kalshibook.gather.credentials import Credentials
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.rest import ExchangeClient
from kalshibook.wire import rest
from tests.gather.test_credentials import pem_of

pytestmark = pytest.mark.trio

BASE = "http://exchange.example/trade-api/v2"
EMPTY = '{"markets":[],"cursor":""}'
ASK = rest.markets_request()

Answer = httpx.Response | Exception


class Script:
    """Gives one answer after the other, the last one for ever, and keeps what was asked and when."""

    def __init__(self, *answers: Answer | Callable[[httpx.Request], Answer]) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []
        self.times: list[float] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer."""
        self.asked.append(request)
        self.times.append(trio.current_time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer) and not isinstance(answer, httpx.Response):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        # A response is read once; each attempt has its own.
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def client_of(script: object, **options: object) -> ExchangeClient:
    """Return a client of a script, whose pauses are as long as they may be."""
    transport = httpx.MockTransport(script)  # type: ignore[arg-type]
    return ExchangeClient(BASE, transport=transport, draw=lambda: 1.0, **options)  # type: ignore[arg-type]


def outcomes(client: ExchangeClient) -> dict[tuple[str, str], int]:
    """Return its counts."""
    return dict(client.statistics().attempts)


@pytest.mark.parametrize(
    ("trouble", "outcome"),
    [
        (httpx.Response(429, content=b'{"error":"too many requests"}'), "limited"),
        (httpx.Response(500), "failed"),
        (httpx.Response(503, content=b"<html>"), "failed"),
        (httpx.ConnectError("refused"), "unreachable"),
        (httpx.ReadError("reset"), "unreachable"),
        (httpx.RemoteProtocolError("cut"), "unreachable"),
        (httpx.Response(200, content=b"<html>maintenance</html>"), "unreadable"),
        (httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=b""), "unreadable"),
    ],
)
async def test_passing_trouble_is_survived(trouble: Answer, outcome: str, autojump_clock: object) -> None:
    """Twice trouble, then an answer: it is returned, and each attempt is counted by how it ended."""
    script = Script(trouble, trouble, httpx.Response(200, content=EMPTY))
    async with client_of(script) as client:
        page = await client.get(ASK, rest.read_listings)

    assert () == page.items
    assert {("markets", outcome): 2, ("markets", "ok"): 1} == outcomes(client)
    assert 0.5 <= script.times[1] - script.times[0] < 2
    assert 1.0 <= script.times[2] - script.times[1] < 3


async def test_rest_attempts_is_how_often_it_is_tried(autojump_clock: object) -> None:
    """Then the failure is told with the last reason, for the caller to judge."""
    script = Script(httpx.Response(500, content=b'{"code":"oops","message":"broken"}'))
    options = GatherOptions(
        rest_attempts=3, environment="custom", rest_url=BASE, stream_url="ws://exchange.example"
    )
    client = client_of(script, attempts=options.rest_attempts)

    with pytest.raises(ExchangeUnavailable, match=r"tried 3 times.*status 500, oops: broken") as caught:
        await client.get(ASK, rest.read_listings)

    assert (3, 500) == (caught.value.attempts, caught.value.status)
    assert 3 == len(script.asked)
    assert 3 == ExchangeClient.of(options, None)._attempts


async def test_pauses_are_spread_over_their_whole_length(autojump_clock: object) -> None:
    """Full jitter: a pause may be anything from none to its limit, which doubles up to 20 s."""
    draws = iter([1.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0])
    script = Script(httpx.ConnectError("refused"))
    transport = httpx.MockTransport(script)
    client = ExchangeClient(BASE, attempts=8, transport=transport, draw=lambda: next(draws))

    with pytest.raises(ExchangeUnavailable, match=r"tried 8 times; the last time: refused"):
        await client.get(ASK, rest.read_listings)

    pauses = [later - earlier for earlier, later in zip(script.times, script.times[1:], strict=False)]
    assert [0.5, 0, 1, 4, 8, 16, 20] == pytest.approx(pauses, abs=1e-6)


@pytest.mark.parametrize("status", [400, 403, 404, 302])
async def test_refusal_is_told_at_once(status: int) -> None:
    """What will be refused again is not asked again."""
    script = Script(httpx.Response(status, content=b'{"code":"not_found","message":"no such market"}'))
    async with client_of(script) as client:
        with pytest.raises(ExchangeRefused, match="not_found: no such market") as caught:
            await client.market("NOBODY")

    assert (status, "not_found") == (caught.value.status, caught.value.code)
    assert {("market", "refused"): 1} == outcomes(client)


async def test_unreadable_to_the_end(autojump_clock: object) -> None:
    """When every attempt is unreadable, the last one's path is told."""
    async with client_of(Script(httpx.Response(200, content=b'{"cursor":""}')), attempts=2) as client:
        with pytest.raises(WireError, match=r"\$\.markets"):
            await client.get(ASK, rest.read_listings)


async def test_rest_timeout_is_how_long_an_attempt_may_take(autojump_clock: object) -> None:
    """An answer that trickles or never comes costs that long, and is tried again."""

    async def never(request: httpx.Request) -> httpx.Response:
        await trio.sleep_forever()

    options = GatherOptions(rest_timeout_ms=1_500)
    client = client_of(never, attempts=2, timeout_ms=options.rest_timeout_ms)
    began = trio.current_time()

    with pytest.raises(ExchangeUnavailable, match=r"no answer within 1\.5 s"):
        await client.get(ASK, rest.read_listings)

    assert 3.5 == pytest.approx(trio.current_time() - began)
    assert 0 == client.statistics().in_flight
    assert 1.5 == ExchangeClient.of(options, None)._timeout_s


async def test_read_budget_paces_requests(autojump_clock: object) -> None:
    """After what is saved up, requests go out evenly at the budget's rate, and none is early."""
    script = Script(httpx.Response(200, content=EMPTY))
    options = GatherOptions(read_budget=50)
    async with client_of(script, read_budget=options.read_budget) as client:
        for _ in range(15):
            await client.get(ASK, rest.read_listings)

    began = script.times[0]
    assert [0] * 5 + [0.2 * number for number in range(1, 11)] == pytest.approx(
        [moment - began for moment in script.times], abs=1e-4
    )
    assert 0 < client.statistics().waited_us
    assert 50 == ExchangeClient.of(options, None).read_budget


async def test_rest_connections_bounds_what_is_under_way(autojump_clock: object) -> None:
    """More requests wait in the order of their coming, and none ends in an error of a pool."""
    running = most = 0

    async def slow(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return httpx.Response(200, content=EMPTY)

    options = GatherOptions(rest_connections=3)
    client = client_of(slow, connections=options.rest_connections)
    async with client, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(client.get, ASK, rest.read_listings)

    assert 3 == most
    assert {("markets", "ok"): 10} == outcomes(client)
    assert 3 == ExchangeClient.of(options, None)._connections


async def test_cancelled_request_leaves_its_budget_and_its_slot(autojump_clock: object) -> None:
    """Whoever gives up while waiting has spent nothing."""
    async with client_of(Script(httpx.Response(200, content=EMPTY)), read_budget=10, connections=1) as client:
        await client.get(ASK, rest.read_listings)
        for _ in range(5):
            with trio.move_on_after(0.01):
                await client.get(ASK, rest.read_listings)
        began = trio.current_time()
        await client.get(ASK, rest.read_listings)

    assert 1 > trio.current_time() - began
    assert 0 == client.statistics().in_flight


async def test_refusal_for_pace_slows_everyone(autojump_clock: object) -> None:
    """After a 429 nothing that was saved up is spent, and a Retry-After is obeyed."""
    script = Script(httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(200, content=EMPTY))
    async with client_of(script, read_budget=100) as client:
        await client.get(ASK, rest.read_listings)
        await client.get(ASK, rest.read_listings)

    assert 7.5 <= script.times[1] - script.times[0] < 8


async def test_signs_each_attempt_anew(autojump_clock: object) -> None:
    """A retry that comes later than a signature lasts carries a new one, over the path without its query."""
    key = ed25519.Ed25519PrivateKey.generate()
    moments = iter(range(1_000, 9_000_000, 60_000))
    script = Script(httpx.Response(500), httpx.Response(200, content=EMPTY))
    transport = httpx.MockTransport(script)
    credentials = Credentials("an-id", pem_of(key))
    async with ExchangeClient(BASE, credentials, transport=transport, now_ms=lambda: next(moments)) as client:
        await client.get(ASK, rest.read_listings)

    first, second = (request.headers for request in script.asked)
    assert first["KALSHI-ACCESS-TIMESTAMP"] != second["KALSHI-ACCESS-TIMESTAMP"]
    assert (
        second["KALSHI-ACCESS-SIGNATURE"]
        == (
            credentials.headers("GET", "/trade-api/v2/markets", int(second["KALSHI-ACCESS-TIMESTAMP"]))[
                "KALSHI-ACCESS-SIGNATURE"
            ]
        )
    )


async def test_clock_that_is_off_is_named() -> None:
    """A 401 whose date is far from ours blames the clock, in the error and in the statistics."""
    refusal = httpx.Response(
        401,
        headers={"Date": "Wed, 05 Aug 2026 12:00:00 GMT"},
        content=b'{"code":"header_timestamp_expired","message":"expired"}',
    )
    client = ExchangeClient(
        BASE,
        Credentials("an-id", pem_of(ed25519.Ed25519PrivateKey.generate())),
        transport=httpx.MockTransport(Script(refusal)),
        now_ms=lambda: 1_785_931_200_000 + 73_000,
    )

    with pytest.raises(ExchangeRefused, match=r"header_timestamp_expired.* clock is 73 s ahead"):
        await client.exchange_schedule()

    assert 73 == client.statistics().clock_skew_s


async def test_status_is_read_from_a_failure_too(autojump_clock: object) -> None:
    """A closed exchange says so with a status of failure; a broken one says nothing, and that is told."""
    closed = b'{"exchange_active":false,"trading_active":false}'
    async with client_of(Script(httpx.Response(503, content=closed))) as client:
        assert not (await client.exchange_status()).exchange_active
    async with client_of(Script(httpx.Response(503, content=b"<html>")), attempts=2) as client:
        with pytest.raises(ExchangeUnavailable, match="status 503"):
            await client.exchange_status()


async def test_pages_in_their_order(autojump_clock: object) -> None:
    """Until a falsy cursor; trouble in between costs no page, and pages in a circle are refused."""
    pages = [
        httpx.Response(
            200, content=f'{{"markets":[{{"ticker":"{name}","status":"active"}}],"cursor":{cursor}}}'
        )
        for name, cursor in (("A", '"1"'), ("B", '"2"'), ("C", "null"))
    ]
    script = Script(pages[0], httpx.Response(500), pages[1], pages[2])
    found = []
    async with client_of(script) as client, aclosing(client.pages(ASK, rest.read_listings)) as listed:
        async for page in listed:
            found += [listing.ticker for listing in page.items]
    assert ["A", "B", "C"] == found
    assert [None, "1", "1", "2"] == [request.url.params.get("cursor") for request in script.asked]

    circle = client_of(Script(pages[0])).pages(ASK, rest.read_listings)
    async with aclosing(circle):
        with pytest.raises(WireError, match="leads back to itself"):
            [page async for page in circle]
