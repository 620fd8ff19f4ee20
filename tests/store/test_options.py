"""What each setting of a store changes."""

import pytest

from kalshibook.errors import SettingsError, VersionGone
from kalshibook.store import BookStore, IncidentKind, StoreOptions
from tests.store.builders import Script
from tests.store.test_history import version


def oldest_time_us(store: BookStore) -> int:
    """Return the time of the oldest version that is kept."""
    with pytest.raises(VersionGone) as gone:
        store.as_of(-1)
    return store.at(gone.value.oldest).applied_us


def written_over(seconds: int, **options: int) -> BookStore:
    """Return a store whose versions came every 10 ms of so many seconds."""
    store = BookStore(StoreOptions(recent_versions=1, **options))
    for number in range(1, seconds * 100 + 1):
        store._state.publish(version(number, number * 10_000))
    return store


def test_history_seconds_is_how_far_back_as_of_reaches() -> None:
    """Twice the seconds reach twice as far; none reach nowhere."""
    for seconds in (0, 2, 4):
        store = written_over(6, history_seconds=seconds)

        reach_us = store.cut().applied_us - oldest_time_us(store)
        assert abs(seconds * 1_000_000 - reach_us) <= 100_000


def test_history_step_is_how_exact_as_of_is() -> None:
    """The version found for the end of a step is its last one."""
    for step_ms in (50, 500):
        store = written_over(3, history_step_ms=step_ms)

        found_us = store.as_of(1_499_999).applied_us
        assert 1_490_000 == found_us
        in_the_middle_us = store.as_of(1_480_000).applied_us
        assert (1_440_000 if step_ms == 50 else 990_000) == in_the_middle_us


def test_recent_versions_are_those_that_at_finds() -> None:
    """The newest so many can be read by number, and no older one."""
    store = BookStore(StoreOptions(recent_versions=7, history_seconds=0))
    script = Script(store)
    script.snapshot({4_000: 1}, {})
    for _ in range(20):
        script.delta("yes", 4_000, 1)
    newest = store.cut().version

    assert newest - 6 == store.at(newest - 6).version
    with pytest.raises(VersionGone):
        store.at(newest - 7)


def test_incident_capacity_is_how_many_are_kept() -> None:
    """Older ones are gone from the log and still counted."""
    store = BookStore(StoreOptions(incident_capacity=3))
    for number in range(5):
        store.incidents.record(IncidentKind.FEED, f"incident {number}")

    assert ["incident 4", "incident 3", "incident 2"] == [found.detail for found in store.incidents.recent()]
    assert 5 == store.incidents.counts()["feed"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("history_seconds", -1), ("history_step_ms", 0), ("recent_versions", 0), ("incident_capacity", 0)],
)
def test_unfit_values_are_named(name: str, value: int) -> None:
    """A value that cannot work is refused with its name."""
    with pytest.raises(SettingsError, match=rf"store\.{name} is {value}"):
        StoreOptions(**{name: value})
