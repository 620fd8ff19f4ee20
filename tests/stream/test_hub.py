"""The hub: many clients, one that never reads, and what is counted."""

import tracemalloc

import pytest

from kalshibook.store import Change
from kalshibook.stream.hub import HubFull
from kalshibook.stream.publish import Publisher
from tests.store.builders import lifecycle, trade
from tests.stream.stage import T40, T45, Stage, held_books

CHANNELS = ["orderbook_delta", "top_of_book", "ticker", "trade", "market_lifecycle_v2"]


def test_connection_limit() -> None:
    """One client more than allowed is refused and counted; one that leaves makes room."""
    stage = Stage(max_connections=2)
    first, _ = stage.connect(), stage.connect()
    with pytest.raises(HubFull) as refusal:
        stage.connect()
    assert 2 == refusal.value.limit
    assert (2, 1) == (stage.hub.statistics().clients, stage.hub.statistics().refused)
    stage.hub.disconnect(first.client)
    stage.connect()


def test_without_clients_nothing_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that serves nobody looks at no change, but remembers whether the store is behind."""
    stage = Stage()
    handed: list[Change] = []
    monkeypatch.setattr(Publisher, "change", lambda _self, change, _now_us: handed.append(change))
    with stage.store.writer() as writer:
        writer.set_ready(False)
    stage.script.snapshot({4_000: 100}, {})
    stage.deliver()
    behind = stage.hub.is_behind
    with stage.store.writer() as writer:
        writer.set_ready(True)
    stage.deliver()
    assert (True, False, []) == (behind, stage.hub.is_behind, handed)

    stage.connect()
    stage.script.delta("yes", 4_000, 100)
    stage.deliver()

    assert 1 == len(handed)


def test_a_hub_that_is_behind_hands_out_a_state_a_market() -> None:
    """However many changes wait, what conflates costs each client one item a market, and deltas one each."""
    stage = Stage()
    for ticker in (T40, T45):
        stage.script.snapshot({4_000: 100}, {}, ticker=ticker)
    stage.deliver()
    tops, deltas = [stage.connect() for _ in range(5)], stage.connect()
    for user in tops:
        user.ask("subscribe", channels=["top_of_book"])
    deltas.ask("subscribe", channels=["orderbook_delta"], market_ticker=T40)
    before = stage.hub.statistics()
    for _ in range(200):
        for ticker in (T40, T45):
            stage.script.delta("yes", 4_000, 1, ticker=ticker)
    stage.deliver()
    after = stage.hub.statistics()

    assert 5 * 2 + 200 == after.routed - before.routed
    assert 5 * 2 * 199 == after.conflated - before.conflated
    for user in tops:
        frames = [frame["msg"] for frame in user.hear()]
        assert [200, 200] == [frame["merged"] for frame in frames]
        assert ["3.00", "3.00"] == [frame["yes_bid_size_fp"] for frame in frames]
    assert 200 == len(deltas.hear())


def test_who_subscribes_between_is_told_of_later_changes_only() -> None:
    """A state that was folded before a client came stands for what it did not see, and for no more."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {})
    stage.deliver()
    early, late = stage.connect(), stage.connect()
    early.ask("subscribe", channels=["top_of_book"])
    for _ in range(3):
        stage.script.delta("yes", 4_000, 10)
    late.ask("subscribe", channels=["top_of_book"])
    for _ in range(2):
        stage.script.delta("yes", 4_000, 10)
    stage.deliver()

    assert [(5, "1.50")] == [
        (frame["msg"]["merged"], frame["msg"]["yes_bid_size_fp"]) for frame in early.hear()
    ]
    assert [(2, "1.50")] == [
        (frame["msg"]["merged"], frame["msg"]["yes_bid_size_fp"]) for frame in late.hear()
    ]


def test_statistics() -> None:
    """Every count moves when its thing happens."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {})
    stage.deliver()
    user = stage.connect()
    user.send("subscribe", channels=["orderbook_delta", "trade"], market_ticker=T40)
    user.send("nonsense")
    before = stage.hub.statistics()
    assert {
        **dict.fromkeys(before.subscriptions, 0),
        "orderbook_delta": 1,
        "trade": 1,
    } == before.subscriptions
    assert (1, 2, 4, 2, {5: 1}) == (
        before.clients,
        before.routes,
        before.waiting,
        before.commands,
        before.errors,
    )
    user.hear()
    stage.script.delta("yes", 4_000, 1)
    stage.script.apply(trade())
    stage.deliver()
    user.hear()
    after = stage.hub.statistics()
    assert (2, 6, 0) == (after.routed, after.frames, after.waiting)
    assert after.bytes > before.bytes


def test_a_client_that_never_reads() -> None:
    """What a silent client makes us hold does not grow with what happens; others get everything."""
    stage = Stage(depth_backlog=50, notice_backlog=50)
    for ticker in (T40, T45):
        stage.script.snapshot({4_000: 100}, {5_000: 100}, ticker=ticker)
    stage.deliver()
    stuck, quick = stage.connect(), stage.connect()
    for user in (stuck, quick):
        user.send("subscribe", channels=CHANNELS, market_tickers=[T40, T45])
    quick.hear()

    def round_of_changes(first: int) -> None:
        for n in range(first, first + 200):
            stage.script.delta("yes", 4_000 + n % 3 * 100, 1 + n % 7, ticker=(T40, T45)[n % 2])
            stage.script.apply(trade(f"t{n}", price=1 + n % 99, ticker=T40))
            stage.script.apply(lifecycle("metadata_updated", title=f"{n}"))
            stage.deliver()
            quick.hear()
            quick.heard.clear()

    round_of_changes(0)
    held = stage.hub.statistics().waiting
    assert held <= 5 + 2 * 3 + 50
    round_of_changes(200)
    assert held == stage.hub.statistics().waiting
    assert {"trade": 1, "market_lifecycle_v2": 1} == {
        name: stage.hub.statistics().subscriptions[name] for name in ("trade", "market_lifecycle_v2")
    }
    assert 400 == quick.deltas
    assert held_books(stage.store) == quick.books
    stuck.hear()
    assert held_books(stage.store) == stuck.books
    assert {4: -1, 5: -1} == {sid: seq for sid, seq in stuck.seqs.items() if sid in (4, 5)}


def test_memory_of_a_client_that_never_reads() -> None:
    """In bytes: after its bounds are reached, thousands of further changes cost a stuck client nothing."""
    stage = Stage(depth_backlog=100, notice_backlog=100)
    stage.script.snapshot({4_000: 100}, {})
    stage.deliver()
    stuck = stage.connect()
    stuck.send("subscribe", channels=CHANNELS, market_tickers=[T40])
    changes = []
    for n in range(1_500):
        stage.script.delta("yes", 4_000, 1)
        stage.script.apply(trade(f"t{n}"))
        batch = stage.reader.take_nowait()
        assert batch is not None
        changes.append(batch)
    for batch in changes[:500]:
        stage.hub.deliver(batch, stage.now_us)
        assert 2 == sum(stage.hub.hand_out(1_000))  # a top and a ticker
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for batch in changes[500:]:
            stage.hub.deliver(batch, stage.now_us)
            assert 2 == sum(stage.hub.hand_out(1_000))  # a top and a ticker
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 16_384


def test_nothing_is_left_when_all_are_gone() -> None:
    """After every client has gone, however it went, no route and nothing that waits remains."""
    stage = Stage(reply_backlog_bytes=1)
    stage.script.snapshot({4_000: 100}, {})
    users = [stage.connect() for _ in range(4)]
    for user in users:
        user.send("subscribe", channels=CHANNELS, market_tickers=[T40, "KXNONE"], market_prefixes=["KXF"])
    users[0].hear()
    users[0].ask("unsubscribe", sids=[1, 2, 3, 4, 5])
    users[1].send("list_subscriptions")
    assert users[1].client.closing is not None
    stage.deliver()
    for user in users:
        stage.hub.disconnect(user.client)
    statistics = stage.hub.statistics()
    assert (0, 0, 0) == (statistics.clients, statistics.routes, statistics.waiting)
    assert not any(statistics.subscriptions.values())
