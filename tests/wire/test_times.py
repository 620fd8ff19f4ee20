"""RFC 3339 times: exact to the microsecond, or an error."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, strategies as st

from kalshibook.errors import WireError
from kalshibook.wire.times import parse_time

NOON_US = 1_795_348_800_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (NOON_US, "2026-11-22T12:00:00Z"),
        (NOON_US, "2026-11-22t12:00:00z"),
        (NOON_US, "2026-11-22 12:00:00Z"),
        (NOON_US, "2026-11-22T12:00:00+00:00"),
        (NOON_US, "2026-11-22T12:00:00-00:00"),
        (NOON_US, "2026-11-22T07:00:00-05:00"),
        (NOON_US, "2026-11-23T01:45:00+13:45"),
        (NOON_US + 500_000, "2026-11-22T12:00:00.5Z"),
        (NOON_US + 20_000, "2026-11-22T12:00:00.020000Z"),
        (NOON_US + 123_456, "2026-11-22T12:00:00.123456Z"),
        (NOON_US + 123_456, "2026-11-22T12:00:00.123456999Z"),
        (NOON_US + 1, "2026-11-22T12:00:00.000001Z"),
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400_000_000, "2000-02-29T00:00:00Z"),
    ],
)
def test_times_are_read_exactly(time_us: int, text: str) -> None:
    """Offsets are taken off, fractions kept to the microsecond and cut, not rounded, below it."""
    assert time_us == parse_time(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1795348800",
        "2026-11-22",
        "2026-11-22T12:00:00",
        "2026-11-22T12:00Z",
        "2026-11-22T12:00:00,5Z",
        "2026-11-22T12:00:00.Z",
        "2026-W47-7T12:00:00Z",
        "20261122T120000Z",
        "2026-11-22T12:00:00+0000",
        "2026-11-22T12:00:00Z ",
        "2026-11-22T12:00:00Z\n",
        "2026-13-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-11-22T24:00:00Z",
        "2026-11-22T12:00:60Z",
        "2026-11-22T12:00:00+25:00",
        "1969-12-31T23:59:59.999999Z",
        "0001-01-01T00:00:00+23:59",
        "\N{FULLWIDTH DIGIT TWO}026-11-22T12:00:00Z",
    ],
)
def test_other_times_are_refused(text: str) -> None:
    """A time without an offset, of another format or off the calendar is an error with its path."""
    with pytest.raises(WireError) as caught:
        parse_time(text, "$.msg.ts")

    assert "$.msg.ts" == caught.value.path


@given(
    st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(9990, 1, 1)),  # noqa: DTZ001 - zone below
    st.integers(-23 * 60, 23 * 60),
)
def test_any_moment_in_any_zone(moment: datetime, offset_minutes: int) -> None:
    """What Python writes in RFC 3339 is read back to the microsecond."""
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))

    assert (aware - EPOCH) // timedelta(microseconds=1) == parse_time(aware.isoformat())
