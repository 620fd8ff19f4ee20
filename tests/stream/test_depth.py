"""Full depth: snapshot and deltas without hole or double, whatever is late, dropped or in doubt."""

import json
from typing import Any

import pytest

from kalshibook.store import Change, ChangeBatch
from tests.store.builders import trade
from tests.stream.stage import PLENTY, T40, T45, Stage, User, held_books, split

DEPTH = "orderbook_delta"


def follow(stage: Stage, *tickers: str, **params: Any) -> User:
    """Return a client that holds these books."""
    user = stage.connect()
    user.send("subscribe", channels=[DEPTH], market_tickers=[*tickers], **params)
    user.yes_scale = params.get("use_yes_price") is True
    return user


def kinds(user: User) -> list[str]:
    """Take all there is and return the frames' types."""
    return [frame["type"].removeprefix("orderbook_") for frame in user.hear()]


def test_wire_of_a_snapshot_and_a_delta() -> None:
    """Frames are byte for byte as Kalshi writes them, but for our own numbers and times."""
    stage = Stage()
    stage.script.snapshot({4_000: 7_550, 3_800: 12_000}, {5_700: 1_025, 5_500: 6_000})
    user = follow(stage, T40)
    user.client.take(1, 0)
    snapshot = b'{"type":"orderbook_snapshot","sid":1,"seq":1,"sending_ts_ms":7,"msg":{"market_ticker":"%b",'
    snapshot += b'"market_id":"","yes_dollars_fp":[["0.3800","120.00"],["0.4000","75.50"]],'
    snapshot += b'"no_dollars_fp":[["0.5500","60.00"],["0.5700","10.25"]]}}'
    assert [snapshot % T40.encode()] == split(user.client.take(PLENTY, 7_999))
    stage.script.delta("no", 5_700, -1_025)
    stage.deliver()
    delta = b'{"type":"orderbook_delta","sid":1,"seq":2,"sending_ts_ms":8,"msg":{"market_ticker":"%b",'
    delta += b'"market_id":"","price_dollars":"0.5700","delta_fp":"-10.25","side":"no",'
    delta += b'"ts":"1970-01-01T00:00:05.000000Z","ts_ms":5000}}'
    assert [delta % T40.encode()] == split(user.client.take(PLENTY, 8_000))


def test_yes_scale() -> None:
    """With `use_yes_price` NO levels stand at YES prices, still ascending; the side stays `no`."""
    stage = Stage()
    stage.script.snapshot({3_800: 100}, {5_500: 6_000, 5_700: 1_025})
    user = follow(stage, T40, use_yes_price=True)
    _, snapshot = user.hear()
    assert [["0.4300", "10.25"], ["0.4500", "60.00"]] == snapshot["msg"]["no_dollars_fp"]
    stage.script.delta("no", 5_700, -25)
    stage.script.delta("yes", 3_800, 25)
    stage.deliver()
    assert [("0.4300", "no"), ("0.3800", "yes")] == [
        (frame["msg"]["price_dollars"], frame["msg"]["side"]) for frame in user.hear()
    ]
    assert held_books(stage.store) == user.books


def test_scale_by_default() -> None:
    """A setting flips the scale of those who do not say; who says is not affected."""
    stage = Stage(use_yes_price=True)
    stage.script.snapshot({}, {5_700: 100})
    assert [["0.4300", "1.00"]] == follow(stage, T40).hear()[1]["msg"]["no_dollars_fp"]
    pinned = follow(stage, T40, use_yes_price=False)
    assert [["0.5700", "1.00"]] == pinned.hear()[1]["msg"]["no_dollars_fp"]


def test_empty_sides_have_no_key() -> None:
    """A live book without levels is a snapshot without either key: empty, and known to be."""
    stage = Stage()
    stage.script.snapshot({}, {})
    _, snapshot = follow(stage, T40).hear()
    assert {"market_ticker": T40, "market_id": ""} == snapshot["msg"]


def test_changes_that_arrive_late() -> None:
    """Changes that the snapshot contains already are left out, however late they come."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {})
    stage.script.delta("yes", 4_000, 50)
    user = follow(stage, T40)
    assert ["subscribed", "snapshot"] == kinds(user)
    stage.script.delta("yes", 4_000, 7)
    stage.deliver()
    assert ["delta"] == kinds(user)
    assert held_books(stage.store) == user.books


def test_snapshot_is_made_when_it_is_written() -> None:
    """A snapshot that waited shows the newest book, and what it contains is not sent again."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {})
    stage.deliver()
    user = follow(stage, T40)
    stage.script.delta("yes", 4_000, 50)
    stage.deliver()
    stage.script.delta("yes", 4_000, 50)
    assert ["subscribed", "snapshot"] == kinds(user)
    stage.deliver()
    assert [] == kinds(user)
    assert {T40: ({4_000: 200}, {})} == user.books


def test_change_of_zero_and_trade_are_no_frames() -> None:
    """What changes no level is not sent; the snapshot that repeats a book neither."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {5_000: 100})
    stage.deliver()
    user = follow(stage, T40)
    user.hear()
    stage.script.delta("yes", 4_000, 0)
    stage.script.apply(trade())
    stage.script.snapshot({4_000: 100}, {5_000: 100})
    stage.deliver()
    assert [] == kinds(user)
    stage.script.snapshot({4_000: 100}, {5_000: 101})
    stage.deliver()
    assert ["snapshot"] == kinds(user)


def test_stale_book_is_silent_and_heals() -> None:
    """An impossible change stops a market's deltas; its next snapshot goes on with the sid's numbers."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {})
    stage.script.snapshot({4_000: 100}, {}, ticker=T45)
    user = follow(stage, T40, T45)
    user.hear()
    stage.script.delta("yes", 4_000, -500)
    stage.script.delta("yes", 4_000, 10)
    stage.script.delta("yes", 4_000, 10, ticker=T45)
    stage.deliver()
    assert [T45] == [frame["msg"]["market_ticker"] for frame in user.hear()]
    stage.script.snapshot({3_000: 700}, {})
    stage.script.delta("yes", 3_000, 10)
    stage.deliver()
    user.hear()
    assert held_books(stage.store) == user.books


def test_subscribed_while_stale() -> None:
    """A book in doubt is not sent; it is when healed, also when the heal was folded away."""
    stage = Stage()
    stage.script.snapshot({}, {})
    stage.script.delta("yes", 4_000, -500)
    user = follow(stage, T40)
    assert ["subscribed"] == kinds(user)
    stage.script.snapshot({}, {})
    batch = stage.reader.take_nowait()
    assert batch is not None
    live, _, healed = (change for change in batch.changes if isinstance(change, Change))
    # As a slow reader sees it: live before, live after, the same empty ladders, one change.
    stage.script.delta("yes", 4_000, 100)
    folded = Change(live.new, healed.new, None, 2, healed.version)
    stage.hub.deliver(ChangeBatch([folded], 1, 0), 0)
    assert ["snapshot"] == kinds(user)
    stage.deliver()
    assert held_books(stage.store) == user.books


def test_doubt_between_order_and_writing() -> None:
    """A snapshot that was ordered is not written from a book that has turned stale meanwhile."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {})
    stage.deliver()
    user = follow(stage, T40)
    stage.script.delta("yes", 4_000, -500)
    assert ["subscribed"] == kinds(user)
    stage.deliver()
    assert [] == kinds(user)
    stage.script.snapshot({4_000: 300}, {})
    stage.deliver()
    assert ["snapshot"] == kinds(user)
    assert held_books(stage.store) == user.books


def test_conflated_change_becomes_a_snapshot() -> None:
    """Changes that were folded before they came here cannot be sent as deltas; a fresh snapshot is."""
    stage = Stage()
    stage.reader.close()
    stage.reader = stage.store.changes(capacity=2)
    stage.script.snapshot({4_000: 100}, {})
    stage.deliver()
    user = follow(stage, T40)
    user.hear()
    for _ in range(5):
        stage.script.delta("yes", 4_000, 10)
    stage.deliver()
    stage.script.delta("yes", 4_000, 1)
    stage.deliver()
    assert ["snapshot"] == kinds(user), "it was written after the last delta, and contains it"
    assert {T40: ({4_000: 151}, {})} == user.books


def test_backlog_is_replaced_by_snapshots() -> None:
    """A client that falls behind gets one fresh snapshot per market that waited, with continued numbers."""
    stage = Stage(depth_backlog=10)
    for ticker in (T40, T45):
        stage.script.snapshot({4_000: 100}, {}, ticker=ticker)
    user = follow(stage, T40, T45)
    user.hear()
    for _ in range(10):
        stage.script.delta("yes", 4_000, 10)
    stage.deliver()
    assert ["delta"] * 10 == kinds(user)
    for _ in range(11):
        stage.script.delta("yes", 4_000, 10)
    stage.script.delta("yes", 4_000, 1, ticker=T45)
    stage.deliver()
    assert 2 == stage.hub.statistics().waiting
    assert ["snapshot", "delta"] == kinds(user)
    assert held_books(stage.store) == user.books
    assert (11, 1) == (stage.hub.statistics().conflated, stage.hub.statistics().snapshots_resent)


def test_overflow_can_end_the_subscription() -> None:
    """By setting, a client that falls behind gets error 25 with the sid's next number, then nothing."""
    stage = Stage(depth_backlog=3, depth_overflow="error")
    stage.script.snapshot({4_000: 100}, {})
    user = follow(stage, T40)
    user.hear()
    for _ in range(9):
        stage.script.delta("yes", 4_000, 10)
    stage.deliver()
    (frame,) = user.hear()
    assert ("error", 1, 2, 25) == (frame["type"], frame["sid"], frame["seq"], frame["msg"]["code"])
    assert (0, 1) == (stage.hub.statistics().routes, stage.hub.statistics().overflowed)
    frames = user.ask("subscribe", channels=[DEPTH], market_ticker=T40)
    assert [2, 1] == [frames[0]["msg"]["sid"], frames[1]["seq"]]


def test_get_snapshot_in_the_middle_of_deltas() -> None:
    """A snapshot on request tears nothing: deltas before and after it still add up."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {})
    user = follow(stage, T40)
    user.hear()
    stage.script.delta("yes", 4_000, 10)
    stage.deliver()
    user.send("update_subscription", 8, sid=1, action="get_snapshot", market_tickers=[T40])
    stage.script.delta("yes", 4_000, 10)
    stage.deliver()
    stage.script.delta("yes", 4_000, 10)
    frames = user.hear()
    assert [("orderbook_delta", None), ("orderbook_snapshot", 8)] == [
        (frame["type"], frame.get("id")) for frame in frames
    ]
    stage.script.delta("yes", 4_000, 10)
    stage.deliver()
    assert ["delta"] == kinds(user)
    assert held_books(stage.store) == user.books


def test_requests_survive_an_overflow() -> None:
    """Every `get_snapshot` is answered with its id, also when deltas overflow around it."""
    stage = Stage(depth_backlog=2)
    stage.script.snapshot({4_000: 100}, {})
    user = follow(stage, T40)
    user.hear()
    for n in range(6):
        user.send("update_subscription", 20 + n, sid=1, action="get_snapshot", market_tickers=[T40])
        stage.script.delta("yes", 4_000, 10)
        stage.deliver()
    assert [20, 21, 22, 23, 24, 25] == [frame["id"] for frame in user.hear() if "id" in frame]
    assert held_books(stage.store) == user.books


@pytest.mark.parametrize("yes_scale", [False, True])
def test_bodies_are_shared(yes_scale: bool) -> None:
    """A delta is encoded once: what waits for all clients is one object."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {})
    stage.deliver()
    users = [follow(stage, T40, use_yes_price=yes_scale) for _ in range(3)]
    for user in users:
        user.hear()
    stage.script.delta("yes", 4_000, 10)
    stage.deliver()
    waiting = [user.client.subscriptions[0]._queue[0] for user in users]  # type: ignore[attr-defined]
    assert 1 == len({id(item) for item in waiting})
    for user in users:
        (payload,) = split(user.client.take(PLENTY, 0))
        assert "0.10" == json.loads(payload)["msg"]["delta_fp"]


def test_doubt_after_an_overflow() -> None:
    """When the snapshot for dropped deltas cannot be written, no later delta is applied over the hole."""
    stage = Stage(depth_backlog=1)
    stage.script.snapshot({4_000: 100}, {})
    user = follow(stage, T40)
    user.hear()
    for _ in range(3):
        stage.script.delta("yes", 4_000, 100)
    stage.deliver()
    stage.script.delta("yes", 4_000, -350)
    stage.script.delta("yes", 4_000, -350)
    assert [] == kinds(user), "the store's book is in doubt by now"
    stage.deliver()
    assert [] == kinds(user), "what came before the doubt is of no use either"
    stage.script.snapshot({4_000: 1}, {})
    stage.deliver()
    assert ["snapshot"] == kinds(user)
    assert held_books(stage.store) == user.books


def test_order_behind_a_request() -> None:
    """A snapshot on request does not stand for a later one, which covers changes that came after it."""
    stage = Stage(depth_backlog=1)
    stage.script.snapshot({4_000: 100}, {})
    user = follow(stage, T40)
    user.hear()
    user.send("update_subscription", 5, sid=1, action="get_snapshot", market_tickers=[T40])
    user.send("update_subscription", 6, sid=1, action="get_snapshot", market_tickers=[T40])
    for _ in range(2):
        stage.script.delta("yes", 4_000, 1)
    stage.deliver()
    for _ in range(2):
        user.hear(1)
        stage.script.delta("yes", 4_000, 1)
        stage.deliver()
    while kinds(user):
        pass
    assert held_books(stage.store) == user.books


def test_requests_are_forgotten_when_answered() -> None:
    """A client that reads what it asks for may ask as often as it likes."""
    stage = Stage(max_markets=1)
    stage.script.snapshot({4_000: 100}, {})
    user = follow(stage, T40)
    user.hear()
    for _ in range(5):
        frames = user.ask("update_subscription", sid=1, action="get_snapshot", market_tickers=[T40])
        assert ["orderbook_snapshot"] == [frame["type"] for frame in frames]


def test_request_of_a_market_outside() -> None:
    """A market that is not held is answered once, is not followed, and gets its snapshot when it is added."""
    stage = Stage()
    for ticker in (T40, T45):
        stage.script.snapshot({4_000: 100}, {}, ticker=ticker)
    user = follow(stage, T40)
    user.hear()
    user.ask("update_subscription", sid=1, action="get_snapshot", market_tickers=[T45])
    stage.script.delta("yes", 4_000, 1, ticker=T45)
    stage.deliver()
    assert [] == kinds(user)
    assert {T45: ({4_000: 100}, {})}.items() <= user.books.items()
    frames = user.ask("update_subscription", sid=1, action="add_markets", market_tickers=[T45])
    assert ["ok", "orderbook_snapshot"] == [frame["type"] for frame in frames]
    assert held_books(stage.store) == user.books


@pytest.mark.parametrize("channel", [DEPTH, "top_of_book", "trade"])
def test_deleted_prefix_drops_what_waits(channel: str) -> None:
    """Nothing of markets that were selected by a deleted prefix is sent, even if it waited."""
    stage = Stage()
    for ticker in (T40, T45, "KXTOAD"):
        stage.script.snapshot({4_000: 100}, {}, ticker=ticker)
    stage.deliver()
    user = stage.connect()
    user.ask("subscribe", channels=[channel], market_prefixes=["KXFROG"], market_tickers=[T45, "KXTOAD"])
    for ticker in (T40, T45, "KXTOAD"):
        stage.script.delta("yes", 4_000, 1, ticker=ticker)
        stage.script.apply(trade(ticker, ticker=ticker))
    stage.deliver()
    user.send("update_subscription", sid=1, action="delete_markets", market_prefixes=["KXFROG"])
    frames = user.hear()
    assert ["ok", *[channel] * 2] == [frame["type"] for frame in frames]
    stage.script.delta("yes", 4_000, 1, ticker=T40)
    stage.script.delta("yes", 4_000, 1, ticker=T45)
    stage.script.apply(trade("again", ticker=T45))
    stage.deliver()
    assert [channel] == [frame["type"] for frame in user.hear()]
    user.ask("update_subscription", sid=1, action="add_markets", market_prefixes=["KXTOAD"])
    user.ask("update_subscription", sid=1, action="delete_markets", market_tickers=[T45, "KXTOAD"])
    stage.script.delta("yes", 4_000, 1, ticker=T45)
    stage.script.delta("yes", 4_000, 1, ticker="KXTOAD")
    stage.script.apply(trade("later", ticker="KXTOAD"))
    stage.deliver()
    assert [channel] == [frame["type"] for frame in user.hear()]


def test_added_right_after_a_request() -> None:
    """A market that was answered once from outside still gets its snapshot when it is added."""
    stage = Stage()
    for ticker in (T40, T45):
        stage.script.snapshot({4_000: 100}, {}, ticker=ticker)
    user = follow(stage, T40)
    user.hear()
    user.ask("update_subscription", sid=1, action="get_snapshot", market_tickers=[T45])
    frames = user.ask("update_subscription", sid=1, action="add_markets", market_tickers=[T45])
    assert ["ok", "orderbook_snapshot"] == [frame["type"] for frame in frames]
