"""The registry: which markets exist, from lists, messages, names and time."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from kalshibook.gather.registry import (
    MarketAdded,
    MarketChanged,
    MarketRegistry,
    MarketRemoved,
    RegistryEvent,
)
from kalshibook.wire import MarketLifecycle
from kalshibook.wire.rest import Listing

S = 1_000_000
NOW = 1_785_931_200 * S
SOON, LATER = NOW + 600 * S, NOW + 3_600 * S


def listing(
    ticker: str = "A", status: str = "active", open_us: int | None = NOW - S, close_us: int | None = LATER
) -> Listing:
    """Return a market as REST lists it."""
    return Listing(ticker, "E", status, open_us, close_us, ticker.startswith("KXMVE"))


def message(event_type: str, ticker: str = "A", **fields: Any) -> MarketLifecycle:
    """Return a lifecycle message."""
    values: dict[str, Any] = dict.fromkeys(MarketLifecycle.__struct_fields__)
    combo = ticker.startswith("KXMVE")
    values |= {
        "ticker": ticker,
        "event_type": event_type,
        "channel": "multivariate_market_lifecycle" if combo else "market_lifecycle_v2",
        "body": b"{}",
    }
    return MarketLifecycle(**(values | fields))


def filled(*listings: Listing, **options: Any) -> MarketRegistry:
    """Return a registry that has seen a sweep."""
    registry = MarketRegistry(**options)
    registry.begin_sweep()
    registry.apply_page(listings or [listing()], asked_us=NOW, now_us=NOW)
    return registry


def unseen(registry: MarketRegistry) -> list[str]:
    """Return what the present sweep has not listed."""
    return [ticker for piece in registry.unseen() for ticker in piece]


def test_page_adds_markets_once() -> None:
    """What is listed is added in its order; listed again, nothing happens; what is over is not taken."""
    registry = MarketRegistry()
    registry.begin_sweep()
    page = [listing("A"), listing("KXMVE-1"), listing("OVER", "finalized"), listing("SHUT", close_us=NOW)]

    first = registry.apply_page(page, asked_us=NOW, now_us=NOW)
    second = registry.apply_page(page, asked_us=NOW, now_us=NOW + S)

    assert [MarketAdded("A", is_combo=False), MarketAdded("KXMVE-1", is_combo=True)] == first
    assert [] == second
    assert ["A", "KXMVE-1"] == list(registry)
    assert ("active", LATER, NOW - S) == (
        registry.status("A"),
        registry.close_us("A"),
        registry.open_us("A"),
    )
    assert registry.is_combo("KXMVE-1")
    assert 1 == registry.statistics().combos


def test_opens_and_closes_by_the_clock() -> None:
    """Nobody sends a message at open and close time; the book drains for a while, then the market goes."""
    registry = filled(listing("A", "initialized", open_us=SOON), linger_us=60 * S)

    assert SOON == registry.next_due_us()
    assert [] == registry.advance(now_us=SOON - 1)
    assert [MarketChanged("A", "status", "active")] == registry.advance(now_us=SOON)
    assert [MarketChanged("A", "status", "closed")] == registry.advance(now_us=LATER)
    assert [] == registry.advance(now_us=LATER + 60 * S - 1)
    assert [MarketRemoved("A", "closed")] == registry.advance(now_us=LATER + 60 * S)
    assert registry.next_due_us() is None
    assert 0 == len(registry)


def test_long_sleep_is_caught_up_in_order() -> None:
    """A clock that jumps over everything lets everything happen, each market's steps in their order."""
    registry = filled(listing("A", "initialized", open_us=SOON), listing("B", close_us=SOON), linger_us=S)

    events = registry.advance(now_us=LATER + 10 * S)

    assert [MarketRemoved("B", "closed")] == [
        event for event in events if event.ticker == "B" and isinstance(event, MarketRemoved)
    ]
    assert ["closed", "closed"] == [event.status for event in events if isinstance(event, MarketChanged)]
    assert 0 == len(registry)


def test_created_is_gathered_before_rest_knows_it() -> None:
    """Its times come with the message; REST's 404 is tolerated for a while, then it was no market."""
    registry = filled(patience_us=300 * S)
    created = message("created", "NEW", open_us=SOON, close_us=LATER, event_ticker="E")

    added = registry.apply_lifecycle(created, now_us=NOW)
    early = registry.apply_check("NEW", None, asked_us=NOW + 100 * S, now_us=NOW + 100 * S)

    assert [MarketAdded("NEW", is_combo=False)] == added
    assert ("initialized", SOON) == (registry.status("NEW"), registry.open_us("NEW"))
    assert [] == early
    assert [] == registry.take_checks(10, now_us=NOW + 159 * S)
    assert ["NEW"] == registry.take_checks(10, now_us=NOW + 160 * S)
    late = registry.apply_check("NEW", None, asked_us=NOW + 301 * S, now_us=NOW + 301 * S)
    assert [MarketRemoved("NEW", "gone")] == late


def test_market_that_rest_knows_now_needs_no_patience() -> None:
    """Once confirmed, a later 404 means that it is gone."""
    registry = filled(patience_us=3_600 * S)
    registry.apply_lifecycle(message("created", "NEW", close_us=LATER), now_us=NOW)
    registry.apply_page([listing("NEW")], asked_us=NOW + 60 * S, now_us=NOW + 60 * S)

    gone = registry.apply_check("NEW", None, asked_us=NOW + 120 * S, now_us=NOW + 120 * S)

    assert [MarketRemoved("NEW", "gone")] == gone


def test_pause_and_resumption() -> None:
    """Told by messages; an unknown word of REST is a state in which the market is gathered on."""
    registry = filled()

    assert [MarketChanged("A", "status", "inactive")] == registry.apply_lifecycle(
        message("deactivated"), now_us=NOW
    )
    assert [MarketChanged("A", "status", "active")] == registry.apply_lifecycle(
        message("activated"), now_us=NOW + S
    )
    assert [MarketChanged("A", "status", "halted")] == registry.apply_page(
        [listing(status="halted")], asked_us=NOW + 60 * S, now_us=NOW + 60 * S
    )
    assert {"halted": 1} == registry.statistics().statuses


def test_close_moves() -> None:
    """Earlier, it closes at once; later again, it waits for its activation; timers follow."""
    registry = filled(linger_us=600 * S)

    early = registry.apply_lifecycle(message("close_date_updated", close_us=NOW), now_us=NOW)
    again = registry.apply_lifecycle(message("close_date_updated", close_us=LATER), now_us=NOW + S)
    active = registry.apply_lifecycle(message("activated"), now_us=NOW + 2 * S)

    assert ["closed"] == [event.status for event in early if event.change == "status"]  # type: ignore[union-attr]
    assert [("close", "closed"), ("status", "inactive")] == [
        (event.change, event.status)  # type: ignore[union-attr]
        for event in again
    ]
    assert [MarketChanged("A", "status", "active")] == active
    assert [] == registry.advance(now_us=LATER - 1)
    assert [MarketChanged("A", "status", "closed")] == registry.advance(now_us=LATER)


@pytest.mark.parametrize("event_type", ["determined", "settled"])
def test_market_that_is_decided_goes(event_type: str) -> None:
    """A result ends it at once; a late answer of a cache does not bring it back, a later list does."""
    registry = filled()

    gone = registry.apply_lifecycle(message(event_type, result="yes"), now_us=NOW + 30 * S)

    assert [MarketRemoved("A", event_type)] == gone  # type: ignore[arg-type]
    assert [] == registry.apply_page([listing()], asked_us=NOW + 40 * S, now_us=NOW + 41 * S)
    assert [MarketAdded("A", is_combo=False)] == registry.apply_page(
        [listing()], asked_us=NOW + 60 * S, now_us=NOW + 61 * S
    )


def test_list_does_not_undo_a_message() -> None:
    """An answer that may have been made before the message does not count; a later one does."""
    registry = filled()
    registry.apply_lifecycle(message("deactivated"), now_us=NOW + 30 * S)

    old = registry.apply_page([listing()], asked_us=NOW + 45 * S, now_us=NOW + 46 * S)
    new = registry.apply_page([listing()], asked_us=NOW + 60 * S, now_us=NOW + 61 * S)

    assert [] == old
    assert [MarketChanged("A", "status", "active")] == new


def test_grid_and_metadata_are_told() -> None:
    """Whoever keeps descriptions learns that they changed."""
    registry = filled()

    told = [
        *registry.apply_lifecycle(message("price_level_structure_updated"), now_us=NOW),
        *registry.apply_lifecycle(message("metadata_updated"), now_us=NOW),
    ]

    assert [MarketChanged("A", "grid", "active"), MarketChanged("A", "metadata", "active")] == told


def test_sweep_finds_what_left_the_lists() -> None:
    """A market that a whole sweep did not list is asked for by name: only what is over goes."""
    registry = filled(listing("A"), listing("B"), listing("C"))
    registry.begin_sweep()
    registry.apply_page([listing("A")], asked_us=NOW + 60 * S, now_us=NOW + 60 * S)
    registry.apply_lifecycle(message("created", "NEW", close_us=LATER), now_us=NOW + 61 * S)

    missing = unseen(registry)
    events = [
        *registry.apply_check("B", listing("B"), asked_us=NOW + 62 * S, now_us=NOW + 62 * S),
        *registry.apply_check("C", listing("C", "finalized"), asked_us=NOW + 62 * S, now_us=NOW + 62 * S),
    ]

    assert ["B", "C"] == missing
    assert [MarketRemoved("C", "finalized")] == events
    assert [] == unseen(registry)
    assert ["A", "B", "NEW"] == sorted(registry)


def test_message_about_a_market_that_is_not_here() -> None:
    """It is asked for by name when it might be ours; its end needs no question."""
    registry = filled(may_admit=lambda ticker: ticker != "FOREIGN", admits=lambda one: one.ticker != "NOT")
    for event_type in ("activated", "close_date_updated", "metadata_updated", "deactivated", "settled"):
        registry.apply_lifecycle(message(event_type, f"X-{event_type}"), now_us=NOW)
    registry.apply_lifecycle(message("activated", "FOREIGN"), now_us=NOW)

    assert ["X-activated", "X-close_date_updated", "X-metadata_updated"] == registry.take_checks(
        10, now_us=NOW
    )
    assert [] == registry.take_checks(10, now_us=NOW)
    assert [] == registry.apply_check("NOT", listing("NOT"), asked_us=NOW, now_us=NOW)
    assert [MarketAdded("X-activated", is_combo=False)] == registry.apply_check(
        "X-activated", listing("X-activated"), asked_us=NOW, now_us=NOW
    )


def test_closed_market_lingers_once() -> None:
    """REST's own close time, still ahead, does not prolong the life of a market that it calls closed."""
    registry = filled(linger_us=60 * S)
    closed = listing(status="closed")

    first = registry.apply_check("A", closed, asked_us=NOW + 30 * S, now_us=NOW + 30 * S)
    second = registry.apply_check("A", closed, asked_us=NOW + 80 * S, now_us=NOW + 80 * S)

    assert [MarketChanged("A", "status", "closed")] == first
    assert [] == second
    assert [MarketRemoved("A", "closed")] == registry.advance(now_us=NOW + 90 * S)


def test_no_more_than_the_most() -> None:
    """A full registry refuses and counts; room that comes free is used."""
    registry = filled(listing("A"), listing("B"), listing("C"), most=2)

    assert (["A", "B"], 1) == (list(registry), registry.statistics().total_refused)
    registry.apply_lifecycle(message("settled", "A"), now_us=NOW)
    registry.apply_page([listing("C")], asked_us=NOW, now_us=NOW)
    assert ["B", "C"] == sorted(registry)


def test_number_used_again_has_no_past() -> None:
    """A market that takes the place of another is not taken for one that a message touched."""
    registry = filled()
    for event_type in ("deactivated", "settled"):
        registry.apply_lifecycle(message(event_type), now_us=NOW)
    registry.apply_page([listing("B")], asked_us=NOW, now_us=NOW)

    changed = registry.apply_page([listing("B", "inactive")], asked_us=NOW, now_us=NOW)

    assert [MarketChanged("B", "status", "inactive")] == changed


def test_timers_stay_bounded() -> None:
    """A close time that moves a thousand times leaves no thousand timers."""
    registry = filled()

    for step in range(10_000):
        registry.apply_lifecycle(message("close_date_updated", close_us=LATER + step * S), now_us=NOW)

    assert 2_000 > len(registry._timers)
    assert LATER + 9_999 * S in {timer >> 24 for timer in registry._timers}


def test_memory_is_a_quarter_of_a_kilobyte_each() -> None:
    """Measured over what it really holds, with names as long as the exchange's."""
    registry = MarketRegistry()
    registry.begin_sweep()
    page = [listing(f"KXGOLD15M-26AUG050000-T{number:06}.99") for number in range(20_000)]
    registry.apply_page(page, asked_us=NOW, now_us=NOW)

    assert 300 > registry.statistics().bytes_per_market > 100


# The plain model: the same rules over a dict of dicts, without columns, timers or reuse of numbers.


class Model:
    """What the registry should hold."""

    OVER = ("determined", "disputed", "amended", "finalized")
    NEVER = 2**62

    def __init__(self, linger_us: int, patience_us: int) -> None:
        self.markets: dict[str, dict[str, Any]] = {}
        self.graves: dict[str, int] = {}
        self.linger_us = linger_us
        self.patience_us = patience_us
        self.sweep = 0

    def by_time(self, status: str, market: dict[str, Any], now: int) -> str:
        """Let time act."""
        if status == "initialized" and market["open"] <= now:
            status = "active"
        return "closed" if market["close"] <= now and status not in self.OVER else status

    def settle(self, ticker: str, status: str, now: int) -> None:
        """Put into a status."""
        market = self.markets[ticker]
        status = self.by_time(status, market, now)
        if status in self.OVER:
            self.bury(ticker, now)
            return
        if status == "closed":
            market["close"] = min(market["close"], now)
        market["status"] = status
        if status == "closed" and market["close"] + self.linger_us <= now:
            self.bury(ticker, now)

    def bury(self, ticker: str, now: int) -> None:
        """Take out."""
        self.markets.pop(ticker, None)
        self.graves[ticker] = now

    def page(self, one: Listing, asked: int, now: int) -> None:
        """Take a listing."""
        times = {
            "open": self.NEVER if one.open_us is None else one.open_us,
            "close": self.NEVER if one.close_us is None else one.close_us,
        }
        market = self.markets.get(one.ticker)
        if market is None:
            if self.graves.get(one.ticker, -self.NEVER) > asked - 20 * S:
                return
            status = self.by_time(one.status, times, now)
            if status != "closed" and status not in self.OVER:
                self.markets[one.ticker] = {
                    **times,
                    "status": status,
                    "touched": 0,
                    "seen": self.sweep,
                    "new": False,
                }
            return
        market["seen"], market["new"] = self.sweep, False
        if market["touched"] > asked - 20 * S or one.status == "closed" == market["status"]:
            return
        market |= times
        self.settle(one.ticker, one.status, now)

    def check(self, ticker: str, one: Listing | None, now: int) -> None:
        """Take an answer about one market."""
        market = self.markets.get(ticker)
        if one is not None:
            self.page(one, now, now)
        elif market is not None:
            young = market["new"] and now - market["touched"] < self.patience_us
            if not young and market["touched"] <= now - 20 * S:
                self.bury(ticker, now)

    def lifecycle(self, event: MarketLifecycle, now: int) -> None:
        """Take a message."""
        market = self.markets.get(event.ticker)
        close = self.NEVER if event.close_us is None else event.close_us
        opens = self.NEVER if event.open_us is None else event.open_us
        if event.event_type in ("determined", "settled"):
            self.bury(event.ticker, now)
        elif market is None:
            if event.event_type == "created":
                times = {"open": opens, "close": close}
                status = self.by_time("initialized", times, now)
                if status != "closed":
                    self.graves.pop(event.ticker, None)
                    self.markets[event.ticker] = {
                        **times,
                        "status": status,
                        "touched": now,
                        "seen": self.sweep,
                        "new": True,
                    }
            elif event.event_type != "deactivated":
                self.graves.pop(event.ticker, None)
        else:
            market["touched"] = now
            status = market["status"]
            if event.event_type == "created":
                market["open"], market["close"] = opens, close
            elif event.event_type == "activated":
                status = "active"
            elif event.event_type == "deactivated":
                status = "inactive"
            elif event.event_type == "close_date_updated" and event.close_us is not None:
                market["close"] = close
                if status == "closed" and close > now:
                    status = "inactive"
            self.settle(event.ticker, status, now)

    def advance(self, now: int) -> None:
        """Let time pass."""
        for ticker, market in list(self.markets.items()):
            self.settle(ticker, market["status"], now)


TICKERS = st.sampled_from(["A", "B", "C", "KXMVE-D"])
# Times from before the beginning to after the end of the story, and none.
TIMES = st.one_of(st.none(), st.integers(-100, 1_000).map(lambda s: NOW + s * S))
LISTINGS = st.builds(
    listing,
    TICKERS,
    st.sampled_from(["initialized", "active", "inactive", "closed", "determined", "finalized"]),
    TIMES,
    TIMES,
)
EVENTS = st.builds(
    lambda kind, ticker, opens, closes: message(kind, ticker, open_us=opens, close_us=closes),
    st.sampled_from(
        [
            "created",
            "activated",
            "deactivated",
            "close_date_updated",
            "determined",
            "settled",
            "metadata_updated",
        ]
    ),
    TICKERS,
    TIMES,
    TIMES,
)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.one_of(
            st.tuples(st.just("page"), st.lists(LISTINGS, max_size=4)),
            st.tuples(st.just("lifecycle"), EVENTS),
            st.tuples(st.just("check"), st.tuples(TICKERS, st.one_of(st.none(), LISTINGS))),
            st.tuples(st.just("sweep"), st.none()),
            st.tuples(st.just("time"), st.none()),
        ),
    ),
    max_size=40,
)


def follow(held: dict[str, str], events: Iterable[RegistryEvent]) -> None:
    """Do what the events say, as a consumer does, and refuse what makes no sense."""
    for event in events:
        if isinstance(event, MarketAdded):
            assert event.ticker not in held
            held[event.ticker] = "?"
        elif isinstance(event, MarketRemoved):
            del held[event.ticker]
        else:
            held[event.ticker] = event.status


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_holds_what_a_plain_model_holds(steps: list[tuple[int, tuple[str, Any]]]) -> None:
    """Whatever comes in whatever order: columns, timers and reused numbers equal a dict of dicts."""
    registry = MarketRegistry(linger_us=50 * S, patience_us=120 * S)
    model = Model(50 * S, 120 * S)
    held: dict[str, str] = {}
    now = NOW
    for seconds, (kind, what) in steps:
        now += seconds * S
        if kind == "page":
            follow(held, registry.apply_page(what, asked_us=now, now_us=now))
            for one in what:
                model.page(one, now, now)
        elif kind == "lifecycle":
            follow(held, registry.apply_lifecycle(what, now_us=now))
            model.lifecycle(what, now)
        elif kind == "check":
            ticker, one = what
            one = None if one is None else listing(ticker, one.status, one.open_us, one.close_us)
            follow(held, registry.apply_check(ticker, one, asked_us=now, now_us=now))
            model.check(ticker, one, now)
        elif kind == "sweep":
            missing = set(unseen(registry))
            assert {name for name, one in model.markets.items() if one["seen"] < model.sweep} == missing
            model.sweep = registry.begin_sweep()
        else:
            follow(held, registry.advance(now_us=now))
            model.advance(now)

        assert sorted(model.markets) == sorted(held) == sorted(registry)
        statuses = {name: one["status"] for name, one in model.markets.items()}
        assert statuses == {name: registry.status(name) for name in registry}
        assert all(known in ("?", statuses[name]) for name, known in held.items())
        closes = {name: one["close"] for name, one in model.markets.items()}
        assert closes == {name: registry.close_us(name) or 2**62 for name in registry}
        found = registry.statistics()
        assert len(held) == found.markets == sum(found.statuses.values())
        assert sum(name.startswith("KXMVE") for name in held) == found.combos
        assert found.total_added - sum(found.total_removed.values()) == len(held)
