"""Top of book and ticker: the newest state, and only when something in it changed."""

import tracemalloc
from collections.abc import Callable
from typing import Any

from kalshibook.stream.encode import top_tail
from kalshibook.stream.newest import Folded
from kalshibook.stream.shared import Body
from tests.store.builders import lifecycle, ticker_message, trade
from tests.stream.stage import T40, T45, TOAD, Stage, User


def watch(stage: Stage, channel: str = "top_of_book", *tickers: str, **params: Any) -> User:
    """Return a client that watches these markets, or all."""
    user = stage.connect()
    if tickers:
        params["market_tickers"] = [*tickers]
    user.send("subscribe", channels=[channel], **params)
    return user


def messages(user: User) -> list[dict[str, Any]]:
    """Take all there is and return the data frames' messages."""
    return [frame["msg"] for frame in user.hear() if frame["type"] in ("top_of_book", "ticker")]


def test_top_of_book() -> None:
    """The top carries both views, the condition and the exchange's time; an absent side is null."""
    stage = Stage()
    stage.script.snapshot({4_000: 7_550}, {})
    stage.script.delta("yes", 4_000, 25)
    (top,) = messages(watch(stage, "top_of_book", T40))
    assert {
        "market_ticker": T40,
        "yes_bid_dollars": "0.4000",
        "yes_bid_size_fp": "75.75",
        "yes_ask_dollars": None,
        "yes_ask_size_fp": None,
        "no_bid_dollars": None,
        "no_bid_size_fp": None,
        "no_ask_dollars": "0.6000",
        "no_ask_size_fp": "75.75",
        "condition": "live",
        "stale_reason": None,
        "status": None,
        "version": stage.store.cut()[T40].version,
        "ts_ms": 5_000,
    } == top


def test_only_changes_of_the_top_are_sent() -> None:
    """A change below the best level is silent, one of its size is not; a trade alone is silent."""
    stage = Stage()
    stage.script.snapshot({4_000: 100, 3_000: 100}, {5_000: 100})
    stage.deliver()
    user = watch(stage, "top_of_book", T40)
    user.hear()
    stage.script.delta("yes", 3_000, 10)
    stage.script.apply(trade())
    stage.deliver()
    assert [] == user.hear()
    for side, price, change in (
        ("yes", 4_000, 10),
        ("no", 5_000, -100),
        ("yes", 4_000, -110),
        ("yes", 3_000, -110),
    ):
        stage.script.delta(side, price, change)  # type: ignore[arg-type]
        stage.deliver()
        assert 1 == len(messages(user)), (side, price)
    assert [None, None] == [user.tops[T40]["yes_bid_dollars"], user.tops[T40]["yes_ask_dollars"]]


def test_condition_and_status_come_in_band() -> None:
    """Awaiting, live, stale with its reason, live again, and closed each reach the subscriber."""
    stage = Stage()
    user = watch(stage, "top_of_book", T40)
    seen = []
    steps: list[Callable[[], object]] = [
        lambda: stage.script.apply(lifecycle("created")),
        lambda: stage.script.snapshot({4_000: 100}, {}),
        lambda: stage.script.delta("yes", 4_000, -500),
        lambda: stage.script.snapshot({4_000: 100}, {}),
        lambda: stage.script.apply(lifecycle("activated")),
        lambda: stage.script.apply(lifecycle("determined", result="yes")),
    ]
    for step in steps:
        step()
        stage.deliver()
        seen += [(top["condition"], top["status"], top["stale_reason"] is not None) for top in messages(user)]
    assert [
        ("awaiting", "initialized", False),
        ("live", "initialized", False),
        ("stale", "initialized", True),
        ("live", "initialized", False),
        ("live", "active", False),
        ("closed", "determined", False),
    ] == seen


def test_a_close_without_a_message_comes_in_band() -> None:
    """A market whose close time passes is closed for its subscribers, though the exchange said nothing."""
    stage = Stage()
    stage.script.apply(lifecycle("created", open_us=1_000, close_us=2_000))
    stage.script.snapshot({4_000: 100}, {})
    stage.deliver()
    user = watch(stage, "top_of_book", T40)
    seen = [(top["condition"], top["status"]) for top in messages(user)]
    for moment_us in (1_000, 1_999, 2_000):
        with stage.store.writer() as writer:
            writer.tick(moment_us)
        stage.deliver()
        seen += [(top["condition"], top["status"]) for top in messages(user)]
    assert [("live", "initialized"), ("live", "active"), ("closed", "closed")] == seen


def test_market_awaiting_is_told() -> None:
    """A known market without a snapshot is sent as awaiting, with nothing in it that looks like a book."""
    stage = Stage()
    stage.script.apply(lifecycle("created"))
    (top,) = messages(watch(stage, "top_of_book", T40))
    assert ("awaiting", None, None) == (top["condition"], top["yes_bid_dollars"], top["yes_ask_dollars"])


def test_newest_wins() -> None:
    """What waits is replaced by what is newer; the client is told how many it stands for, and since when."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {})
    stage.deliver()
    user = watch(stage, "top_of_book", T40)
    user.hear()
    first_ms = stage.now_us // 1_000
    for _ in range(3):
        stage.script.delta("yes", 4_000, 10)
        stage.deliver()
        stage.now_us += 5_000
    (top,) = messages(user)
    assert (3, first_ms, "1.30") == (top["merged"], top["since_ms"], top["yes_bid_size_fp"])
    assert {1: 2} == user.seqs
    stage.script.delta("yes", 4_000, 10)
    stage.deliver()
    (top,) = messages(user)
    assert "merged" not in top
    assert 2 == stage.hub.statistics().conflated


def test_folded_changes_stand_for_the_later_ones() -> None:
    """Of changes that were folded, a state counts those after any version, and since the first of them."""
    with_versions = [(3, 100, 1), (5, 200, 2), (9, 300, 4)]
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {})
    book = stage.store.book(T40)
    folded = Folded(*with_versions[0])
    for part in with_versions[1:]:
        folded.add(*part)
    latest = folded.latest(book, Body(book, top_tail))

    assert (100, 7, folded) == (latest.since_us, latest.merged, latest.folded)
    for version, expected in {
        2: (100, 7, 2),
        3: (200, 6, 1),
        4: (200, 6, 1),
        5: (300, 4, 0),
        8: (300, 4, 0),
    }.items():
        later, replaced = folded.after(version)
        assert expected == (later.since_us, later.merged, replaced)
        # A client that never reads must not hold what a whole round has changed.
        assert later.folded is None


def test_changes_before_the_first_state_are_left_out() -> None:
    """The state sent on subscribing is never followed by an older one."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {})
    stage.script.delta("yes", 4_000, 10)
    user = watch(stage)
    assert ["1.10"] == [top["yes_bid_size_fp"] for top in messages(user)]
    stage.deliver()
    assert [] == user.hear()
    stage.script.snapshot({4_000: 100}, {}, ticker=T45)
    stage.script.delta("yes", 4_000, 10, ticker=T45)
    user = watch(stage, "top_of_book", T40)
    user.send("subscribe", channels=["top_of_book"], market_ticker=T45)
    assert ["1.10", "1.10"] == [top["yes_bid_size_fp"] for top in messages(user)]
    stage.deliver()
    assert [] == user.hear()


def test_added_market_does_not_hide_changes_of_others() -> None:
    """A market added from a newer version leaves undelivered changes of those held before alone."""
    stage = Stage()
    for ticker in (T40, T45):
        stage.script.snapshot({4_000: 100}, {}, ticker=ticker)
    stage.deliver()
    user = watch(stage, "top_of_book", T40)
    user.hear()
    stage.script.delta("yes", 4_000, 10)
    stage.script.delta("yes", 4_000, 20, ticker=T45)
    user.send("subscribe", channels=["top_of_book"], market_ticker=T45)
    assert [(T45, "1.20")] == [(top["market_ticker"], top["yes_bid_size_fp"]) for top in messages(user)]
    stage.deliver()
    assert [(T40, "1.10")] == [(top["market_ticker"], top["yes_bid_size_fp"]) for top in messages(user)]


def test_ticker() -> None:
    """A ticker has Kalshi's shape, from the book and from upstream statistics, and no seq."""
    stage = Stage()
    stage.script.snapshot({4_000: 7_550}, {5_700: 1_025})
    user = watch(stage, "ticker", T40)
    assert [] == messages(user)
    stage.script.apply(
        ticker_message(
            last_price=4_100,
            last_size=250,
            volume=1_823_475,
            open_interest=912_050,
            dollar_volume=9_117,
            dollar_open_interest=4_560,
            exchange_us=1_795_348_800_000_000,
        )
    )
    stage.deliver()
    (frame,) = user.hear()
    assert {"type", "sid", "msg"} == set(frame)
    assert {
        "market_ticker": T40,
        "market_id": "",
        "yes_bid_dollars": "0.4000",
        "yes_bid_size_fp": "75.50",
        "yes_ask_dollars": "0.4300",
        "yes_ask_size_fp": "10.25",
        "price_dollars": "0.4100",
        "last_trade_size_fp": "2.50",
        "volume_fp": "18234.75",
        "open_interest_fp": "9120.50",
        "dollar_volume": 9_117,
        "dollar_open_interest": 4_560,
        "ts": 1_795_348_800,
        "ts_ms": 1_795_348_800_000,
        "time": "2026-11-22T12:00:00.000000Z",
    } == frame["msg"]


def test_ticker_of_an_empty_book() -> None:
    """No bid is 0.0000 and no ask 1.0000, both with size 0.00; unknown statistics are left out."""
    stage = Stage()
    stage.script.snapshot({}, {})
    (message,) = messages(watch(stage, "ticker", T40, send_initial_snapshot=True))
    assert {
        "market_ticker": T40,
        "market_id": "",
        "yes_bid_dollars": "0.0000",
        "yes_bid_size_fp": "0.00",
        "yes_ask_dollars": "1.0000",
        "yes_ask_size_fp": "0.00",
    } == message


def test_ticker_of_a_book_in_doubt() -> None:
    """Quotes that are not known are left out of a ticker rather than sent as an empty book's."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {})
    stage.script.apply(ticker_message(last_price=4_100))
    stage.deliver()
    user = watch(stage, "ticker", T40)
    user.hear()
    stage.script.delta("yes", 4_000, -500)
    stage.deliver()
    (message,) = messages(user)
    assert {"market_ticker": T40, "market_id": "", "price_dollars": "0.4100", "ts": 5, "ts_ms": 5_000} == {
        key: value for key, value in message.items() if key != "time"
    }
    stage.script.snapshot({4_000: 100}, {})
    stage.deliver()
    assert "0.4000" == messages(user)[0]["yes_bid_dollars"]


def test_ticker_is_sent_when_a_field_changes() -> None:
    """A change of quotes or statistics is sent, one of depth or of the status is not."""
    stage = Stage()
    stage.script.snapshot({4_000: 100, 3_000: 100}, {})
    stage.deliver()
    user = watch(stage, "ticker")
    user.hear()
    for event in (lifecycle("activated"), ticker_message()):
        stage.script.apply(event)
    stage.script.delta("yes", 3_000, 1)
    stage.deliver()
    assert [] == user.hear()
    stage.script.apply(trade(price=4_200))
    stage.deliver()
    assert "0.4200" == messages(user)[0]["price_dollars"]
    stage.script.delta("yes", 4_000, 1)
    stage.deliver()
    assert "1.01" == messages(user)[0]["yes_bid_size_fp"]


def test_deleted_market_drops_what_waits() -> None:
    """The top of a market that is deleted is not sent, even if it waited."""
    stage = Stage()
    for ticker in (T40, T45):
        stage.script.snapshot({4_000: 100}, {}, ticker=ticker)
    stage.deliver()
    user = watch(stage, "top_of_book", T40, T45)
    user.send("update_subscription", sid=1, action="delete_markets", market_ticker=T40)
    assert [T45] == [top["market_ticker"] for top in messages(user)]


def test_first_state_of_all_markets_comes_in_parts() -> None:
    """All markets' tops come over several writes; what changes meanwhile follows, never the other way."""
    stage = Stage()
    names = [f"KX-{n}" for n in range(30)]
    for name in names:
        stage.script.snapshot({4_000: 100}, {}, ticker=name)
    stage.deliver()
    user = watch(stage)
    seen: list[tuple[str, str]] = []
    for n in (29, 0, 15):
        seen += [(top["market_ticker"], top["yes_bid_size_fp"]) for top in _some(user, 2_000)]
        stage.script.delta("yes", 4_000, 10, ticker=names[n])
        stage.deliver()
    assert 0 < len(seen) < 30
    while tops := _some(user, 2_000):
        seen += [(top["market_ticker"], top["yes_bid_size_fp"]) for top in tops]
    assert [(name, "1.00") for name in names] == seen[:30]
    assert [(names[n], "1.10") for n in (29, 0, 15)] == seen[30:]
    assert 0 == stage.hub.statistics().waiting


def test_named_markets_keep_their_changes_when_they_become_all() -> None:
    """A change that is under way to a named market arrives after the subscription was extended to all."""
    stage = Stage()
    for ticker in (T40, T45):
        stage.script.snapshot({4_000: 100}, {}, ticker=ticker)
    stage.deliver()
    user = watch(stage, "top_of_book", T40)
    user.hear()
    for ticker in (T40, T45):
        stage.script.delta("yes", 4_000, 10, ticker=ticker)
    user.send("subscribe", channels=["top_of_book"])
    stage.deliver()
    assert [(T45, "1.10"), (T40, "1.10")] == [
        (top["market_ticker"], top["yes_bid_size_fp"]) for top in messages(user)
    ]


def test_all_markets_cost_a_client_nothing_before_they_are_written() -> None:
    """The first state of thousands of markets is walked as it is written, not copied for each client."""
    stage = Stage()
    for n in range(5_000):
        stage.script.snapshot({4_000: 100}, {}, ticker=f"KX-{n}")
    stage.deliver()
    tracemalloc.start()
    try:
        users = [watch(stage) for _ in range(10)]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10 * 10_000
    assert 5_000 == len(messages(users[0]))


def test_markets_of_a_prefix_cost_a_client_nothing_before_they_are_written() -> None:
    """A subscription by prefix walks its markets as it is written too: the command itself holds up nobody."""
    stage = Stage()
    for n in range(5_000):
        stage.script.snapshot({4_000: 100}, {}, ticker=f"KX-{n}")
    stage.deliver()
    user = stage.connect()
    tracemalloc.start()
    try:
        user.send("subscribe", channels=["top_of_book"], market_prefixes=["K", "KX"], market_tickers=["KX-7"])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10_000
    assert sorted(f"KX-{n}" for n in range(5_000)) == sorted(top["market_ticker"] for top in messages(user))


def test_a_prefix_added_later_sends_nothing_older_than_its_first_state() -> None:
    """A change that was under way when a prefix was added does not follow the state that has it already."""
    stage = Stage()
    for ticker in (T40, TOAD):
        stage.script.snapshot({4_000: 100}, {}, ticker=ticker)
    stage.deliver()
    user = watch(stage, "top_of_book", T40)
    user.hear()
    for ticker in (T40, TOAD):
        stage.script.delta("yes", 4_000, 10, ticker=ticker)
    user.send("subscribe", channels=["top_of_book"], market_prefixes=["KX"])
    stage.deliver()
    assert [(TOAD, "1.10"), (T40, "1.10")] == [
        (top["market_ticker"], top["yes_bid_size_fp"]) for top in messages(user)
    ]


def test_a_prefix_deleted_while_it_is_walked_ends_there() -> None:
    """What is left of a prefix's first state is not sent once the prefix is deleted, a second one's is."""
    stage = Stage()
    for name in ("A", "B"):
        for n in range(30):
            stage.script.snapshot({4_000: 100}, {}, ticker=f"{name}-{n}")
    stage.deliver()
    user = stage.connect()
    user.send("subscribe", channels=["top_of_book"], market_prefixes=["A"])
    before = _some(user, 2_000)
    assert 0 < len(before) < 30
    user.send("subscribe", channels=["top_of_book"], market_prefixes=["B"])
    user.send("update_subscription", sid=1, action="delete_markets", market_prefixes=["A"])
    assert {f"B-{n}" for n in range(30)} == {top["market_ticker"] for top in messages(user)}


def test_a_market_named_beside_its_prefix_is_sent_when_the_prefix_goes() -> None:
    """A market that was added by name while a prefix covers it keeps its first state without the prefix."""
    stage = Stage()
    for n in range(30):
        stage.script.snapshot({4_000: 100}, {}, ticker=f"A-{n:02d}")
    stage.deliver()
    user = stage.connect()
    user.send("subscribe", channels=["top_of_book"], market_prefixes=["A"])
    assert "A-29" not in {top["market_ticker"] for top in _some(user, 2_000)}
    user.send("update_subscription", sid=1, action="add_markets", market_tickers=["A-29"])
    user.send("update_subscription", sid=1, action="delete_markets", market_prefixes=["A"])
    assert ["A-29"] == [top["market_ticker"] for top in messages(user)]


def test_prefixes_added_and_deleted_over_and_over_do_not_add_up() -> None:
    """However often a client changes its mind, what waits is bounded by what it selects."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {}, ticker="A-1")
    stage.deliver()
    user = stage.connect()
    user.ask("subscribe", channels=["top_of_book"], market_prefixes=["B"])
    for _ in range(3):
        user.send("update_subscription", sid=1, action="add_markets", market_prefixes=["A", "AB"])
        user.send("update_subscription", sid=1, action="add_markets", market_prefixes=["A-", "A-1"])
        user.send("update_subscription", sid=1, action="delete_markets", market_prefixes=["A"])
    user.send("update_subscription", sid=1, action="add_markets", market_prefixes=["A"])
    replies = 3 * 3 + 1
    assert replies + 1 == stage.hub.statistics().waiting
    assert ["A-1"] == [top["market_ticker"] for top in messages(user)]


def _some(user: User, limit_bytes: int) -> list[dict[str, Any]]:
    return [frame["msg"] for frame in user.hear(limit_bytes) if frame["type"] == "top_of_book"]
