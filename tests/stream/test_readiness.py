"""What clients hear when the store falls behind its feed: never nothing."""

from typing import Any

from tests.stream.stage import T40, Stage, User

KALSHI = ("orderbook_delta", "ticker", "trade")


def fall_behind(stage: Stage, reason: str = "no broker answers") -> None:
    with stage.store.writer() as writer:
        writer.set_ready(False, reason)


def catch_up(stage: Stage) -> None:
    with stage.store.writer() as writer:
        writer.set_ready(True)


def one_book() -> tuple[Stage, User]:
    stage = Stage()
    stage.script.snapshot({4_000: 7_550}, {5_700: 1_025}, ticker=T40)
    stage.deliver()
    return stage, stage.connect()


def kinds(frames: list[dict[str, Any]]) -> list[tuple[str, int | None]]:
    return [(frame["type"], frame.get("sid")) for frame in frames]


def test_top_of_book_says_in_band_that_the_store_is_behind_and_back() -> None:
    """Its subscribers hear the reason at once, and hear when it is over, in sequence."""
    stage, user = one_book()
    user.ask("subscribe", market_tickers=[T40])

    fall_behind(stage)
    stage.deliver()
    behind = user.hear()
    catch_up(stage)
    stage.deliver()
    back = user.hear()

    assert [{"type": "readiness", "sid": 1, "seq": 2, "msg": {"behind": "no broker answers"}}] == behind
    assert [{"type": "readiness", "sid": 1, "seq": 3, "msg": {"behind": None}}] == back


def test_kalshis_own_channels_end_with_the_error_that_means_subscribe_again() -> None:
    """A stock client is not left with a stream that is silent because nobody fills it."""
    stage, user = one_book()
    user.ask("subscribe", channels=[*KALSHI], market_tickers=[T40])

    fall_behind(stage)
    stage.deliver()

    ended = user.hear()
    assert [("error", 1), ("error", 2), ("error", 3)] == kinds(ended)
    assert {10} == {frame["msg"]["code"] for frame in ended}
    assert all("no broker answers" in frame["msg"]["msg"] for frame in ended)
    assert 0 == stage.hub.statistics().routes


def test_nobody_can_subscribe_to_kalshis_channels_while_the_store_is_behind() -> None:
    """A subscription then is refused with the same error; one to top of book is told."""
    stage, user = one_book()
    fall_behind(stage)
    stage.deliver()

    refused = user.ask("subscribe", channels=["orderbook_delta"], market_tickers=[T40])
    told = user.ask("subscribe", market_tickers=[T40])
    catch_up(stage)
    stage.deliver()
    user.hear()
    again = user.ask("subscribe", channels=["orderbook_delta"], market_tickers=[T40])

    assert [10] == [frame["msg"]["code"] for frame in refused]
    assert [("subscribed", None), ("readiness", 1), ("top_of_book", 1)] == kinds(told)
    assert [("subscribed", None), ("orderbook_snapshot", 2)] == kinds(again)


def test_what_was_over_before_a_subscription_does_not_end_it() -> None:
    """The hub hears of changes later than the store shows them; an old notice is none for a new sid."""
    stage, user = one_book()
    fall_behind(stage)
    catch_up(stage)
    user.ask("subscribe", channels=["orderbook_delta"], market_tickers=[T40])

    stage.deliver()

    assert [] == user.hear()
    stage.script.delta("yes", 4_000, 100, ticker=T40)
    stage.deliver()
    assert [("orderbook_delta", 1)] == kinds(user.hear())
