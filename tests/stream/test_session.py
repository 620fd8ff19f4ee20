"""Commands: every client frame of the protocol's vectors, and the rules around them."""

from typing import Any

import pytest

from tests.store.builders import lifecycle, trade
from tests.stream.stage import T40, T45, T50, T55, TOAD, Stage, User

DEPTH = "orderbook_delta"


def frog(**options: Any) -> Stage:
    """Return a stage with four frogs and a toad, all live."""
    stage = Stage(**options)
    for ticker in (T40, T45, T50, T55, TOAD):
        stage.script.snapshot({4_000: 7_550}, {5_700: 1_025}, ticker=ticker)
    stage.deliver()
    return stage


def seven_and_nine(stage: Stage) -> User:
    """Return a client that holds three books on sid 7 and one ticker on sid 9, as in the vectors."""
    user = stage.connect()
    for sid in range(1, 9):
        if sid == 7:
            user.ask("subscribe", channels=[DEPTH], market_tickers=[T40, T45, T50])
        else:
            user.ask("subscribe", channels=["trade"])
            user.ask("unsubscribe", sids=[sid])
    user.ask("subscribe", channels=["ticker"], market_tickers=[T40])
    return user


def error(id: int | None, code: int, **keys: Any) -> dict[str, Any]:  # noqa: A002 - the wire's name
    """Return the outline of an error frame."""
    frame = {"type": "error", "code": code, **keys}
    return frame if id is None else {"id": id, **frame}


def snapshot(sid: int, seq: int, ticker: str, **keys: Any) -> dict[str, Any]:
    """Return the outline of a snapshot."""
    return {"type": "orderbook_snapshot", "sid": sid, "seq": seq, "market_ticker": ticker, **keys}


def outline(frame: dict[str, Any]) -> dict[str, Any]:
    """Return a frame without its levels and texts, its message's other keys beside its own."""
    message = frame.pop("msg", {})
    if isinstance(message, list):
        return {**frame, "listed": message}
    drop = {"msg", "market_id", "yes_dollars_fp", "no_dollars_fp"}
    return frame | {key: value for key, value in message.items() if key not in drop}


def subscribed(id: int | None, channel: str, sid: int) -> dict[str, Any]:  # noqa: A002
    """Return the outline of an announcement."""
    frame = {"type": "subscribed", "channel": channel, "sid": sid}
    return frame if id is None else {"id": id, **frame}


def command(id: int, cmd: str, **params: Any) -> dict[str, Any]:  # noqa: A002
    """Return a command."""
    return {"id": id, "cmd": cmd, "params": params}


THREE = [T40, T45, T50]

FRESH: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "yesleg_subscribe_command": (
        command(10, "subscribe", channels=[DEPTH], market_tickers=[T40], use_yes_price=True),
        [subscribed(10, DEPTH, 1), snapshot(1, 1, T40)],
    ),
    "yesleg_default_flip_guard": (
        command(11, "subscribe", channels=[DEPTH], market_ticker=T40, use_yes_price=False),
        [subscribed(11, DEPTH, 1), snapshot(1, 1, T40)],
    ),
    "cmd_subscribe_single_market": (
        command(20, "subscribe", channels=[DEPTH], market_ticker=T40),
        [subscribed(20, DEPTH, 1), snapshot(1, 1, T40)],
    ),
    "cmd_subscribe_many_channels": (
        command(21, "subscribe", channels=[DEPTH, "ticker", "trade"], market_tickers=[T40, T45]),
        [
            subscribed(21, DEPTH, 1),
            subscribed(21, "ticker", 2),
            subscribed(21, "trade", 3),
            snapshot(1, 1, T40),
            snapshot(1, 2, T45),
        ],
    ),
    "cmd_subscribe_all_markets_ticker": (
        command(22, "subscribe", channels=["ticker"]),
        [subscribed(22, "ticker", 1)],
    ),
    "cmd_subscribe_orderbook_without_market": (command(26, "subscribe", channels=[DEPTH]), [error(26, 14)]),
    "cmd_subscribe_orderbook_by_market_id": (
        command(27, "subscribe", channels=[DEPTH], market_ids=["0f6a7c11-2b1d-4d0e-9a55-5d1f0c3ab001"]),
        [error(27, 14)],
    ),
    "cmd_subscribe_unknown_channel": (command(29, "subscribe", channels=["orderbook_l3"]), [error(29, 8)]),
    "cmd_subscribe_retired_channel_multivariate": (
        command(30, "subscribe", channels=["multivariate"]),
        [error(30, 8)],
    ),
    "retired ticker_v2": (command(30, "subscribe", channels=["ticker_v2"]), [error(30, 8)]),
    "cmd_subscribe_no_params": ({"id": 31, "cmd": "subscribe"}, [error(31, 2)]),
    "cmd_subscribe_id_zero": (command(0, "subscribe", channels=["trade"]), [subscribed(None, "trade", 1)]),
    "cmd_list_subscriptions, empty": (
        {"id": 48, "cmd": "list_subscriptions"},
        [{"id": 48, "type": "ok", "listed": []}],
    ),
    "cmd_unknown_command": (command(49, "resubscribe", channels=["ticker"]), [error(49, 5)]),
    "cmd_shard_key_without_factor": (
        command(50, "subscribe", channels=["communications"], shard_key=1),
        [error(50, 20)],
    ),
    "shard factor 0": (
        command(50, "subscribe", channels=["communications"], shard_factor=0),
        [error(50, 19)],
    ),
    "shard key out of range": (
        command(50, "subscribe", channels=["communications"], shard_factor=2, shard_key=2),
        [error(50, 21)],
    ),
    "shard factor too large": (
        command(50, "subscribe", channels=["communications"], shard_factor=101),
        [error(50, 22)],
    ),
    "shards fit, but no access": (
        command(50, "subscribe", channels=["communications"], shard_factor=2, shard_key=1),
        [error(50, 9)],
    ),
    "bad_lowercase_ticker": (
        command(58, "subscribe", channels=[DEPTH], market_tickers=[T40.lower()]),
        [subscribed(58, DEPTH, 1)],
    ),
    "bad_empty_ticker": (command(59, "subscribe", channels=[DEPTH], market_tickers=[""]), [error(59, 11)]),
    "bad_duplicate_tickers_in_command": (
        command(60, "subscribe", channels=[DEPTH], market_tickers=[T40, T40]),
        [subscribed(60, DEPTH, 1), snapshot(1, 1, T40)],
    ),
    "bad_params_wrong_type": (command(63, "subscribe", channels="ticker"), [error(63, 1)]),
    "bad_id_is_string": ({"id": "64", "cmd": "list_subscriptions"}, [error(None, 1)]),
    "bad_json_array": ([{"id": 1, "cmd": "list_subscriptions"}], [error(None, 1)]),
    "bad_json_number": (42, [error(None, 1)]),
    "bad_empty_object": ({}, [error(None, 5)]),
    "no channels": (command(3, "subscribe", channels=[]), [error(3, 3)]),
    "channels null": (command(3, "subscribe", channels=None), [error(3, 3)]),
    "private channel": (command(9, "subscribe", channels=["ticker", "fill"]), [error(9, 9)]),
    "unknown beats private": (command(9, "subscribe", channels=["fill", "nonsense"]), [error(9, 8)]),
    "both ticker forms": (
        command(4, "subscribe", channels=["trade"], market_ticker=T40, market_tickers=[T45]),
        [error(4, 11)],
    ),
    "market ids on ticker": (command(4, "subscribe", channels=["ticker"], market_id="x"), [error(4, 11)]),
    "an empty list is not all markets": (
        command(4, "subscribe", channels=["trade"], market_tickers=[]),
        [error(4, 14)],
    ),
    "one bad channel of two opens none": (
        command(4, "subscribe", channels=["trade", DEPTH]),
        [error(4, 14)],
    ),
    "the same channel twice": (
        command(4, "subscribe", channels=["trade", "trade"]),
        [subscribed(4, "trade", 1)],
    ),
    "unsubscribe without sids": (command(5, "unsubscribe", sids=[]), [error(5, 4)]),
    "unsubscribe without params": ({"id": 5, "cmd": "unsubscribe"}, [error(5, 2)]),
    "unsubscribe an unknown sid": (command(5, "unsubscribe", sids=[1]), [error(5, 7)]),
    "lifecycle channels take no filter": (
        command(6, "subscribe", channels=["market_lifecycle_v2"], market_tickers=[T40]),
        [subscribed(6, "market_lifecycle_v2", 1)],
    ),
}

HELD: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "tape_17_get_snapshot_command": (
        command(3, "update_subscription", sid=7, action="get_snapshot", market_tickers=[*THREE, T55]),
        [snapshot(7, 4 + n, ticker, id=3) for n, ticker in enumerate([*THREE, T55])],
    ),
    "cmd_resubscribe_same_markets": (
        command(33, "subscribe", channels=[DEPTH], market_tickers=[T40]),
        [{"id": 33, "type": "ok", "sid": 7, "seq": 4, "market_tickers": THREE}],
    ),
    "cmd_resubscribe_new_market_merges": (
        command(34, "subscribe", channels=[DEPTH], market_tickers=[T40, T55]),
        [
            {"id": 34, "type": "ok", "sid": 7, "seq": 4, "market_tickers": [*THREE, T55]},
            snapshot(7, 5, T55),
        ],
    ),
    "cmd_add_markets": (
        command(35, "update_subscription", sids=[7], action="add_markets", market_tickers=[T55]),
        [
            {"id": 35, "type": "ok", "sid": 7, "seq": 4, "market_tickers": [*THREE, T55]},
            snapshot(7, 5, T55),
        ],
    ),
    "cmd_delete_markets": (
        command(36, "update_subscription", sid=7, action="delete_markets", market_ticker=T50),
        [{"id": 36, "type": "ok", "sid": 7, "seq": 4, "market_tickers": [T40, T45]}],
    ),
    "delete what is not held": (
        command(36, "update_subscription", sid=7, action="delete_markets", market_ticker=T55),
        [{"id": 36, "type": "ok", "sid": 7, "seq": 4, "market_tickers": THREE}],
    ),
    "cmd_update_two_sids": (
        command(37, "update_subscription", sids=[7, 9], action="add_markets", market_tickers=[T55]),
        [error(37, 12)],
    ),
    "sid and sids": (
        command(37, "update_subscription", sid=7, sids=[7], action="add_markets", market_tickers=[T55]),
        [error(37, 12)],
    ),
    "no sid": (command(37, "update_subscription", action="add_markets"), [error(37, 12)]),
    "cmd_update_unknown_sid": (
        command(39, "update_subscription", sid=4_040, action="add_markets", market_tickers=[T55]),
        [error(39, 7)],
    ),
    "cmd_update_no_action": (
        command(40, "update_subscription", sid=7, market_tickers=[T55]),
        [error(40, 15)],
    ),
    "cmd_update_bad_action": (
        command(41, "update_subscription", sid=7, action="replace_markets", market_tickers=[T55]),
        [error(41, 13)],
    ),
    "cmd_get_snapshot_on_ticker_channel": (
        command(42, "update_subscription", sid=9, action="get_snapshot", market_tickers=[T40]),
        [error(42, 13)],
    ),
    "cmd_get_snapshot_single_ticker_form": (
        command(43, "update_subscription", sid=7, action="get_snapshot", market_ticker=T40),
        [error(43, 14)],
    ),
    "cmd_get_snapshot_market_not_in_subscription": (
        command(44, "update_subscription", sid=7, action="get_snapshot", market_tickers=[TOAD]),
        [snapshot(7, 4, TOAD, id=44)],
    ),
    "get_snapshot of an unknown market": (
        command(44, "update_subscription", sid=7, action="get_snapshot", market_tickers=["KXNONE", T40]),
        [error(44, 11, market_tickers=["KXNONE"]), snapshot(7, 4, T40, id=44)],
    ),
    "cmd_unsubscribe_two": (
        command(45, "unsubscribe", sids=[7, 9]),
        [
            {"id": 45, "type": "unsubscribed", "sid": 7, "seq": 4},
            {"id": 45, "type": "unsubscribed", "sid": 9},
        ],
    ),
    "unsubscribe is whole or not at all": (command(45, "unsubscribe", sids=[7, 8]), [error(45, 7)]),
    "cmd_list_subscriptions": (
        {"id": 48, "cmd": "list_subscriptions"},
        [{"id": 48, "type": "ok", "listed": [{"channel": DEPTH, "sid": 7}, {"channel": "ticker", "sid": 9}]}],
    ),
    "add without markets": (command(46, "update_subscription", sid=7, action="add_markets"), [error(46, 14)]),
    "another scale": (
        command(47, "subscribe", channels=[DEPTH], market_tickers=[T40], use_yes_price=True),
        [error(47, 11)],
    ),
    "the same scale said again": (
        command(47, "subscribe", channels=[DEPTH], market_tickers=[T40], use_yes_price=False),
        [{"id": 47, "type": "ok", "sid": 7, "seq": 4, "market_tickers": THREE}],
    ),
}


@pytest.mark.parametrize("name", FRESH)
def test_command_of_a_new_client(name: str) -> None:
    """A client without subscriptions gets exactly the frames that the protocol names."""
    message, expected = FRESH[name]
    user = frog().connect()
    user.say(message)
    assert expected == [outline(frame) for frame in user.hear()]
    assert user.client.closing is None
    assert [{"id": 99, "type": "ok"}] == [
        {key: value for key, value in frame.items() if key != "msg"}
        for frame in user.ask("list_subscriptions", 99)
    ]


@pytest.mark.parametrize("name", HELD)
def test_command_of_a_client_with_subscriptions(name: str) -> None:
    """A client that holds sid 7 and sid 9 gets exactly the frames that the protocol names."""
    message, expected = HELD[name]
    user = seven_and_nine(frog())
    user.say(message)
    assert expected == [outline(frame) for frame in user.hear()]
    assert user.client.closing is None


@pytest.mark.parametrize(
    "message",
    [
        '{"type":"orderbook_delta","sid":7,',
        "",
        b"\xff\xfe",
        "\ud800",
        '{"id":1,"cmd":"\\ud800"}',
        '{"id":1,"cmd":"subscribe","params":' + "[" * 100_000,
        '{"id":99999999999999999999999999999999,"cmd":"list_subscriptions"}',
        '{"id":' + "9" * 6_000 + ',"cmd":"list_subscriptions"}',
        '{"id":1.5,"cmd":"list_subscriptions"}',
        '{"id":true,"cmd":"list_subscriptions"}',
        '{"id":null,"cmd":7}',
        "NaN",
    ],
    ids=range(12),
)
def test_what_cannot_be_read(message: str | bytes) -> None:
    """Whatever bytes arrive, the answer is error 1 and the connection lives on."""
    user = frog().connect()
    user.client.receive(message, 0)
    (frame,) = user.hear()
    assert ("error", 1) == (frame["type"], frame["msg"]["code"])
    assert user.ask("list_subscriptions")[0]["type"] == "ok"


def test_binary_message() -> None:
    """A command in a binary message is read like one in text."""
    user = frog().connect()
    user.client.receive(b'{"id":5,"cmd":"list_subscriptions"}', 0)
    assert [{"id": 5, "type": "ok", "msg": []}] == user.hear()


def test_ticker_with_initial_snapshot() -> None:
    """With `send_initial_snapshot` a ticker comes at once for each named market that was not held."""
    user = frog().connect()
    frames = user.ask("subscribe", channels=["ticker"], market_tickers=[T40], send_initial_snapshot=True)
    assert ["subscribed", "ticker"] == [frame["type"] for frame in frames]
    frames = user.ask("subscribe", channels=["ticker"], market_tickers=[T40, T45], send_initial_snapshot=True)
    assert [("ok", [T40, T45]), ("ticker", None)] == [
        (frame["type"], frame["msg"].get("market_tickers")) for frame in frames
    ]
    assert T45 == frames[1]["msg"]["market_ticker"]


def test_skip_ticker_ack() -> None:
    """With `skip_ticker_ack` later confirmations carry no list."""
    user = frog().connect()
    user.ask("subscribe", channels=[DEPTH], market_tickers=[T40, T45], skip_ticker_ack=True)
    frames = user.ask("update_subscription", sid=1, action="add_markets", market_ticker=T50)
    assert {"id": 1, "type": "ok", "sid": 1, "seq": 3, "msg": {}} == frames[0]


def test_default_channel_is_top_of_book() -> None:
    """Without `channels` a subscription is to `top_of_book`, and sends each market's top at once."""
    user = frog().connect()
    frames = user.ask("subscribe", market_tickers=[T40])
    assert subscribed(1, "top_of_book", 1) == outline(frames[0])
    assert ["0.4000", "0.4300", 1] == [
        frames[1]["msg"]["yes_bid_dollars"],
        frames[1]["msg"]["yes_ask_dollars"],
        frames[1]["seq"],
    ]


def test_unknown_market_is_remembered() -> None:
    """An unknown ticker is missing from the list, and gets its snapshot when the market appears."""
    stage = frog()
    user = stage.connect()
    assert [subscribed(1, DEPTH, 1)] == [
        outline(frame) for frame in user.ask("subscribe", channels=[DEPTH], market_ticker="KXNEW")
    ]
    (frame,) = user.ask("update_subscription", sid=1, action="delete_markets", market_ticker="KXOTHER")
    assert [] == frame["msg"]["market_tickers"]
    stage.script.apply(lifecycle("created", ticker="KXNEW"))
    stage.deliver()
    assert [] == user.hear(), "an awaiting book is not an empty one"
    stage.script.snapshot({100: 100}, {}, ticker="KXNEW")
    stage.script.delta("yes", 100, 50, ticker="KXNEW")
    stage.deliver()
    user.hear()
    assert {"KXNEW": ({100: 150}, {})} == user.books
    (frame,) = user.ask("update_subscription", sid=1, action="delete_markets", market_ticker="KXOTHER")
    assert ["KXNEW"] == frame["msg"]["market_tickers"]


def test_deleted_market_is_silent_and_comes_back_fresh() -> None:
    """No frame of a deleted market follows, not even one that waited; added again it starts anew."""
    stage = frog()
    user = stage.connect()
    user.ask("subscribe", channels=[DEPTH], market_tickers=[T40, T45])
    stage.script.delta("yes", 4_000, 100, ticker=T40)
    stage.script.delta("yes", 4_000, 100, ticker=T45)
    stage.deliver()
    frames = user.ask("update_subscription", sid=1, action="delete_markets", market_ticker=T40)
    assert ["ok", "orderbook_delta"] == [frame["type"] for frame in frames]
    assert T45 == frames[1]["msg"]["market_ticker"]
    stage.script.delta("yes", 4_000, 100, ticker=T40)
    stage.deliver()
    assert [] == user.hear()
    frames = user.ask("update_subscription", sid=1, action="add_markets", market_ticker=T40)
    assert [("ok", 5), ("orderbook_snapshot", 6)] == [(frame["type"], frame["seq"]) for frame in frames]
    assert {4_000: 7_750} == user.books[T40][0]


def test_prefixes() -> None:
    """A prefix selects what begins so, later markets too, and each market once however it is named."""
    stage = frog()
    user = stage.connect()
    frames = user.ask("subscribe", market_prefixes=["KXFROG-", "KXFROG-26"], market_tickers=[T40, TOAD])
    assert [T40, T45, T50, T55, TOAD] == sorted(frame["msg"]["market_ticker"] for frame in frames[1:])
    stage.script.delta("yes", 4_000, 100, ticker=T40)
    stage.script.snapshot({100: 100}, {}, ticker="KXFROG-27")
    stage.script.snapshot({100: 100}, {}, ticker="KXOTHER")
    stage.deliver()
    assert [(T40, None), ("KXFROG-27", None)] == [
        (frame["msg"]["market_ticker"], frame["msg"].get("merged")) for frame in user.hear()
    ]
    (frame,) = user.ask("update_subscription", sid=1, action="delete_markets", market_prefixes=["KXFROG-"])
    assert {"market_tickers": [T40, TOAD]} == frame["msg"]
    stage.script.delta("yes", 4_000, 100, ticker=T40)
    stage.script.delta("yes", 4_000, 100, ticker=T45)
    stage.deliver()
    assert [T40] == [frame["msg"]["market_ticker"] for frame in user.hear()]


def test_all_markets() -> None:
    """A subscription without markets gets all and keeps them when some are named; none can be left out."""
    stage = frog()
    user = stage.connect()
    assert [T40, T45, T50, T55, TOAD] == [
        frame["msg"]["market_ticker"] for frame in user.ask("subscribe", channels=["top_of_book"])[1:]
    ]
    (frame,) = user.ask("subscribe", channels=["top_of_book"], market_ticker=T40)
    assert ("ok", {}) == (frame["type"], frame["msg"])
    (frame,) = user.ask("update_subscription", sid=1, action="delete_markets", market_ticker=T40)
    assert error(1, 11) == outline(frame)
    stage.script.delta("yes", 4_000, 1, ticker=TOAD)
    stage.deliver()
    assert [TOAD] == [frame["msg"]["market_ticker"] for frame in user.hear()]


def test_named_markets_become_all() -> None:
    """A subscription to one market that merges with one to all sends the others' state, and nothing twice."""
    stage = frog()
    user = stage.connect()
    user.ask("subscribe", market_tickers=[T40])
    frames = user.ask("subscribe", channels=["top_of_book"])
    assert ["ok", "top_of_book", "top_of_book", "top_of_book", "top_of_book"] == [
        frame["type"] for frame in frames
    ]
    stage.script.delta("yes", 4_000, 1, ticker=T40)
    stage.deliver()
    assert [T40] == [frame["msg"]["market_ticker"] for frame in user.hear()]


def test_market_limit() -> None:
    """More markets than allowed are refused with 26, scoped and numbered where there is a subscription."""
    user = frog(max_markets=2).connect()
    (frame,) = user.ask("subscribe", channels=[DEPTH], market_tickers=THREE)
    assert error(1, 26, market_tickers=THREE) == outline(frame)
    user.ask("subscribe", channels=[DEPTH], market_tickers=[T40, T45])
    (frame,) = user.ask("update_subscription", sid=1, action="add_markets", market_tickers=[T45, T55])
    assert error(1, 26, sid=1, seq=3, market_tickers=[T45, T55]) == outline(frame)
    (frame,) = user.ask("update_subscription", sid=1, action="add_markets", market_prefixes=["KXTOAD"])
    assert 26 == frame["msg"]["code"], "full depth by prefix counts by market"
    (frame,) = user.ask("update_subscription", sid=1, action="add_markets", market_tickers=[T45])
    assert ("ok", 5) == (frame["type"], frame["seq"])


def test_command_rate() -> None:
    """Too many commands within a second are refused with 27, per subscription and per connection."""
    stage = frog(subscription_commands_per_second=2, commands_per_second=5)
    user = stage.connect()
    user.ask("subscribe", channels=[DEPTH], market_ticker=T40)
    codes = [
        user.ask("subscribe", channels=[DEPTH], market_ticker=T40)[0].get("msg", {}).get("code")
        for _ in range(3)
    ]
    assert [None, None, 27] == codes
    assert (1, 4) == (user.heard[-1]["sid"], user.heard[-1]["seq"])
    assert [None, 27] == [
        frame["msg"].get("code") if isinstance(frame["msg"], dict) else None
        for _ in range(2)
        for frame in user.ask("list_subscriptions")
    ]
    stage.now_us += 1_000_000
    assert "ok" == user.ask("subscribe", channels=[DEPTH], market_ticker=T40)[0]["type"]


def test_subscription_limit() -> None:
    """A connection has no more subscriptions than allowed; an ended one makes room."""
    user = frog(max_subscriptions=1).connect()
    user.ask("subscribe", channels=["trade"])
    assert 26 == user.ask("subscribe", channels=["ticker"])[0]["msg"]["code"]
    user.ask("unsubscribe", sids=[1])
    assert subscribed(1, "ticker", 2) == outline(user.ask("subscribe", channels=["ticker"])[0])


@pytest.mark.parametrize("name", ["A" * 41, ""])
def test_ticker_length(name: str) -> None:
    """A ticker or a prefix that is too long or empty is refused with 11."""
    user = frog(max_ticker_length=40).connect()
    assert 11 == user.ask("subscribe", market_ticker=name)[0]["msg"]["code"]
    assert 11 == user.ask("subscribe", market_prefixes=[name])[0]["msg"]["code"]


def test_snapshots_under_way_are_limited() -> None:
    """A client that asks for snapshots without reading them is told so with 27."""
    user = frog(max_markets=3).connect()
    user.ask("subscribe", channels=[DEPTH], market_ticker=T40)
    for _ in range(4):
        user.send("update_subscription", sid=1, action="get_snapshot", market_tickers=[T40])
    assert [27, None, None, None] == [frame["msg"].get("code") for frame in user.hear()]


def test_client_that_commands_without_reading() -> None:
    """Replies are never dropped; a client that lets too many wait is closed with 1008 and a reason."""
    stage = frog(reply_backlog_bytes=1_000)
    user = stage.connect()
    woken: list[None] = []
    user.client.on_pending = lambda: woken.append(None)
    for _ in range(100):
        user.send("subscribe", channels=["trade", "top_of_book"])
    assert (1008, "commands are sent but replies are not read") == user.client.closing
    assert 2 == len(woken), "once for the first reply and once for the end"
    assert b"" == user.client.take(1_000, 0)
    assert 0 == stage.hub.statistics().routes
    assert {1008: 1} == stage.hub.statistics().closed


def test_on_pending_is_called_once() -> None:
    """The listener is called when output appears after there was none, not for every frame."""
    stage = frog()
    user = stage.connect()
    woken: list[None] = []
    user.client.on_pending = lambda: woken.append(None)
    user.send("subscribe", channels=[DEPTH, "trade"], market_ticker=T40)
    assert 1 == len(woken)
    user.hear(1)
    stage.script.delta("yes", 4_000, 1, ticker=T40)
    stage.deliver()
    assert 1 == len(woken), "something still waited"
    user.hear()
    assert b"" == user.client.take(1_000, 0)
    stage.script.apply(trade(ticker=T45))
    stage.deliver()
    assert 1 == len(woken), "nothing came for this client"
    stage.script.delta("yes", 4_000, 1, ticker=T40)
    stage.deliver()
    assert 2 == len(woken)


def test_take_is_limited() -> None:
    """A write ends with the frame that reaches the limit, and the rest comes with the next, in order."""
    user = frog().connect()
    user.send("subscribe", channels=[DEPTH, "top_of_book"], market_tickers=THREE)
    writes = []
    while frames := user.hear(150):
        writes.append(len(frames))
    assert 8 == sum(writes)
    assert max(writes) <= 2
    assert {1: 3, 2: 3} == user.seqs


def test_a_disconnected_client_stays_silent() -> None:
    """Once disconnected a client leaves no trace, whatever is still called."""
    stage = frog()
    user = stage.connect()
    user.ask("subscribe", channels=[DEPTH, "trade"], market_ticker=T40)
    stage.hub.disconnect(user.client)
    stage.hub.disconnect(user.client)
    user.send("subscribe", channels=["trade"])
    assert [] == user.hear()
    assert (0, 0) == (stage.hub.statistics().clients, stage.hub.statistics().routes)
