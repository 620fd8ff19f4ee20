from array import array

import pytest
from hypothesis import given, strategies as st

from kalshibook.errors import VersionGone
from kalshibook.store.cut import ConditionCounts, StoreVersion
from kalshibook.store.history import History
from kalshibook.store.nested import NestedVector


def version(number: int, applied_us: int) -> StoreVersion:
    return StoreVersion(number, NestedVector.empty(), array("q"), applied_us, None, ConditionCounts())


@given(st.lists(st.integers(0, 400_000), max_size=60), st.integers(0, 5_000_000))
def test_as_of_is_the_newest_version_exact_to_one_step(waits_us: list[int], asked_us: int) -> None:
    """What `as_of` returns was current at some moment of the step before the time asked for."""
    history = History(recent=3, seconds=3_600, step_ms=100)
    made = [version(0, 0)]
    history.add(made[0])
    now_us = 100_000
    for number, wait_us in enumerate(waits_us, 1):
        now_us += wait_us
        made.append(version(number, now_us))
        history.add(made[-1])
    known = [kept for kept in made if kept.applied_us <= asked_us]

    found = history.as_of(asked_us)

    assert found.applied_us <= asked_us
    missed = [other for other in known if other.number > found.number]
    assert all(other.applied_us // 100_000 == asked_us // 100_000 for other in missed)


def test_a_time_before_everything_is_gone() -> None:
    """A time before the first version has no answer, and the error says what is kept."""
    history = History(recent=3, seconds=3_600, step_ms=100)
    history.add(version(4, 1_000))

    with pytest.raises(VersionGone) as gone:
        history.as_of(999)
    assert (4, 4) == (gone.value.oldest, gone.value.newest)


def test_recent_versions_are_kept_one_by_one_and_no_more() -> None:
    """`at` finds each of the newest versions and says what is kept when asked for another."""
    history = History(recent=5, seconds=0, step_ms=100)
    for number in range(20):
        history.add(version(number, number))

    assert [history.at(number).number for number in range(15, 20)] == [15, 16, 17, 18, 19]
    with pytest.raises(VersionGone) as gone:
        history.at(14)
    assert (gone.value.oldest, gone.value.newest) == (15, 19)
    with pytest.raises(VersionGone):
        history.at(20)


def test_the_ring_is_bounded() -> None:
    """However many versions come, no more are kept than the settings say."""
    history = History(recent=10, seconds=2, step_ms=100)
    for number in range(10_000):
        history.add(version(number, number * 50_000))

    assert len(history._kept()) <= 30
    with pytest.raises(VersionGone):
        history.as_of(0)
