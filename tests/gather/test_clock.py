"""Our clock against the exchange's, and what a refusal of a signature means."""

import pytest

from kalshibook.gather.clock import explain_unauthorized, skew_s

NOON_MS = 1_785_931_200_000
NOON = "Wed, 05 Aug 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("date", "age", "now_ms", "expected"),
    [
        (NOON, None, NOON_MS, 0),
        (NOON, None, NOON_MS + 73_400, 73),
        (NOON, None, NOON_MS - 60_000, -60),
        (NOON, "12", NOON_MS + 12_500, 0),
        (NOON, "soon", NOON_MS, 0),
        (None, None, NOON_MS, None),
        ("yesterday", None, NOON_MS, None),
        ("Wed, 99 Aug 2026 12:00:00 GMT", None, NOON_MS, None),
    ],
)
def test_skew(date: str | None, age: str | None, now_ms: int, expected: int | None) -> None:
    """Positive is ahead; a cached answer is older by its age; an unreadable date says nothing."""
    assert expected == skew_s(date, age, now_ms)


@pytest.mark.parametrize(
    ("skew", "signed", "words"),
    [
        (73, True, "clock is 73 s ahead of the exchange's"),
        (-73, True, "clock is 73 s behind the exchange's"),
        (5, True, "refused the key (why); check that gather.key_id"),
        (None, True, "refused the key"),
        (73, False, "wants a signature (why); set gather.key_id"),
    ],
)
def test_refusal_is_explained(skew: int | None, signed: bool, words: str) -> None:
    """A clock that is off is named instead of the key; a request without a key is told to get one."""
    assert words in explain_unauthorized("why", skew, signed=signed)
