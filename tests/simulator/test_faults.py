import json
from typing import Any

import pytest

from kalshibook.simulator.faults import NothingToHarm
from kalshibook.simulator.ledger import FRAME_FAULTS, FaultKind
from kalshibook.simulator.session import Order
from kalshibook.simulator.venue import Venue
from tests.simulator.watching import START_US, Watcher, sides_of, venue
from tests.stream.stage import split

NEWT, TOAD = "KXNEWT-26DEC01-T40", "KXTOAD-26DEC01-T40"


def harmed(kind: FaultKind | str, **options: Any) -> tuple[Venue, list[dict[str, Any]]]:
    """Return the frames of five changes, the second of which is when a fault strikes."""
    exchange = venue(**options)
    exchange.create(NEWT)
    exchange.advance(START_US)
    watcher = Watcher(exchange, trusting=True)
    watcher.ask("subscribe", channels=["orderbook_delta"], market_ticker=NEWT)
    for number in range(1, 6):
        if number == 2:
            exchange.faults.inject(kind)
        exchange.change(NEWT, "yes", 4_000, number)
    return exchange, [json.loads(payload) for payload in split(watcher.session.take(1 << 30))]


def told(frames: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(frame["seq"], frame["msg"]["delta_fp"]) for frame in frames]


@pytest.mark.parametrize(
    ("kind", "expected", "seq"),
    [
        ("lost", [(2, "0.01"), (4, "0.03"), (5, "0.04"), (6, "0.05")], 3),
        ("doubled", [(2, "0.01"), (3, "0.02"), (3, "0.02"), (4, "0.03"), (5, "0.04"), (6, "0.05")], 3),
        ("reordered", [(2, "0.01"), (4, "0.03"), (3, "0.02"), (5, "0.04"), (6, "0.05")], 3),
        ("counter_reset", [(2, "0.01"), (1, "0.02"), (2, "0.03"), (3, "0.04"), (4, "0.05")], 1),
        ("wrong_delta", [(2, "0.01"), (3, "0.03"), (4, "0.03"), (5, "0.04"), (6, "0.05")], 3),
        (
            "impossible_delta",
            [
                (2, "0.01"),
                (3, "-10000000000000.00"),
                (4, "0.02"),
                (5, "0.03"),
                (6, "0.04"),
                (7, "0.05"),
            ],
            3,
        ),
    ],
)
def test_faults_of_frames(kind: str, expected: list[tuple[int, str]], seq: int) -> None:
    """Each does to the frames what it says, is on record with its number, and spares the truth."""
    exchange, frames = harmed(kind)
    assert expected == told(frames)
    (fault,) = exchange.ledger
    assert (seq, [NEWT], 1) == (fault.seq, fault.tickers, fault.sid)
    assert fault.done_us is not None
    assert fault.exposed_us is not None
    assert ((4_000, 15),) == exchange.truth(NEWT).yes


def test_a_fault_is_exposed_by_what_is_sent() -> None:
    """A lost frame cannot be noticed before the next one has gone out."""
    exchange = venue()
    exchange.create(NEWT)
    exchange.advance(START_US)
    watcher = Watcher(exchange, trusting=True)
    watcher.ask("subscribe", channels=["orderbook_delta"], market_ticker=NEWT)
    (fault,) = exchange.faults.inject("lost")
    assert fault.done_us is None
    exchange.change(NEWT, "yes", 4_000, 1)
    watcher.hear()
    assert (True, None) == (fault.done_us is not None, fault.exposed_us)
    exchange.change(NEWT, "yes", 4_000, 1)
    assert fault.exposed_us is None
    watcher.hear()
    assert fault.exposed_us is not None


@pytest.mark.parametrize(("kind", "code"), [("overflow", 25), ("channel_error", 10)])
def test_terminal_errors_end_the_subscription(kind: str, code: int) -> None:
    """Nothing follows the error, and the subscription is gone."""
    exchange, frames = harmed(kind)
    assert [(2, None), (3, code)] == [(frame["seq"], frame["msg"].get("code")) for frame in frames]
    (session,) = exchange.sessions.values()
    assert () == session.subscriptions


def test_a_counter_that_has_not_begun_cannot_begin_anew() -> None:
    """A reset waits for a frame whose number it changes."""
    exchange = venue()
    exchange.create(NEWT)
    exchange.advance(START_US)
    exchange.change(NEWT, "yes", 4_000, 100)
    watcher = Watcher(exchange, trusting=True)
    watcher.ask("subscribe", channels=["trade"])
    (fault,) = exchange.faults.inject("counter_reset")
    exchange.trade(NEWT, "no", 1)
    assert fault.done_us is None
    exchange.trade(NEWT, "no", 1)
    assert [1, 1] == [frame["seq"] for frame in watcher.hear()]
    assert fault.exposed_us is not None


def test_the_end_of_a_subscription_is_always_told() -> None:
    """A fault that is due does not strike the reply to `unsubscribe`, nor does that expose the one before."""
    exchange = venue()
    exchange.create(NEWT)
    exchange.advance(START_US)
    watcher = Watcher(exchange, trusting=True)
    watcher.ask("subscribe", channels=["orderbook_delta"], market_ticker=NEWT)
    (first, second) = exchange.faults.inject("lost", count=2)
    exchange.change(NEWT, "yes", 4_000, 1)
    assert ["unsubscribed"] == [frame["type"] for frame in watcher.ask("unsubscribe", 2, sids=[1])]
    assert (True, None) == (first.done_us is not None, first.exposed_us)
    assert second.done_us is None


def test_a_stall_holds_everything_back_for_a_while() -> None:
    """Nothing is given out, then all of it, in order."""
    exchange = venue()
    exchange.create(NEWT)
    exchange.advance(START_US)
    watcher = Watcher(exchange)
    watcher.ask("subscribe", channels=["orderbook_delta"], market_ticker=NEWT)
    exchange.faults.inject("stall", duration_ms=1_000)
    for _ in range(3):
        exchange.change(NEWT, "yes", 4_000, 1)
    assert [] == watcher.hear()
    exchange.advance(START_US + 999_000)
    assert [] == watcher.hear()
    exchange.advance(START_US + 1_000_000)
    assert 3 == len(watcher.hear())
    assert sides_of(exchange.truth(NEWT)) == watcher.sides(NEWT)


@pytest.mark.parametrize(
    ("kind", "order"), [("cut", Order.CUT), ("closed", Order.CLOSE), ("half_open", Order.FREEZE)]
)
def test_faults_of_connections(kind: str, order: Order) -> None:
    """The session wants done to its connection what the fault says."""
    exchange = venue()
    watcher = Watcher(exchange)
    exchange.faults.inject(kind)
    assert order is watcher.session.order


@pytest.mark.parametrize(("kind", "code"), [("timeout", 18), ("market_limit", 26)])
def test_commands_are_refused_once(kind: str, code: int) -> None:
    """The next command gets the error and is not carried out, the one after is."""
    exchange = venue()
    exchange.create(NEWT)
    watcher = Watcher(exchange)
    exchange.faults.inject(kind)
    ask: dict[str, Any] = {"channels": ["orderbook_delta"], "market_ticker": NEWT}
    (error,) = watcher.ask("subscribe", 1, **ask)
    assert (1, code) == (error["id"], error["msg"]["code"])
    assert "subscribed" == watcher.ask("subscribe", 2, **ask)[0]["type"]


def test_a_limit_strikes_a_command_that_names_markets() -> None:
    """Error 26 waits for a command that it can be the answer to."""
    exchange = venue()
    exchange.create(NEWT)
    watcher = Watcher(exchange)
    exchange.faults.inject("market_limit")
    assert "ok" == watcher.ask("list_subscriptions")[0]["type"]
    (error,) = watcher.ask("subscribe", channels=["orderbook_delta"], market_ticker=NEWT)
    assert 26 == error["msg"]["code"]


def test_maintenance() -> None:
    """Trading stops and everybody is sent away; afterwards it goes on."""
    exchange = venue(messages_per_second=100)
    watcher = Watcher(exchange)
    exchange.advance(START_US + 1_000_000)
    exchange.faults.inject("maintenance", duration_ms=2_000)
    before = exchange.lives.steps
    assert (Order.CLOSE, 1012) == (watcher.session.order, watcher.session.closing[0])
    exchange.advance(START_US + 2_900_000)
    assert before == exchange.lives.steps
    assert exchange.faults.is_on(FaultKind.MAINTENANCE)
    exchange.advance(START_US + 5_000_000)
    assert before < exchange.lives.steps
    assert not exchange.faults.is_on(FaultKind.MAINTENANCE)


def test_nothing_goes_wrong_while_frozen() -> None:
    """No fault comes by itself, however long one waits; afterwards it goes on."""
    exchange = venue(messages_per_second=500, markets=5, short_lived=0.0, faults="lively", fault_every_s=0.1)
    watcher = Watcher(exchange, trusting=True)
    watcher.ask("subscribe", channels=["trade"])
    exchange.advance(START_US + 2_000_000)
    before = (exchange.lives.steps, len(exchange.ledger))
    assert all(before)

    exchange.freeze()
    exchange.advance(START_US + 60_000_000)
    assert before == (exchange.lives.steps, len(exchange.ledger))
    exchange.thaw()
    exchange.advance(START_US + 70_000_000)
    assert before < (exchange.lives.steps, len(exchange.ledger))


def test_nobody_to_harm() -> None:
    """A fault for a connection or a subscription needs one."""
    exchange = venue()
    with pytest.raises(NothingToHarm):
        exchange.faults.inject("cut")
    watcher = Watcher(exchange)
    with pytest.raises(NothingToHarm):
        exchange.faults.inject("lost")
    watcher.ask("subscribe", channels=["trade"])
    with pytest.raises(NothingToHarm):
        exchange.faults.inject("lost", channel="orderbook_delta")
    exchange.faults.inject("lost", connection=watcher.session.number, sid=1)
    with pytest.raises(ValueError, match="nonsense"):
        exchange.faults.inject("nonsense")


class Detective:
    """Finds faults from what it is sent, by the exchange's own rules, and repairs its books."""

    def __init__(self, exchange: Venue, tickers: list[str]) -> None:
        self.session = exchange.connect()
        self.tickers = tickers
        self.expected = 1
        self.found: list[tuple[str, int]] = []
        self.books: dict[str, dict[tuple[str, str], int]] = {}
        self._say("subscribe", channels=["orderbook_delta"], market_tickers=tickers)

    def _say(self, cmd: str, **params: Any) -> None:
        self.session.receive(json.dumps({"id": 1, "cmd": cmd, "params": params}))

    def look(self) -> None:
        for payload in split(self.session.take(1 << 30)):
            frame = json.loads(payload)
            if "seq" in frame:
                self._count(frame)

    def _count(self, frame: dict[str, Any]) -> None:
        seq = frame["seq"]
        if seq == self.expected - 1:
            self.found.append(("doubled", seq))
            return
        if seq > self.expected:
            self.found.append(("gap", self.expected))
            self._repair(self.tickers)
        elif seq < self.expected:
            self.found.append(("back", seq))
            self._repair(self.tickers)
            if seq != 1:
                return  # a frame that came late, not a counter that began anew
        self.expected = seq + 1
        self._apply(frame)

    def _repair(self, tickers: list[str]) -> None:
        for ticker in tickers:
            self.books.pop(ticker, None)
        self._say("update_subscription", sid=1, action="get_snapshot", market_tickers=tickers)

    def _apply(self, frame: dict[str, Any]) -> None:
        message = frame["msg"]
        if frame["type"] == "orderbook_snapshot":
            self.books[message["market_ticker"]] = {
                (side, price): int(size.replace(".", ""))
                for side in ("yes", "no")
                for price, size in message.get(f"{side}_dollars_fp", [])
            }
        elif frame["type"] == "orderbook_delta" and message["market_ticker"] in self.books:
            book, place = self.books[message["market_ticker"]], (message["side"], message["price_dollars"])
            size = book.pop(place, 0) + int(message["delta_fp"].replace(".", ""))
            if size < 0:
                self.found.append(("impossible", frame["seq"]))
                self._repair([message["market_ticker"]])
            elif size:
                book[place] = size


def test_a_campaign_is_found_without_a_miss() -> None:
    """What a careful client finds is what was injected, fault for fault, and its books are true again."""
    options: dict[str, Any] = {"faults": "campaign", "fault_count": 60, "fault_span": 20_000, "fault_seed": 3}
    limits: dict[str, Any] = {"subscription_commands_per_second": 1_000}
    exchange = venue(markets=8, messages_per_second=1_000, **options, **limits)
    tickers = [market.ticker for market in exchange.model.held()]
    detective = Detective(exchange, tickers)
    for step in range(1, 600):
        exchange.advance(START_US + step * 50_000)
        detective.look()

    faults = list(exchange.ledger)
    assert 60 == len(faults)
    assert all(fault.kind in FRAME_FAULTS and fault.exposed_us is not None for fault in faults)
    expected: list[tuple[str, int]] = []
    for fault in faults:
        assert fault.seq is not None
        if fault.kind is FaultKind.LOST:
            expected.append(("gap", fault.seq))
        elif fault.kind is FaultKind.REORDERED:
            expected += [("gap", fault.seq), ("back", fault.seq)]
        elif fault.kind is FaultKind.COUNTER_RESET:
            expected.append(("back", 1))
        else:
            expected.append(("doubled" if fault.kind is FaultKind.DOUBLED else "impossible", fault.seq))
    assert expected == detective.found
    assert 5 == len({fault.kind for fault in faults})
    for ticker in tickers:
        book = sides_of(exchange.truth(ticker))
        assert detective.books[ticker] == {
            (side, f"0.{price:04d}"): size for side, levels in book.items() for price, size in levels.items()
        }


def test_the_same_seed_does_the_same_harm() -> None:
    """Two exchanges with equal options do equal things to equal clients."""

    def run(seed: int) -> list[tuple[str, int | None]]:
        exchange = venue(
            markets=4,
            messages_per_second=500,
            faults="campaign",
            fault_count=20,
            fault_span=4_000,
            fault_seed=seed,
        )
        watcher = Watcher(exchange, trusting=True)
        tickers = [market.ticker for market in exchange.model.held()]
        watcher.ask("subscribe", channels=["orderbook_delta"], market_tickers=tickers)
        exchange.advance(START_US + 20_000_000)
        return [(fault.kind.value, fault.seq) for fault in exchange.ledger]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_lively_does_something_every_few_seconds() -> None:
    """Over ten minutes there are about as many faults as asked for, of many kinds."""
    exchange = venue(markets=4, messages_per_second=50, faults="lively", fault_every_s=2)
    for step in range(1, 1_200):
        if not exchange.sessions:
            watcher = Watcher(exchange, trusting=True)
            tickers = [market.ticker for market in exchange.model.held()]
            watcher.send("subscribe", channels=["orderbook_delta"], market_tickers=tickers)
        exchange.advance(START_US + step * 500_000)
        for session in tuple(exchange.sessions.values()):
            session.take(1 << 30)
            if session.order is not None or not session.subscriptions:
                exchange.disconnect(session)
    assert 150 < exchange.ledger.done.total() < 450
    assert 10 <= len(exchange.ledger.done)


def test_kinds_of_a_schedule_can_be_chosen() -> None:
    """A schedule takes the kinds that were asked for, and no others."""
    exchange = venue(
        faults="campaign",
        fault_count=5,
        fault_span=50,
        fault_kinds=(FaultKind.LOST,),
        messages_per_second=100,
    )
    watcher = Watcher(exchange, trusting=True)
    tickers = [market.ticker for market in exchange.model.held()]
    watcher.ask("subscribe", channels=["orderbook_delta"], market_tickers=tickers)
    exchange.advance(START_US + 5_000_000)
    assert {"lost": 5} == exchange.ledger.done
