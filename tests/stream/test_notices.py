"""Trades and lifecycle messages: passed on as they came, with our own numbers, each once."""

import json
from typing import Any

import pytest

from kalshibook.store import Arrival, ChangeBatch
from kalshibook.wire import EventFrame
from tests.store.builders import lifecycle, trade
from tests.stream.stage import T40, T45, Stage, User

COMBO = "KXMVENFL-26-A"


def hear(user: User) -> list[tuple[Any, ...]]:
    """Take all there is as (type, seq, message)."""
    return [(frame["type"], frame.get("seq"), frame["msg"]) for frame in user.hear()]


def event_frame(stage: Stage, ticker: str, kind: Any) -> None:
    """Let the store pass on a message about an event."""
    body = json.dumps({"event_ticker": ticker}).encode()
    arrival = Arrival("g1", "c1", 1, 1, None, None, None, None, None, 0, 999)
    with stage.store.writer() as writer:
        writer.apply(EventFrame(ticker, kind, None, body), arrival)


def test_trades_are_passed_on() -> None:
    """A trade's body arrives as it was, only those of selected markets, numbered per sid."""
    stage = Stage()
    user = stage.connect()
    user.ask("subscribe", channels=["trade"], market_ticker=T40)
    every = stage.connect()
    every.ask("subscribe", channels=["trade"])
    stage.script.apply(trade("t1", body=b'{"trade_id":"t1"}'))
    stage.script.apply(trade("t2", body=b'{"trade_id":"t2"}', ticker=T45))
    stage.script.apply(trade("t3", body=b'{"trade_id":"t3"}'))
    stage.deliver()
    assert [("trade", 1, {"trade_id": "t1"}), ("trade", 2, {"trade_id": "t3"})] == hear(user)
    assert [1, 2, 3] == [seq for _, seq, _ in hear(every)]


def test_lifecycle_messages_are_passed_on() -> None:
    """Combos have a channel of their own, under which their events come too; each type keeps its name."""
    stage = Stage()
    user = stage.connect()
    user.ask("subscribe", channels=["market_lifecycle_v2", "multivariate_market_lifecycle"])
    stage.script.apply(lifecycle("created"))
    stage.script.apply(lifecycle("created", ticker=COMBO))
    event_frame(stage, "KXFROG-26DEC01", "event_lifecycle")
    event_frame(stage, "KXFROG-26DEC01", "event_fee_update")
    event_frame(stage, "KXMVENFL-26", "event_lifecycle")
    stage.deliver()
    assert [
        (1, 1, "market_lifecycle_v2"),
        (1, 2, "event_lifecycle"),
        (1, 3, "event_fee_update"),
        (2, 1, "multivariate_market_lifecycle"),
        (2, 2, "event_lifecycle"),
    ] == [(frame["sid"], frame["seq"], frame["type"]) for frame in user.hear()]


@pytest.mark.parametrize("channel", ["trade", "market_lifecycle_v2"])
def test_overflow_ends_the_subscription(channel: str) -> None:
    """A client that lets too many wait gets error 25 and nothing more; another one is not touched."""
    stage = Stage(notice_backlog=3)
    slow, quick = stage.connect(), stage.connect()
    for user in (slow, quick):
        user.ask("subscribe", channels=[channel])
    for n in range(4):
        stage.script.apply(trade(f"t{n}") if channel == "trade" else lifecycle("metadata_updated"))
        stage.deliver()
        assert [(channel, n + 1, {})] == hear(quick)
    ((kind, seq, message),) = hear(slow)
    assert ("error", 1, 25) == (kind, seq, message["code"])
    assert 1 == stage.hub.statistics().routes
    assert "subscribed" == slow.ask("subscribe", channels=[channel])[0]["type"]


def test_lost_notices_end_the_subscriptions() -> None:
    """What was lost on the way here is told with error 25 to all who would have had it, and to no other."""
    stage = Stage()
    user = stage.connect()
    user.ask("subscribe", channels=["trade", "market_lifecycle_v2", "top_of_book"])
    stage.hub.deliver(ChangeBatch([], 0, 1), stage.now_us)
    assert [(1, 1, 25), (2, 1, 25)] == [
        (frame["sid"], frame["seq"], frame["msg"]["code"]) for frame in user.hear()
    ]
    assert [{"channel": "top_of_book", "sid": 3}] == user.ask("list_subscriptions")[0]["msg"]


def test_deleted_market_drops_what_waits() -> None:
    """Trades of a market that is deleted are not sent, even if they waited."""
    stage = Stage()
    user = stage.connect()
    user.ask("subscribe", channels=["trade"], market_tickers=[T40, T45])
    stage.script.apply(trade("t1"))
    stage.script.apply(trade("t2", ticker=T45, body=b'{"trade_id":"t2"}'))
    stage.deliver()
    user.send("update_subscription", sid=1, action="delete_markets", market_ticker=T40)
    assert [("ok", 1), ("trade", 2)] == [(frame["type"], frame["seq"]) for frame in user.hear()]
    assert {"trade_id": "t2"} == user.heard[-1]["msg"]


def test_trade_seen_by_two_gatherers() -> None:
    """A trade that comes twice into the store is sent once."""
    stage = Stage()
    user = stage.connect()
    user.ask("subscribe", channels=["trade"])
    for trade_id in ("t1", "t1", "t2", "t1"):
        stage.script.apply(trade(trade_id, body=b'{"trade_id":"%b"}' % trade_id.encode()))
    stage.deliver()
    assert [("trade", 1, {"trade_id": "t1"}), ("trade", 2, {"trade_id": "t2"})] == hear(user)
