"""The poller: every book in turn, within the budget, and what becomes of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import httpx
import msgspec
import pytest
import trio

from kalshibook.gather.audit import AuditBooks, Auditor
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.poller import BookPoller, Pace, snapshot_frame
from kalshibook.gather.records import Notice, Received, SinkCounts
from kalshibook.gather.registry import MarketRegistry
from kalshibook.gather.rest import ExchangeClient
from kalshibook.wire import BookSnapshot, decode_frame, read_frame
from kalshibook.wire.rest import Listing
from tests.gather.test_audit import START, Levels, book_of, delta, snapshot
from tests.gather.test_sync import clock, names

pytestmark = pytest.mark.trio

S = 1_000_000


class Books:
    """Answers the bulk call for order books, and can fail."""

    def __init__(self, tickers: list[str], levels: Levels = START) -> None:
        self.books: dict[str, Levels] = dict.fromkeys(tickers, levels)
        self.calls: list[tuple[float, list[str]]] = []
        self.answers: list[httpx.Response] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer."""
        tickers = request.url.params.get_list("tickers")
        self.calls.append((trio.current_time(), tickers))
        if self.answers:
            return self.answers.pop(0)
        rows = []
        for ticker in tickers:
            if ticker in self.books:
                frame = msgspec.json.decode(snapshot_frame(book_of(self.books[ticker])))["msg"]
                sides = {f"{side}_dollars": frame.get(f"{side}_dollars_fp", []) for side in ("yes", "no")}
                rows.append({"ticker": ticker, "orderbook_fp": sides})
        return httpx.Response(200, content=msgspec.json.encode({"orderbooks": rows}))

    def times_of(self, ticker: str) -> list[float]:
        """Return when a market was asked for."""
        return [round(moment, 3) for moment, tickers in self.calls if ticker in tickers]


class Shelf:
    """Stores books, until it is full."""

    name = "shelf"
    types = frozenset({"orderbook_snapshot"})

    def __init__(self) -> None:
        self.frames: list[Received] = []
        self.is_full = False

    def offer(self, received: Received) -> None:
        """Store one."""
        assert not self.is_full
        self.frames.append(received)

    def notify(self, notice: Notice) -> None:
        """Nothing is noticed."""

    def counts(self) -> SinkCounts:
        """All are stored."""
        return SinkCounts(len(self.frames), len(self.frames))

    @property
    def tickers(self) -> list[str]:
        """The markets of the books."""
        return [msgspec.json.decode(one.frame)["msg"]["market_ticker"] for one in self.frames]


class Stage:
    """A running poller with everything around it."""

    def __init__(
        self, exchange: Books, *, read_budget: int = 2_000, audit: bool = True, **options: Any
    ) -> None:
        self.exchange = exchange
        self.options = GatherOptions(read_budget=read_budget, **options)
        self.registry = MarketRegistry()
        self.registry.apply_page(
            [Listing(ticker, "E", "active", None, None, is_combo=False) for ticker in exchange.books],
            asked_us=clock(),
            now_us=clock(),
        )
        self.diverged: list[str] = []
        self.unhealed: dict[str, str] = {}
        self.whole: set[str] = set()
        self.published: list[Received] = []
        self.store = Shelf()
        self.audit = AuditBooks()
        self.auditor = Auditor(self.audit, lambda ticker, _: self.diverged.append(ticker))
        self.client = ExchangeClient(
            "http://exchange.example/trade-api/v2",
            read_budget=read_budget,
            attempts=1,
            transport=httpx.MockTransport(exchange),
        )
        self.poller = BookPoller(
            self.client,
            self.registry,
            self.options,
            auditor=self.auditor if audit else None,
            unhealed=lambda: self.unhealed,
            is_unhealed=lambda ticker: ticker not in self.whole,
            publish=self.published.append,
            stores=[self.store],
            now_us=clock,
        )


@asynccontextmanager
async def running(exchange: Books, **options: Any) -> AsyncIterator[Stage]:
    """Run a poller during a block."""
    stage = Stage(exchange, **options)
    async with stage.client, trio.open_nursery() as nursery:
        await nursery.start(stage.poller.run)
        yield stage
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("markets", "tokens", "pace"),
    [
        (0, 100, (0, 60.0, 60.0)),
        (1, 100, (1, 60.0, 60.0)),
        (101, 100, (2, 30.0, 60.0)),
        (60_000, 100, (600, 0.1, 60.0)),
        (1_000_000, 100, (10_000, 0.1, 1_000.0)),
        (1_000_000, 5_000, (10_000, 0.006, 60.0)),
    ],
)
async def test_pace(markets: int, tokens: float, pace: tuple[int, float, float]) -> None:
    """Evenly over a minute, or as fast as the budget allows."""
    assert pace == Pace.of(markets, every_s=60, tokens_per_second=tokens)


async def test_poll_seconds_is_how_often_each_book_is_asked_for(autojump_clock: object) -> None:
    """All markets, a hundred a call, evenly over the time; each book goes to storage."""
    exchange = Books(names(250))
    async with running(exchange, poll_seconds=30) as stage:
        await trio.sleep(89)

    assert [0, 10, 20, 30, 40, 50, 60, 70, 80] == pytest.approx(
        [moment for moment, _ in exchange.calls], abs=0.1
    )
    assert [100, 100, 50] == [len(tickers) for _, tickers in exchange.calls[:3]]
    assert names(250) == [ticker for _, tickers in exchange.calls[:3] for ticker in tickers]
    assert names(250) * 3 == stage.store.tickers
    assert {("gatherer/rest", None, None, "")} == {
        (one.connection, one.sid, one.sequence, one.doubt) for one in stage.store.frames
    }
    assert (9, 750, 0) == msgspec.structs.astuple(stage.poller.statistics())[1:4]
    assert [] == stage.poller.remarks()


async def test_no_polling_at_all(autojump_clock: object) -> None:
    """With 0 nothing is asked."""
    exchange = Books(names(1))
    async with running(exchange, poll_seconds=0):
        await trio.sleep(600)

    assert [] == exchange.calls


async def test_poll_share_is_what_polling_leaves_of_the_budget(autojump_clock: object) -> None:
    """More books than the share suffices for take longer, which is said; other requests find tokens."""
    exchange = Books(names(1_000))
    async with running(exchange, poll_seconds=5, read_budget=20, poll_share=0.5) as stage:
        await trio.sleep(25)
        began = trio.current_time()
        await stage.client.orderbooks(["M-0000"])
        assert 0.51 > trio.current_time() - began

        assert 10 == stage.poller.statistics().cadence_s
        assert 5 == stage.poller.statistics().wanted_s
        (remark,) = stage.poller.remarks()
        assert remark.startswith("each order book is asked for every 10 s instead of every 5 s")

    assert [0, 10, 20] == pytest.approx(exchange.times_of("M-0005"), abs=0.5)


async def test_failure_costs_a_call_and_not_the_round(autojump_clock: object) -> None:
    """It is counted and told while it lasts; what cannot be read or is missing is counted too."""
    exchange = Books(names(250))
    exchange.answers = [httpx.Response(500), httpx.Response(200, content=b'{"orderbooks":[{"ticker":"X"}]}')]
    async with running(exchange, poll_seconds=30) as stage:
        await trio.sleep(1)
        assert "order books over REST cannot be had" in stage.poller.remarks()[0]
        await trio.sleep(28)
        assert [] == stage.poller.remarks()

    found = stage.poller.statistics()
    assert (1, 2, 50, 99, 1) == (found.failures, found.calls, found.books, found.missing, found.rejected)


async def test_divergence_is_found_within_two_polls(autojump_clock: object) -> None:
    """The suspect is asked for again before its turn; a market that is right is not suspected."""
    exchange = Books(names(3))
    async with running(exchange, poll_seconds=600) as stage:
        for ticker in names(3):
            stage.audit.offer(snapshot(START, clock() - 100 * S, ticker=ticker))
        exchange.books["M-0001"] = START | {("yes", 4_000): 501}
        await trio.sleep(60)

        assert ["M-0001"] == stage.diverged
        first, second = exchange.times_of("M-0001")
        assert 20 <= second - first < 40
        assert [0] == exchange.times_of("M-0000")


async def test_audit_can_be_left_out(autojump_clock: object) -> None:
    """Then nothing is compared, and books are stored all the same."""
    async with running(Books(names(1)), audit=False) as stage:
        await trio.sleep(61)

    assert 0 == stage.auditor.statistics().compared
    assert 2 == len(stage.store.frames)


async def test_full_store_is_passed_over(autojump_clock: object) -> None:
    """What it does not get is counted; the audit goes on."""
    async with running(Books(names(3)), poll_seconds=30) as stage:
        stage.store.is_full = True
        await trio.sleep(10)
        stage.store.is_full = False
        await trio.sleep(25)

    assert (3, 3) == (stage.poller.statistics().unstored, len(stage.store.frames))


async def test_market_that_no_socket_heals_is_served_from_rest(autojump_clock: object) -> None:
    """Its book is asked for every ten seconds and handed on as a snapshot in doubt, until it is whole."""
    exchange = Books(names(300))
    async with running(exchange, poll_seconds=600) as stage:
        await trio.sleep(1)
        stage.unhealed["M-0299"] = "the exchange does not answer for it"
        await trio.sleep(55)
        stage.unhealed.clear()
        await trio.sleep(60)

    times = exchange.times_of("M-0299")
    assert 6 == len(times) == len(stage.published)
    assert all(9 < later - earlier < 12 for earlier, later in pairwise(times))
    received = stage.published[0]
    assert ("gatherer/rest", None, None, "orderbook_snapshot") == (
        received.connection,
        received.sid,
        received.sequence,
        received.type,
    )
    assert received.doubt.startswith("the exchange does not answer for it; this is its book over REST")
    book = read_frame(decode_frame(received.frame))
    assert isinstance(book, BookSnapshot)
    assert (((4_000, 500),), ((5_000, 300),)) == (book.yes, book.no)


async def test_a_market_that_is_whole_again_is_not_put_in_doubt(autojump_clock: object) -> None:
    """The socket healed it while the exchange was asked: what comes over REST is older than that."""
    exchange = Books(names(2))
    async with running(exchange, poll_seconds=600) as stage:
        await trio.sleep(1)
        stage.unhealed.update({"M-0000": "its connection is down", "M-0001": "its connection is down"})
        stage.whole.add("M-0000")
        await trio.sleep(5)

    (published,) = stage.published
    assert b"M-0001" in published.frame


@pytest.mark.parametrize("levels", [{}, {("yes", 1): 1}, {("no", 9_999): 10**15, ("no", 1): 7}, START])
async def test_frame_is_as_the_exchange_writes_it(levels: Levels) -> None:
    """It is read back as the same book; a side without levels has no key."""
    frame = snapshot_frame(book_of(levels))

    book = read_frame(decode_frame(frame))

    assert isinstance(book, BookSnapshot)
    assert levels == {
        **{("yes", price): size for price, size in book.yes},
        **{("no", price): size for price, size in book.no},
    }
    assert {side for side, _ in levels} == {
        key.partition("_")[0] for key in msgspec.json.decode(frame)["msg"] if key.endswith("_fp")
    }


async def test_markets_that_are_not_active_have_no_turn(autojump_clock: object) -> None:
    """A registry that is still empty is looked at again each second."""
    exchange = Books([])
    async with running(exchange) as stage:
        await trio.sleep(5)
        assert [] == exchange.calls
        exchange.books = dict.fromkeys(names(2), START)
        listings = [
            Listing(
                one, "E", word, clock() + 9_000 * S if word == "initialized" else None, None, is_combo=False
            )
            for one, word in (("M-0000", "active"), ("M-0001", "initialized"))
        ]
        stage.registry.apply_page(listings, asked_us=clock(), now_us=clock())
        await trio.sleep(1.5)

    assert [["M-0000"]] == [tickers for _, tickers in exchange.calls]


async def test_busy_market_makes_no_alarm(autojump_clock: object) -> None:
    """Forty changes a second, REST always some seconds behind, for ten minutes: no suspicion."""
    exchange = Books(names(1))
    async with running(exchange, poll_seconds=7) as stage:
        stage.audit.offer(snapshot(START, clock(), ticker="M-0000"))
        size = 500
        sizes = [size] * 600
        for _ in range(24_000):
            await trio.sleep(0.025)
            stage.audit.offer(delta("yes", 4_000, 1, clock(), ticker="M-0000"))
            size += 1
            sizes.append(size)
            exchange.books["M-0000"] = START | {("yes", 4_000): sizes[-600]}

    found = stage.auditor.statistics()
    assert 80 <= found.compared
    assert (0, 0, []) == (found.suspects, found.diverged, stage.diverged)
