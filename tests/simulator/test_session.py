from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from kalshibook.simulator.naming import market_id_of
from kalshibook.simulator.venue import Venue
from tests.simulator.watching import START_US, Watcher, sides_of, venue
from tests.stream.test_vectors import name_of, shown, with_sids
from tests.vectors import VECTORS, frame_bytes

FROGS = "KXFROG-26DEC01-T40", "KXFROG-26DEC01-T45.5", "KXFROG-26DEC01-T50", "KXFROG-26DEC01-T55"
TOAD = "KXTOAD-26DEC01-B10"


def pond() -> Venue:
    """Return an exchange with the markets that the vectors speak of."""
    exchange = venue()
    for ticker in (*FROGS, TOAD):
        exchange.create(ticker)
    exchange.advance(START_US)
    for ticker, side, price, size in (
        (FROGS[0], "yes", 3_800, 12_000),
        (FROGS[0], "yes", 4_000, 7_550),
        (FROGS[0], "no", 5_500, 6_000),
        (FROGS[0], "no", 5_700, 1_025),
        (FROGS[1], "no", 400, 50_000),
        (FROGS[1], "no", 9_000, 300),
        (FROGS[3], "yes", 2_500, 800),
        (TOAD, "yes", 1_000, 100),
        (TOAD, "no", 2_000, 100),
    ):
        exchange.change(ticker, "yes" if side == "yes" else "no", price, size)
    return exchange


COMMANDS = [row for row in VECTORS if "reply" in row]


@pytest.mark.parametrize("row", COMMANDS, ids=name_of)
def test_commands_of_the_vector_file_are_answered(row: dict[str, Any]) -> None:
    """The replies are the file's, in its order, and no other follows; the connection lives on."""
    watcher = Watcher(pond())
    sids: dict[str, int] = {}
    for name, params in row.get("given", {}).items():
        frames = watcher.ask("subscribe", None, **params)
        sids[name] = next(frame["msg"]["sid"] for frame in frames if frame["type"] == "subscribed")
    raw = frame_bytes(row)
    command = raw if isinstance(row["frame"], str) else msgspec.json.encode(with_sids(row["frame"], sids))

    watcher.session.receive(command)

    expected = with_sids(row["reply"], sids)
    assert expected == [shown(want, got) for want, got in zip(expected, watcher.hear(), strict=True)]
    assert watcher.session.order is None


def test_order_on_subscribing() -> None:
    """The announcement comes first, then one snapshot per market, numbered from 1."""
    watcher = Watcher(pond())
    frames = watcher.ask("subscribe", channels=["orderbook_delta"], market_tickers=[FROGS[0], FROGS[2]])
    assert [("subscribed", None), ("orderbook_snapshot", 1), ("orderbook_snapshot", 2)] == [
        (frame["type"], frame.get("seq")) for frame in frames
    ]
    assert {"market_ticker", "market_id"} == frames[2]["msg"].keys()


def test_changes_between_command_and_snapshot_are_told_once() -> None:
    """What happens before a snapshot is made is in it, and what happens after follows it."""
    exchange = pond()
    watcher = Watcher(exchange)
    watcher.send("subscribe", channels=["orderbook_delta"], market_tickers=[*FROGS])
    exchange.change(FROGS[0], "yes", 4_000, 50)
    watcher.hear(1)
    exchange.change(FROGS[0], "yes", 4_000, 50)
    while watcher.hear():
        pass
    for ticker in FROGS:
        assert sides_of(exchange.truth(ticker)) == watcher.sides(ticker)
    assert 1 == len(watcher.of("orderbook_delta"))


def test_a_new_subscription_has_a_new_sid_and_counts_anew() -> None:
    """After unsubscribing, sids go on and numbers begin again."""
    watcher = Watcher(pond())
    watcher.ask("subscribe", channels=["orderbook_delta"], market_ticker=FROGS[0])
    (end,) = watcher.ask("unsubscribe", 2, sids=[1])
    assert {"id": 2, "type": "unsubscribed", "sid": 1, "seq": 2} == end
    frames = watcher.ask("subscribe", 3, channels=["orderbook_delta"], market_ticker=FROGS[0])
    assert (2, 1) == (frames[0]["msg"]["sid"], frames[1]["seq"])


def test_a_market_that_is_taken_out_is_silent() -> None:
    """After `delete_markets` nothing of it comes; added again it begins with a snapshot."""
    exchange = pond()
    watcher = Watcher(exchange)
    watcher.ask("subscribe", channels=["orderbook_delta"], market_tickers=[FROGS[0], TOAD])
    change: dict[str, Any] = {"sid": 1, "market_ticker": TOAD}
    (ok,) = watcher.ask("update_subscription", 2, action="delete_markets", **change)
    assert {"market_tickers": [FROGS[0]]} == ok["msg"]
    exchange.change(TOAD, "yes", 1_000, 1)
    exchange.change(FROGS[0], "yes", 4_000, 1)
    assert [FROGS[0]] == [frame["msg"]["market_ticker"] for frame in watcher.hear()]
    _, snapshot = watcher.ask("update_subscription", 3, action="add_markets", **change)
    assert ("orderbook_snapshot", 6) == (snapshot["type"], snapshot["seq"])
    assert sides_of(exchange.truth(TOAD)) == watcher.sides(TOAD)


def test_a_market_taken_out_before_its_snapshot() -> None:
    """What was added and taken out at once is never told of, and added again it comes once."""
    exchange = pond()
    watcher = Watcher(exchange)
    watcher.ask("subscribe", channels=["orderbook_delta"], market_tickers=[FROGS[0]])
    change: dict[str, Any] = {"sid": 1, "market_ticker": TOAD}
    watcher.send("update_subscription", 2, action="add_markets", **change)
    watcher.send("update_subscription", 3, action="delete_markets", **change)
    assert ["ok", "ok"] == [frame["type"] for frame in watcher.hear()]
    for number, action in enumerate(("add_markets", "delete_markets", "add_markets"), 4):
        watcher.send("update_subscription", number, action=action, **change)
    assert ["ok", "ok", "ok", "orderbook_snapshot"] == [frame["type"] for frame in watcher.hear()]


def test_unknown_tickers_are_missing_from_the_list() -> None:
    """A mistyped ticker is no error: the list of the next reply does not have it."""
    watcher = Watcher(pond())
    watcher.ask("subscribe", channels=["orderbook_delta"], market_tickers=[FROGS[0], "KXTYPO"])
    (ok,) = watcher.ask("subscribe", 2, channels=["orderbook_delta"], market_tickers=[FROGS[0]])
    assert {"market_tickers": [FROGS[0]]} == ok["msg"]


def test_tickers_can_be_named_by_id() -> None:
    """The ticker channel takes market ids; one that is no id is refused with 11."""
    exchange = pond()
    watcher = Watcher(exchange)
    market_id = exchange.model[FROGS[0]].market_id
    ask: dict[str, Any] = {"channels": ["ticker"], "send_initial_snapshot": True}
    _, told = watcher.ask("subscribe", **ask, market_ids=[market_id])
    assert FROGS[0] == told["msg"]["market_ticker"]
    assert ("0.4000", "0.4300") == (told["msg"]["yes_bid_dollars"], told["msg"]["yes_ask_dollars"])
    (error,) = watcher.ask("subscribe", 2, channels=["ticker"], market_id="no-uuid")
    assert 11 == error["msg"]["code"]
    assert market_id == market_id_of(exchange.model[FROGS[0]].ordinal)


def test_both_scales_of_no_prices() -> None:
    """One subscriber has NO levels on the NO scale, the other on the YES scale; both have the book."""
    exchange = pond()
    plain, yes = Watcher(exchange), Watcher(exchange, yes_scale=True)
    plain.ask("subscribe", channels=["orderbook_delta"], market_ticker=FROGS[0])
    yes.ask("subscribe", channels=["orderbook_delta"], market_ticker=FROGS[0], use_yes_price=True)
    exchange.change(FROGS[0], "no", 5_500, -1_000)
    assert "0.5500" == plain.hear()[0]["msg"]["price_dollars"]
    assert "0.4500" == yes.hear()[0]["msg"]["price_dollars"]
    assert sides_of(exchange.truth(FROGS[0])) == plain.sides(FROGS[0]) == yes.sides(FROGS[0])


def test_the_default_scale_can_be_flipped() -> None:
    """With `use_yes_price` the exchange does what it announced, and an explicit false still counts."""
    exchange = venue(use_yes_price=True)
    exchange.create(FROGS[0])
    exchange.advance(START_US)
    exchange.change(FROGS[0], "no", 5_500, 100)
    _, snapshot = Watcher(exchange).ask("subscribe", channels=["orderbook_delta"], market_ticker=FROGS[0])
    assert [["0.4500", "1.00"]] == snapshot["msg"]["no_dollars_fp"]
    pinned: dict[str, Any] = {
        "channels": ["orderbook_delta"],
        "market_ticker": FROGS[0],
        "use_yes_price": False,
    }
    _, snapshot = Watcher(exchange).ask("subscribe", **pinned)
    assert [["0.5500", "1.00"]] == snapshot["msg"]["no_dollars_fp"]


def test_a_slow_reader_overflows_alone() -> None:
    """Its subscription ends with error 25, its other subscriptions and other clients go on."""
    exchange = venue(subscription_buffer=10)
    exchange.create(FROGS[0])
    exchange.advance(START_US)
    slow, quick = Watcher(exchange), Watcher(exchange)
    for watcher in (slow, quick):
        watcher.ask("subscribe", channels=["orderbook_delta", "trade"], market_ticker=FROGS[0])
    for _ in range(30):
        exchange.change(FROGS[0], "yes", 4_000, 100)
        quick.hear()
    slow.hear()
    assert (25, "Subscription buffer overflow") == tuple(slow.of("error")[0].values())
    assert [2] == [held.sid for held in slow.session.subscriptions]
    assert sides_of(exchange.truth(FROGS[0])) == quick.sides(FROGS[0])
    _, snapshot = slow.ask("subscribe", 2, channels=["orderbook_delta"], market_ticker=FROGS[0])
    assert 1 == snapshot["seq"]
    assert sides_of(exchange.truth(FROGS[0])) == slow.sides(FROGS[0])


def test_limits_have_their_codes() -> None:
    """Too many markets are refused whole with 26, too many commands with 27; both take a number if scoped."""
    exchange = venue(max_markets=2, subscription_commands_per_second=2)
    for ticker in FROGS:
        exchange.create(ticker)
    watcher = Watcher(exchange)
    (loose,) = watcher.ask("subscribe", channels=["orderbook_delta"], market_tickers=[*FROGS])
    assert (26, [*FROGS]) == (loose["msg"]["code"], loose["msg"]["market_tickers"])
    watcher.ask("subscribe", 2, channels=["orderbook_delta"], market_tickers=[FROGS[0]])
    more = {"sid": 1, "action": "add_markets"}
    (error,) = watcher.ask("update_subscription", 3, **more, market_tickers=[*FROGS[1:]])
    assert (26, 1, 2) == (error["msg"]["code"], error["sid"], error["seq"])
    codes = []
    for number in range(4, 7):
        frames = watcher.ask("update_subscription", number, **more, market_tickers=[FROGS[0]])
        codes.append(frames[0]["msg"].get("code"))
    assert [None, None, 27] == codes


def test_replies_that_nobody_reads() -> None:
    """Replies that nobody reads are bounded: the connection is closed with 1008."""
    exchange = venue(reply_backlog_bytes=500)
    watcher = Watcher(exchange)
    for _ in range(20):
        watcher.send("list_subscriptions")
    assert (1008, "commands are sent but replies are not read") == watcher.session.closing


def test_lifecycles_of_combos_go_apart() -> None:
    """Combos are told of on their own channel, everything else on the other, each with its own counter."""
    exchange = pond()
    watcher = Watcher(exchange)
    watcher.ask("subscribe", channels=["market_lifecycle_v2", "multivariate_market_lifecycle"])
    exchange.create("KXMVEPOND-S1-01")
    exchange.create("KXNEWT-26DEC02-T1")
    exchange.pause("KXMVEPOND-S1-01")
    told = [(one["type"], one["sid"], one["seq"], one["msg"].get("event_type")) for one in watcher.hear()]
    assert [
        ("event_lifecycle", 2, 1, None),
        ("multivariate_market_lifecycle", 2, 2, "created"),
        ("event_lifecycle", 1, 1, None),
        ("market_lifecycle_v2", 1, 2, "created"),
        ("multivariate_market_lifecycle", 2, 3, "deactivated"),
    ] == told


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["subscribe", "add", "delete", "peek", "unsubscribe", "move", "hear", "part", "leave"]
        ),
        st.integers(0, 2),
        st.lists(st.integers(0, 6), min_size=1, max_size=4),
    ),
    max_size=40,
)


@given(STEPS, st.integers(0, 1_000))
def test_any_history_adds_up(steps: list[tuple[str, int, list[int]]], seed: int) -> None:
    """Numbers have no hole, copies equal the truth, and the routes are empty when all have left."""
    exchange = venue(markets=6, messages_per_second=300, short_lived=0.3, life_seconds=2, seed=seed)
    exchange.create(TOAD)
    tickers = [market.ticker for market in exchange.model.held()]
    watchers = [Watcher(exchange), Watcher(exchange, yes_scale=True), Watcher(exchange)]
    for kind, who, places in steps:
        watcher, named = watchers[who], [tickers[place % len(tickers)] for place in places]
        if kind == "subscribe":
            watcher.send(
                "subscribe",
                channels=["orderbook_delta", "trade"],
                market_tickers=named,
                use_yes_price=who == 1,
            )
        elif kind in {"add", "delete", "peek"}:
            action = {"add": "add_markets", "delete": "delete_markets", "peek": "get_snapshot"}[kind]
            sid = next((held.sid for held in watcher.session.subscriptions), 1)
            watcher.send("update_subscription", 5, sid=sid, action=action, market_tickers=named)
        elif kind == "unsubscribe":
            watcher.send("unsubscribe", 6, sids=[held.sid for held in watcher.session.subscriptions])
        elif kind == "move":
            exchange.advance(exchange.now_us + 50_000 * len(places))
        elif kind == "leave":
            exchange.disconnect(watcher.session)
            watchers[who] = Watcher(exchange, yes_scale=who == 1)
        else:
            watcher.hear(400 if kind == "part" else 1 << 30)
    for watcher in watchers:
        while watcher.hear():
            pass
        for held in watcher.session.subscriptions:
            if held.channel.name == "orderbook_delta":
                for ticker in held.tickers:
                    if ticker in exchange.model:
                        assert sides_of(exchange.truth(ticker)) == watcher.sides(ticker)
        exchange.disconnect(watcher.session)
    assert 0 == exchange.routes


def test_turns_that_are_rare() -> None:
    """A market is closed, reopened, closed again, disputed and amended; what is told is the exchange's."""
    exchange = pond()
    watcher = Watcher(exchange)
    watcher.ask("subscribe", channels=["market_lifecycle_v2"])
    now_s = START_US // 1_000_000

    def told() -> list[str]:
        return [frame["msg"]["event_type"] for frame in watcher.hear()]

    exchange.close(TOAD)
    assert ["close_date_updated"] == told()
    exchange.advance(START_US + 100_000)
    exchange.reopen(TOAD, now_s + 60)
    assert ["close_date_updated", "activated"] == told()
    exchange.advance(START_US + 50_000_000)
    assert ([], "active") == (told(), exchange.truth(TOAD).status)
    exchange.advance(START_US + 63_500_000)
    assert (["determined"], "determined") == (told(), exchange.truth(TOAD).status)
    exchange.dispute(TOAD)
    exchange.advance(START_US + 100_000_000)
    assert ([], "disputed") == (told(), exchange.truth(TOAD).status)
    exchange.determine(TOAD, "no")
    assert (["determined"], "amended") == (told(), exchange.truth(TOAD).status)
    assert "0.0000" == watcher.of("market_lifecycle_v2")[-1]["settlement_value"]
    exchange.advance(START_US + 106_000_000)
    assert (["settled"], "finalized") == (told(), exchange.truth(TOAD).status)


def test_a_grid_can_become_finer() -> None:
    """Resting orders stay, the bands are told; a grid without their prices is refused."""
    exchange = pond()
    watcher = Watcher(exchange)
    watcher.ask("subscribe", channels=["market_lifecycle_v2"])
    before = exchange.truth(FROGS[0])
    exchange.set_grid(FROGS[0], "deci_cent")
    (frame,) = watcher.hear()
    assert ("price_level_structure_updated", "deci_cent") == (
        frame["msg"]["event_type"],
        frame["msg"]["price_level_structure"],
    )
    assert sides_of(before) == sides_of(exchange.truth(FROGS[0]))
    exchange.change(FROGS[0], "yes", 4_010, 5)
    with pytest.raises(ValueError, match="not in tuple"):
        exchange.set_grid(FROGS[0], "linear_cent")
    assert (4_010, 5) in exchange.truth(FROGS[0]).yes
