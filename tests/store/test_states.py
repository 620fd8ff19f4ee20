from hypothesis import given, strategies as st

from kalshibook.store.states import (
    COPIES,
    OVER,
    STATUSES,
    Condition,
    CopyEvent,
    MarketStatus,
    StatusEvent,
    condition_of,
)


def test_both_tables_answer_every_event_in_every_state() -> None:
    """No state lacks an answer to an event."""
    assert {Condition.AWAITING, Condition.LIVE, Condition.STALE} == set(COPIES)
    assert all(set(CopyEvent) == set(row) for row in COPIES.values())
    assert {None, *MarketStatus} == set(STATUSES)
    assert all(set(StatusEvent) == set(row) for row in STATUSES.values())


@given(st.lists(st.sampled_from(list(CopyEvent))))
def test_only_a_snapshot_makes_a_copy_live(events: list[CopyEvent]) -> None:
    """A copy is live exactly when a snapshot came after the last doubt, and never without one."""
    copy = Condition.AWAITING
    for event in events:
        copy = COPIES[copy][event]

    seen = [event for event in events if event is not CopyEvent.DELTA]
    if CopyEvent.SNAPSHOT not in seen:
        assert copy is Condition.AWAITING
    else:
        assert copy is (Condition.LIVE if seen[-1] is CopyEvent.SNAPSHOT else Condition.STALE)


@given(st.lists(st.sampled_from(list(StatusEvent))))
def test_a_finalized_market_never_trades_again(events: list[StatusEvent]) -> None:
    """Settlement is the end, whatever comes after it."""
    status: MarketStatus | None = None
    settled = False
    for event in events:
        status = STATUSES[status][event]
        settled = settled or event is StatusEvent.SETTLED

        assert settled is (status is MarketStatus.FINALIZED)


def test_a_result_is_not_undone_by_time_or_activation() -> None:
    """Determined and amended markets stay over until they are settled."""
    for status in (MarketStatus.DETERMINED, MarketStatus.AMENDED, MarketStatus.DISPUTED):
        assert all(after in OVER for after in STATUSES[status].values())


def test_the_condition_is_closed_whenever_the_market_is_over() -> None:
    """Readers see closed for a market that is over, and the copy's own state otherwise."""
    for copy in COPIES:
        for status in (None, *MarketStatus):
            expected = Condition.CLOSED if status in OVER else copy
            assert expected is condition_of(copy, status)
