import logging

import pytest

from kalshibook.store import IncidentKind, IncidentLog


def test_incidents_are_returned_newest_first_and_paged() -> None:
    """Pages follow each other without a hole or a double."""
    log = IncidentLog(capacity=10)
    for number in range(25):
        log.record(IncidentKind.GAP, str(number), ticker="KX", partition=1, offset=number)

    first = log.recent(4)
    second = log.recent(4, before=first[-1].id)

    assert [incident.detail for incident in first] == ["24", "23", "22", "21"]
    assert [incident.detail for incident in second] == ["20", "19", "18", "17"]
    assert log.recent(0) == []
    assert log.recent(5, before=1) == []


def test_the_log_is_bounded_and_the_counts_are_not() -> None:
    """Old incidents leave, but every one stays counted."""
    log = IncidentLog(capacity=3)
    for _ in range(7):
        log.record(IncidentKind.GAP, "x")

    assert len(log.recent(100)) == 3
    assert log.counts()["gap"] == 7
    assert log.counts()["reset"] == 0


def test_a_flood_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The first hundred of a kind are logged one by one, then each doubling."""
    log = IncidentLog()
    with caplog.at_level(logging.WARNING, logger="kalshibook.store.incidents"):
        for _ in range(2_000):
            log.record(IncidentKind.GAP, "x")

    assert len(caplog.records) == 100 + 4
