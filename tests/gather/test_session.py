from typing import Any

import pytest

from kalshibook.gather.markets import MARKETS, MarketEvent, MarketState
from kalshibook.gather.records import Received
from kalshibook.gather.session import Role
from kalshibook.simulator.frames import ticker_frame, trade_frame
from tests.gather.stage import SID, Stage


def test_many_markets_take_few_commands() -> None:
    """7,500 markets are subscribed to with one command and added with seven, in their order."""
    stage = Stage()
    tickers = [f"KX-{number}" for number in range(7_500)]
    stage.open(*tickers)
    (first,) = stage.sent()
    assert ("subscribe", tickers[:1_000]) == (first["cmd"], first["params"]["market_tickers"])
    assert first["params"]["use_yes_price"] is False
    stage.subscribed(first["id"])
    held, commands = 1_000, 0
    while batch := stage.sent():
        stage.wait(0.1)
        for command in batch:
            commands += 1
            assert tickers[held : held + 1_000] == command["params"]["market_tickers"]
            held += len(command["params"]["market_tickers"])
            stage.ok(command["id"], tickers[:held])
    assert (7, 7_500) == (commands, held)
    for ticker in tickers:
        stage.snapshot(ticker)
    assert stage.all_live
    assert not stage.troubles


def test_one_market_more_is_one_command() -> None:
    """And those that come one by one in quick succession share the next."""
    stage = Stage()
    stage.follow("A", "B")
    stage.wait(0.2)
    stage.session.add(["C"], stage.now_us)
    stage.session.add(["D"], stage.now_us)
    stage.session.add(["E", "A"], stage.now_us)
    assert [("add_markets", ["C"])] == stage.asked()
    stage.wait(0.1)
    assert [("add_markets", ["D", "E"])] == stage.asked()


def test_a_market_whose_addition_has_no_answer_is_taken_off_when_it_goes() -> None:
    """The exchange may have added it all the same, and would send its changes for ever."""
    stage = Stage(command_timeout_s=1.0)
    stage.follow("A")
    stage.wait(0.2)
    stage.session.add(["B"], stage.now_us)
    assert [("add_markets", ["B"])] == stage.asked()
    while "command" not in stage.troubles:
        stage.wait(0.1)
    stage.session.remove(["B"], stage.now_us)
    stage.wait(1)

    assert [("delete_markets", ["B"])] == stage.asked()


def test_a_market_that_goes_before_the_subscription_is_answered_is_taken_off() -> None:
    """It was named in the command, and is on the subscription once that is there."""
    stage = Stage()
    stage.open("A", "B", "C")
    (command,) = stage.sent()
    stage.session.remove(["B", "C"], stage.now_us)
    assert [] == stage.asked()
    stage.session.add(["C"], stage.now_us)
    stage.subscribed(command["id"])
    (taken_off,) = stage.sent()

    assert ["B"] == taken_off["params"]["market_tickers"]
    assert "delete_markets" == taken_off["params"]["action"]
    stage.ok(taken_off["id"], ["A", "C"])
    stage.wait(0.2)
    assert [("add_markets", ["C"])] == stage.asked()


def test_what_is_received_is_handed_on_untouched() -> None:
    """With the connection, the time, and what its head says."""
    stage = Stage()
    stage.follow("A")
    received = stage.delta("A")

    assert received is not None
    assert Received(received.frame, "c1", stage.now_us, "orderbook_delta", SID, 2) == received
    assert ["subscribed", "orderbook_snapshot", "orderbook_delta"] == [one.type for one in stage.passed]


def test_a_gap_puts_all_markets_in_doubt_and_heals_by_snapshots() -> None:
    """The notice stands before the frame that shows the gap, and the ledger says when it was healed."""
    stage = Stage()
    stage.follow("A", "B")
    stage.now_us += 1
    assert stage.delta("A", lost=2) is not None
    (notice,) = stage.notices
    assert ("stale", "gap", "c1", SID) == (notice.notice, notice.reason, notice.connection, notice.sid)
    assert {"A": "doubted", "B": "doubted"} == stage.states()
    (command,) = stage.sent()
    assert ("get_snapshot", ["A", "B"]) == (
        command["params"]["action"],
        command["params"]["market_tickers"],
    )
    (found,) = stage.records
    assert (3, 4, 2, ("A", "B"), "gap") == (
        found.from_sequence,
        found.to_sequence,
        found.markets,
        found.tickers,
        found.cause,
    )
    stage.snapshot("A", number=command["id"])
    assert {"A": "live", "B": "doubted"} == stage.states()
    stage.now_us += 5
    stage.snapshot("B", number=command["id"])
    assert stage.all_live
    assert (stage.now_us, "snapshots", found.id) == (
        stage.records[-1].healed_us,
        stage.records[-1].how,
        stage.records[-1].id,
    )
    assert 2 == len(stage.records)
    stage.wait(15)
    assert not stage.drops
    assert ["gap", "healed"] == stage.troubles


def test_control_frames_count() -> None:
    """`ok`, scoped errors and unknown types take numbers: no gap is seen where they stand."""
    stage = Stage()
    stage.follow("A")
    stage.wait(0.2)
    stage.session.add(["B"], stage.now_us)
    stage.ok(stage.sent()[0]["id"], ["A", "B"])
    stage.snapshot("B")
    stage.error(99, sid=SID, seq=stage.next())
    assert stage.say({"type": "novelty", "sid": SID, "seq": stage.next(), "msg": {}}) is not None
    stage.delta("A")
    assert not stage.records
    assert stage.all_live


def test_duplicates_are_dropped() -> None:
    """The second of two equal numbers is not handed on, and counted."""
    stage = Stage()
    stage.follow("A")
    assert stage.delta("A") is not None
    stage.number -= 1
    assert stage.delta("A") is None
    assert stage.delta("A") is not None
    assert ["duplicate"] == stage.troubles


def test_a_late_frame_is_dropped_because_the_snapshot_has_it() -> None:
    """Frames that change places are a gap, and the late one must not be applied after the snapshot."""
    stage = Stage()
    stage.follow("A", "B")
    stage.delta("A", lost=1)
    stage.number -= 2
    assert stage.delta("B") is None
    stage.number += 1
    assert ["gap", "late"] == stage.troubles
    (command,) = stage.sent()
    for ticker in ("A", "B"):
        stage.snapshot(ticker, number=command["id"])
    assert stage.all_live


def test_a_second_gap_while_healing_ends_the_connection() -> None:
    """Both are in the ledger, and the next connection heals both."""
    stage = Stage()
    stage.follow("A", "B")
    stage.delta("A", lost=1)
    assert stage.delta("A", lost=3) is None
    assert [("disconnected")] == [drop.cause for drop in stage.drops]
    gaps = stage.session.lost("disconnected", stage.now_us)
    assert ["gap", "gap", "disconnected"] == [gap.record.cause for gap in gaps]
    assert ("stale", "disconnected", "c1", None) == (
        stage.notices[-1].notice,
        stage.notices[-1].reason,
        stage.notices[-1].connection,
        stage.notices[-1].sid,
    )
    again = Stage(connection="c2", before=stage, gaps=gaps)
    again.follow("A", "B")
    healed = [record for record in again.records if record.how]
    assert ["reconnected"] * 3 == [record.how for record in healed]
    assert 0 == again.shared.ledger.counts().open


def test_numbers_that_go_back_end_the_connection() -> None:
    """A counter that begins again cannot be followed."""
    stage = Stage()
    stage.follow("A")
    stage.delta("A")
    stage.number = 0
    assert stage.delta("A") is None
    assert ["reset"] == [drop.cause for drop in stage.drops]
    assert stage.delta("A") is None


def test_after_a_gap_was_healed_the_next_one_is_healed_too() -> None:
    """A second gap is only one while the first is open."""
    stage = Stage()
    stage.follow("A")
    for _ in range(50):
        stage.delta("A", lost=1)
        stage.snapshot("A", number=stage.sent()[0]["id"])
        stage.wait(0.1)
    assert not stage.drops
    assert 50 == stage.shared.ledger.counts().healed


@pytest.mark.parametrize("how", ["unknown id", "no number"])
def test_any_snapshot_of_the_market_heals(how: str) -> None:
    """Whoever asked for it."""
    stage = Stage()
    stage.follow("A")
    stage.delta("A", lost=1)
    stage.snapshot("A", number=77 if how == "unknown id" else None)
    assert stage.all_live
    stage.wait(20)
    assert not stage.drops


def test_a_snapshot_that_does_not_come() -> None:
    """First again, then by taking the market off and adding it; then it is given up for a while."""
    stage = Stage(command_timeout_s=1, missing_retry_s=30, silence_s=1_000)
    stage.follow("A", "B")
    stage.delta("A", lost=1)
    (command,) = stage.sent()
    stage.snapshot("A", number=command["id"])
    stage.wait(1)
    assert [("get_snapshot", ["B"])] == stage.asked()
    stage.wait(1)
    (deletion,) = stage.sent()
    assert "delete_markets" == deletion["params"]["action"]
    stage.ok(deletion["id"], ["A"])
    (addition,) = stage.sent()
    assert ("add_markets", ["B"]) == (addition["params"]["action"], addition["params"]["market_tickers"])
    stage.ok(addition["id"], ["A", "B"])
    stage.wait(1)
    assert {"A": "live", "B": "missing"} == stage.states()
    assert "missing" in stage.troubles
    # A market that nobody answers for does not keep the next gap from being healed.
    stage.delta("A", lost=1)
    stage.snapshot("A", number=stage.sent()[0]["id"])
    assert {"A": "live", "B": "missing"} == stage.states()
    assert not stage.drops
    stage.wait(30)
    assert ("delete_markets", ["B"]) in stage.asked()


def test_markets_that_are_not_in_the_list() -> None:
    """The exchange takes an unknown ticker without an error, and leaves it out of its list."""
    stage = Stage(missing_retry_s=5)
    stage.follow("A")
    stage.wait(0.2)
    stage.session.add(["B", "C"], stage.now_us)
    (command,) = stage.sent()
    stage.ok(command["id"], ["A", "C"])
    stage.snapshot("C")
    assert {"A": "live", "B": "missing", "C": "live"} == stage.states()
    stage.wait(5)
    (deletion,) = stage.sent()
    stage.ok(deletion["id"], ["A", "C"])
    (addition,) = stage.sent()
    stage.ok(addition["id"], ["A", "B", "C"])
    stage.snapshot("B")
    assert stage.all_live


def test_a_market_that_is_given_back_is_deleted() -> None:
    """One that was never asked for needs no command."""
    stage = Stage()
    stage.follow("A", "B", "C")
    stage.wait(0.2)
    stage.session.remove(["A", "B", "unknown"], stage.now_us)
    (command,) = stage.sent()
    assert ("delete_markets", ["A", "B"]) == (
        command["params"]["action"],
        command["params"]["market_tickers"],
    )
    stage.ok(command["id"], ["C"])
    assert {"C": "live"} == stage.states()


def test_a_removed_market_is_not_waited_for() -> None:
    """A gap is healed when those that are still followed are whole."""
    stage = Stage(silence_s=1_000)
    stage.follow("A", "B")
    stage.delta("A", lost=1)
    stage.snapshot("A", number=stage.sent()[0]["id"])
    stage.session.remove(["B"], stage.now_us)
    stage.ok(stage.sent()[0]["id"], ["A"])
    assert 0 == stage.shared.ledger.counts().open
    stage.wait(30)
    assert not stage.drops


@pytest.mark.parametrize(("code", "cause"), [(25, "overflow"), (10, "ended")])
def test_a_subscription_that_the_exchange_ends_is_made_anew(code: int, cause: str) -> None:
    """All its markets are in doubt until the new one has sent their snapshots."""
    stage = Stage(backoff_first_s=0.1)
    stage.follow("A", "B")
    stage.error(code, sid=SID, seq=stage.next())
    assert [("stale", cause, SID)] == [(one.notice, one.reason, one.sid) for one in stage.notices]
    assert {"A": "wanted", "B": "wanted"} == stage.states()
    stage.wait(0.2)
    (command,) = stage.sent()
    assert ("subscribe", ["A", "B"]) == (command["cmd"], command["params"]["market_tickers"])
    stage.subscribed(command["id"], sid=SID + 1)
    for ticker in ("A", "B"):
        stage.snapshot(ticker, sid=SID + 1)
    assert stage.all_live
    assert [(cause, None), (cause, "resubscribed")] == [(one.cause, one.how) for one in stage.records]
    # What was under way on the old one has no meaning here.
    assert stage.delta("A", sid=SID) is None
    assert not stage.drops


def test_a_limit_of_markets_is_found_and_the_rest_goes_elsewhere() -> None:
    """Error 26: halves, until one alone is refused."""
    stage = Stage(markets_per_command=8)
    tickers = [str(number) for number in range(20)]
    stage.open(*tickers)
    room, held = 11, 0
    for _ in range(60):
        for command in stage.sent():
            wanted = command["params"]["market_tickers"]
            if held + len(wanted) > room:
                stage.error(26, command["id"])
                continue
            held += len(wanted)
            if command["cmd"] == "subscribe":
                stage.subscribed(command["id"])
            else:
                stage.ok(command["id"], tickers[:held])
            for ticker in wanted:
                stage.snapshot(ticker)
        stage.wait(0.1)
    assert 11 == held == len(stage.states())
    assert set(tickers) == {*stage.states(), *stage.overfull}
    assert 20 == len(stage.states()) + len(stage.overfull)
    assert (11, 8) == (stage.shared.limits.per_connection, stage.shared.limits.per_command)
    assert stage.all_live


def test_too_many_commands_are_spread() -> None:
    """Error 27 and error 18 repeat the command after a pause."""
    stage = Stage(backoff_first_s=2)
    stage.follow("A")
    stage.wait(0.2)
    stage.session.add(["B"], stage.now_us)
    for code in (27, 18, 27):
        (command,) = stage.sent()
        stage.error(code, command["id"])
        assert [] == stage.sent()
        stage.wait(2)
    (command,) = stage.sent()
    stage.ok(command["id"], ["A", "B"])
    stage.snapshot("B")
    assert stage.all_live
    assert not stage.drops


@pytest.mark.parametrize("most", [1, 3])
def test_so_many_commands_are_under_way(most: int) -> None:
    """The others wait for an answer."""
    stage = Stage(commands_in_flight=most, markets_per_command=2)
    tickers = [str(number) for number in range(20)]
    stage.open(*tickers)
    stage.subscribed(stage.sent()[0]["id"])
    commands = stage.sent()
    assert most == len(commands)
    stage.ok(commands[0]["id"], tickers)
    assert 1 == len(stage.sent())


def test_pauses_grow_to_their_limit() -> None:
    """Each refusal in a row doubles the time that a pause may take, up to the limit."""
    longest = []
    for limit in (1, 40):
        stage = Stage(backoff_first_s=0.5, backoff_limit_s=limit, command_timeout_s=0.1, silence_s=1_000)
        stage.open("A")
        start_us = stage.now_us
        while not stage.drops:
            stage.wait(0.1)
        longest.append((stage.now_us - start_us) / 1e6)
    assert longest[0] <= 4 < longest[1]


def test_commands_without_an_answer_are_repeated_and_then_end_the_connection() -> None:
    """A command that nobody answers is sent again a few times."""
    stage = Stage(command_timeout_s=1, backoff_first_s=0.1, silence_s=1_000)
    stage.open("A")
    stage.wait(20)
    assert 4 == len([one for one in stage.sent() if one["cmd"] == "subscribe"])
    assert ["silent"] == [drop.cause for drop in stage.drops]


def test_an_unknown_error_is_survived() -> None:
    """A code that nobody has heard of, with an id and without."""
    stage = Stage(backoff_first_s=0.1)
    stage.follow("A")
    stage.wait(0.2)
    stage.error(77)
    stage.session.add(["B"], stage.now_us)
    stage.error(77, stage.sent()[0]["id"])
    stage.wait(1)
    (command,) = stage.sent()
    stage.ok(command["id"], ["A", "B"])
    stage.snapshot("B")
    assert stage.all_live
    assert not stage.drops


def test_an_invalid_name_does_not_keep_the_others_out() -> None:
    """Error 11 names it, or it is found by halves."""
    for named in (True, False):
        stage = Stage()
        tickers = ["A", "B", "bad", "D"]
        stage.open(*tickers)
        for _ in range(10):
            for command in stage.sent():
                wanted = command["params"]["market_tickers"]
                if "bad" in wanted:
                    stage.error(11, command["id"], msg={"market_ticker": "bad"} if named else {})
                    continue
                if command["cmd"] == "subscribe":
                    stage.subscribed(command["id"])
                else:
                    stage.ok(command["id"], tickers)
                for ticker in wanted:
                    stage.snapshot(ticker)
            stage.wait(0.1)
        assert {"A": "live", "B": "live", "bad": "missing", "D": "live"} == stage.states()


def test_where_get_snapshot_is_not_known_markets_are_added_anew() -> None:
    """Error 13: the older way is taken from then on."""
    stage = Stage()
    stage.follow("A")
    for attempt in range(2):
        stage.delta("A", lost=1)
        if attempt == 0:
            (command,) = stage.sent()
            assert "get_snapshot" == command["params"]["action"]
            stage.error(13, command["id"])
        (deletion,) = stage.sent()
        assert "delete_markets" == deletion["params"]["action"]
        stage.ok(deletion["id"], [])
        stage.wait(0.1)
        (addition,) = stage.sent()
        stage.ok(addition["id"], ["A"])
        stage.snapshot("A")
        assert stage.all_live
        stage.wait(0.2)


def test_snapshots_are_asked_for_within_the_budget() -> None:
    """Of many markets only as many as the bucket holds are asked for at once."""
    stage = Stage(snapshot_burst=100, snapshots_per_second=100, markets_per_command=100, refresh_minutes=0)
    tickers = [str(number) for number in range(500)]
    stage.open(*tickers)
    asked: list[tuple[float, int]] = []
    start_us = stage.now_us
    for _ in range(60):
        for command in stage.sent():
            wanted = command["params"]["market_tickers"]
            asked.append(((stage.now_us - start_us) / 1e6, len(wanted)))
            if command["cmd"] == "subscribe":
                stage.subscribed(command["id"])
            else:
                stage.ok(command["id"], tickers)
            for ticker in wanted:
                stage.snapshot(ticker)
        stage.wait(0.1)
    assert stage.all_live
    assert [100] * 5 == [count for _, count in asked]
    assert 3 <= asked[-1][0] <= 5


def test_refreshes_are_spread_over_their_interval() -> None:
    """Every market once in a minute, a few each second, marked as saying nothing new."""
    stage = Stage(refresh_minutes=1, silence_s=1_000)
    tickers = [str(number) for number in range(120)]
    stage.follow(*tickers)
    asked: list[str] = []
    for _ in range(61):
        stage.wait(1)
        for command in stage.sent():
            assert "get_snapshot" == command["params"]["action"]
            wanted = command["params"]["market_tickers"]
            assert 1 <= len(wanted) <= 3
            asked += wanted
            for ticker in wanted:
                received = stage.snapshot(ticker, number=command["id"])
                assert received is not None
                assert received.is_refresh
    assert 118 <= len(asked) <= 122
    assert set(tickers) == set(asked)


def test_what_others_have_lost_is_asked_for() -> None:
    """Only markets that are well here, and the answer counts as news."""
    stage = Stage()
    stage.follow("A", "B")
    assert 1 == stage.session.request(["A", "unknown"], stage.now_us)
    (command,) = stage.sent()
    assert ["A"] == command["params"]["market_tickers"]
    received = stage.snapshot("A", number=command["id"])
    assert received is not None
    assert not received.is_refresh


def test_silence_is_questioned_and_then_ended() -> None:
    """A socket that carries nothing although it was asked is given up."""
    stage = Stage(silence_s=5, command_timeout_s=2, refresh_minutes=0)
    stage.follow("A")
    stage.wait(5)
    first, second = stage.sent()
    assert "list_subscriptions" == first["cmd"]
    assert "get_snapshot" == second["params"]["action"]
    stage.say({"type": "ok", "id": first["id"], "msg": [{"channel": "orderbook_delta", "sid": SID}]})
    stage.snapshot("A", number=second["id"])
    stage.wait(4.9)
    assert [] == stage.sent()
    stage.wait(2.2)
    assert ["silent"] == [drop.cause for drop in stage.drops]


def test_what_was_lost_before_a_silence_is_found() -> None:
    """The answer to the question has a number, and shows that frames before it are missing."""
    stage = Stage(silence_s=5, refresh_minutes=0)
    stage.follow("A", "B")
    stage.wait(5)
    _, question = stage.sent()
    stage.snapshot("A", number=question["id"], lost=1)
    assert ["gap"] == stage.troubles
    assert [("get_snapshot", ["B"])] == stage.asked()


def test_time_in_which_nobody_read_is_excused() -> None:
    """Sockets are not read while Kafka is down; what was sent meanwhile is no silence."""
    stage = Stage(silence_s=5, command_timeout_s=2)
    stage.open("A")
    stage.now_us += 60_000_000
    stage.session.excuse(60_000_000)
    stage.session.tick(stage.now_us)
    (command,) = stage.sent()
    stage.subscribed(command["id"])
    stage.snapshot("A")
    assert stage.all_live
    assert not stage.troubles


def test_other_roles_follow_all_markets() -> None:
    """Each channel is subscribed to with a command of its own, without markets."""
    stage = Stage(Role.TRADES)
    stage.open()
    commands = stage.sent()
    assert [["ticker"], ["trade"]] == [one["params"]["channels"] for one in commands]
    assert all("market_tickers" not in one["params"] for one in commands)
    stage.subscribed(commands[0]["id"], "ticker", sid=1)
    stage.subscribed(commands[1]["id"], "trade", sid=2)
    assert stage.say(ticker_frame("A", {}, sid=1, ts_ms=1)) is not None
    assert stage.say(trade_frame("A", "t1", 4_000, 1, "yes", sid=2, seq=1, ts_ms=1)) is not None
    assert not stage.troubles


def trades() -> tuple[Stage, Any]:
    stage = Stage(Role.TRADES, backoff_first_s=0.1)
    stage.open()
    for command in stage.sent():
        channel = command["params"]["channels"][0]
        stage.subscribed(command["id"], channel, sid=1 if channel == "ticker" else 2)

    def trade(number: int) -> Received | None:
        return stage.say(trade_frame("A", f"t{number}", 4_000, 1, "yes", sid=2, seq=number, ts_ms=1))

    return stage, trade


def test_lost_trades_are_entered_and_late_ones_passed_on() -> None:
    """A trade means something by itself: one that comes late is handed on, and fills its gap."""
    stage, trade = trades()
    assert [True] * 4 == [trade(number) is not None for number in (1, 4, 2, 3)]
    assert trade(3) is None
    assert [(None, 2, 3), ("late", 2, 3)] == [
        (one.how, one.from_sequence, one.to_sequence) for one in stage.records
    ]
    assert () == stage.records[0].tickers
    # Books are of other connections: nothing is said of them.
    assert [] == stage.notices


def test_a_trade_channel_that_ends_is_subscribed_to_again() -> None:
    """The outage stands in the ledger with both its ends."""
    stage, trade = trades()
    trade(1)
    stage.error(25, sid=2, seq=2)
    stage.wait(0.2)
    (command,) = stage.sent()
    assert ["trade"] == command["params"]["channels"]
    stage.subscribed(command["id"], "trade", sid=5)
    assert [("overflow", None), ("overflow", "resubscribed")] == [
        (one.cause, one.how) for one in stage.records
    ]


def test_a_channel_that_is_gone_is_told_and_left() -> None:
    """Error 8: the other channel goes on, and the connection with it."""
    stage = Stage(Role.LIFECYCLE)
    stage.open()
    first, second = stage.sent()
    stage.subscribed(first["id"], "market_lifecycle_v2", sid=1)
    stage.error(8, second["id"])
    stage.wait(60)
    assert "ended" in stage.troubles
    assert not [one for one in stage.sent() if one["cmd"] == "subscribe"]


def test_frames_that_cannot_be_read_are_told() -> None:
    """What is no JSON, and what is of nobody's subscription, is not handed on."""
    stage = Stage(Role.TRADES)
    stage.open()
    assert stage.say(b"\xff{") is None
    assert stage.say(trade_frame("A", "t1", 4_000, 1, "yes", sid=9, seq=1, ts_ms=1)) is None
    assert ["unreadable", "unreadable"] == stage.troubles


def test_a_repeated_subscription_goes_on_from_its_number() -> None:
    """`ok` instead of `subscribed` says that the exchange holds it still; snapshots are asked for."""
    stage = Stage(command_timeout_s=1, silence_s=1_000)
    stage.open("A")
    (command,) = stage.sent()
    stage.number = 40
    stage.ok(command["id"], ["A"])
    stage.wait(1)
    assert [("get_snapshot", ["A"])] == stage.asked()
    stage.snapshot("A")
    assert stage.all_live
    assert not stage.records


def test_the_table_of_markets_is_whole() -> None:
    """Every state knows every event, and a snapshot makes live whatever was before."""
    for state in MarketState:
        assert set(MarketEvent) == set(MARKETS[state])
        assert MarketState.LIVE is MARKETS[state][MarketEvent.SNAPSHOT]
        assert MarketState.WANTED is MARKETS[state][MarketEvent.END]
    live = {event for event in MarketEvent if MARKETS[MarketState.DOUBTED][event] is MarketState.LIVE}
    assert {MarketEvent.SNAPSHOT} == live


def test_a_snapshot_of_a_subscription_that_is_over_makes_nothing_live() -> None:
    """It comes after the error that ended it: its market is subscribed to anew all the same."""
    stage = Stage()
    stage.follow("A", "B")
    stage.error(25, sid=SID, seq=stage.next())
    assert stage.snapshot("A") is None
    assert {"A": "wanted", "B": "wanted"} == stage.states()
    assert "unreadable" in stage.troubles
    stage.wait(1)
    (command,) = stage.sent()
    assert ("subscribe", {"A", "B"}) == (command["cmd"], set(command["params"]["market_tickers"]))


def test_markets_are_counted_by_state() -> None:
    """Each once, whatever the mixture; a state without a market is not named."""
    stage = Stage()
    stage.follow("A", "B")
    stage.session.add(["C", "D", "E"], stage.now_us)
    states = stage.states().values()
    assert {state: list(states).count(state) for state in states} == stage.session.books.counts()
    assert 2 == stage.session.books.counts()["live"]
    stage.delta("A", lost=1)
    states = stage.states().values()
    assert {state: list(states).count(state) for state in states} == stage.session.books.counts()
    assert {} == Stage().session.books.counts()


def test_a_snapshot_of_a_market_that_was_given_back_makes_nothing_live() -> None:
    """Readers were told that it has ended; its number counts, and it is taken off the subscription."""
    stage = Stage()
    stage.follow("A", "B")
    stage.session.request(["A"], stage.now_us)
    (asked,) = stage.sent()
    stage.session.remove(["A"], stage.now_us)
    (deletion,) = stage.sent()
    assert stage.snapshot("A", number=asked["id"]) is None
    stage.ok(deletion["id"], ["B"])
    assert stage.delta("B") is not None
    assert not stage.records
    assert {"B": "live"} == stage.states()


def test_a_market_that_is_given_back_before_its_subscription_is_answered() -> None:
    """The exchange follows it, as nobody could say otherwise in time; then it is taken off."""
    stage = Stage()
    stage.open("A", "B")
    (command,) = stage.sent()
    stage.session.remove(["A"], stage.now_us)
    stage.subscribed(command["id"])
    assert stage.snapshot("A") is None
    assert stage.snapshot("B") is not None
    stage.wait(0.2)
    assert [("delete_markets", ["A"])] == stage.asked()


@pytest.mark.parametrize("code", [18, 27])
def test_an_exchange_that_is_too_busy_makes_no_market_missing(code: int) -> None:
    """It is asked again the same way until it answers: the market is in doubt meanwhile, and not given up."""
    stage = Stage(backoff_first_s=0.1)
    stage.follow("A")
    stage.delta("A", lost=1)
    for _ in range(6):
        (command,) = stage.sent()
        assert "get_snapshot" == command["params"]["action"]
        stage.error(code, command["id"])
        stage.wait(0.3)
        assert {"A": "doubted"} == stage.states()
    (command,) = stage.sent()
    stage.snapshot("A", number=command["id"])
    assert stage.all_live
    assert not stage.drops


def test_markets_that_go_elsewhere_are_healed_elsewhere() -> None:
    """A gap waits for none of them, so that the next one does not count as a second one while healing."""
    stage = Stage()
    stage.follow("A", "B")
    stage.session.books.can_get_snapshot = False
    stage.delta("A", lost=1)
    (deletion,) = stage.sent()
    stage.ok(deletion["id"], [])
    stage.wait(0.2)
    (addition,) = stage.sent()
    stage.error(26, addition["id"])
    stage.wait(0.2)
    (addition,) = stage.sent()
    assert ["A"] == addition["params"]["market_tickers"]
    stage.error(26, addition["id"])
    assert ["A", "B"] == stage.overfull
    assert not stage.session.books.is_healing
    assert not stage.session.books.gaps
    assert stage.records[-1].healed_us == stage.now_us


def test_a_clock_that_is_set_back_holds_nothing_up() -> None:
    """What was to happen in a second happens in a second: additions, repetitions, and looking for silence."""
    stage = Stage(missing_retry_s=5, refresh_minutes=1)
    stage.follow("A", "B")
    stage.wait(2)
    stage.sent()
    stage.delta("A", lost=1)
    (asked,) = stage.sent()
    hour_us = 3_600_000_000
    stage.now_us -= hour_us
    stage.session.set_back(hour_us)
    stage.session.add(["C"], stage.now_us)
    stage.wait(0.2)
    assert ("add_markets", ["C"]) in stage.asked()
    stage.wait(15)
    again = [one.get("params", {}) for one in stage.sent()]
    assert asked["params"] in again
    assert "command" in stage.troubles


def test_a_book_that_cannot_be_right_is_put_in_doubt_for_readers() -> None:
    """Also where no snapshot comes, and the market is off the subscription for a while."""
    stage = Stage()
    stage.follow("A", "B")
    assert 1 == stage.session.heal(["A", "X"], stage.now_us)
    (notice,) = stage.notices
    assert ("stale", "diverged", "c1", "A") == (
        notice.notice,
        notice.reason,
        notice.connection,
        notice.market_ticker,
    )
    stage.snapshot("A", number=stage.sent()[0]["id"])
    assert stage.all_live


def test_a_subscription_that_stands_still_is_found_although_commands_are_answered() -> None:
    """The list of subscriptions comes, snapshots do not: the connection ends, and some markets before it."""
    stage = Stage(silence_s=30, command_timeout_s=10)
    stage.follow("A", "B")
    for _ in range(150):
        for one in stage.sent():
            if one["cmd"] == "list_subscriptions":
                stage.say({"type": "ok", "id": one["id"], "msg": []})
        if stage.session.is_over:
            break
        stage.wait(1)
    assert ["silent"] == [drop.cause for drop in stage.drops]
    assert {"silent"} == {notice.reason for notice in stage.notices if notice.market_ticker}


def test_a_market_that_is_not_answered_for_does_not_end_its_connection() -> None:
    """It is in doubt, asked for in every way, and given up; the others stay as they are."""
    stage = Stage(silence_s=30, command_timeout_s=10)
    stage.follow("A", "B")
    stage.session.request(["A"], stage.now_us)
    for _ in range(100):
        for one in stage.sent():
            action = one.get("params", {}).get("action", one["cmd"])
            if action == "list_subscriptions":
                stage.say({"type": "ok", "id": one["id"], "msg": []})
            elif action in {"add_markets", "delete_markets"}:
                stage.ok(one["id"], ["A", "B"])
            elif "B" in one["params"]["market_tickers"]:
                stage.snapshot("B", number=one["id"])
        stage.wait(1)
        if stage.states() == {"A": "missing", "B": "live"}:
            break
    assert {"A": "missing", "B": "live"} == stage.states()
    assert not stage.drops
    assert ["A"] == [notice.market_ticker for notice in stage.notices]


def test_a_gap_does_not_wait_for_markets_that_ended_while_the_connection_was_down() -> None:
    """Nobody follows them any more: the entry closes with the last of those that are followed."""
    before = Stage()
    before.follow("A", "B")
    gaps = before.session.lost("disconnected", before.now_us)
    after = Stage(connection="c2", before=before, gaps=gaps)
    after.open("A")
    after.subscribed(after.sent()[0]["id"])
    assert [{"A"}] == [gap.waiting for gap in gaps]
    after.snapshot("A")
    assert (after.now_us, "reconnected") == (after.records[-1].healed_us, after.records[-1].how)
    assert not after.session.books.gaps


def test_a_gap_asks_for_no_market_whose_addition_is_not_answered() -> None:
    """Its snapshot would make it live, and the addition that is refused then leave it without changes."""
    stage = Stage(backoff_first_s=0.1)
    stage.follow("A")
    stage.wait(0.2)
    stage.session.add(["B"], stage.now_us)
    (addition,) = stage.sent()
    stage.delta("A", lost=1)
    (asked,) = stage.sent()
    assert ["A"] == asked["params"]["market_tickers"]
    stage.snapshot("A", number=asked["id"])
    stage.error(18, addition["id"])
    stage.wait(0.3)
    (again,) = stage.sent()
    assert ("add_markets", ["B"]) == (again["params"]["action"], again["params"]["market_tickers"])
    stage.ok(again["id"], ["A", "B"])
    stage.snapshot("B")
    assert stage.all_live
    assert not stage.session.books.gaps


def test_an_answer_to_an_earlier_question_does_not_stand_for_an_addition() -> None:
    """The market was given back and taken again; were it live now, nothing would follow it."""
    stage = Stage(backoff_first_s=0.1)
    stage.follow("A", "B")
    stage.wait(0.2)
    stage.session.request(["A"], stage.now_us)
    (asked,) = stage.sent()
    stage.session.remove(["A"], stage.now_us)
    (deletion,) = stage.sent()
    stage.session.add(["A"], stage.now_us)
    (addition,) = stage.sent()
    assert stage.snapshot("A", number=asked["id"]) is None
    stage.ok(deletion["id"], ["B"])
    stage.error(27, addition["id"])
    assert "live" != stage.states()["A"]
    stage.wait(0.3)
    assert ("add_markets", ["A"]) in stage.asked()
