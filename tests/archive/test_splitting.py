from collections.abc import Sequence

from hypothesis import given, strategies as st

from kalshibook.archive.splitting import BadItem, RowRefused, split


@given(st.lists(st.booleans(), max_size=200))
def test_exactly_the_bad_stand_alone(items: list[bool]) -> None:
    """Whatever is bad and wherever it stands: all others are stored once and in order, in few attempts."""
    numbered = list(enumerate(items))
    stored: list[int] = []
    attempts = 0

    def attempt(part: Sequence[tuple[int, bool]]) -> int:
        nonlocal attempts
        attempts += 1
        for number, good in part:
            if not good:
                raise RowRefused(f"number {number}")
        stored.extend(number for number, _ in part)
        return len(part)

    done = split(numbered, attempt)

    bad = [number for number, good in numbered if not good]
    assert [BadItem(number, f"number {number}") for number in bad] == done.bad
    assert [number for number, good in numbered if good] == stored
    assert len(stored) == done.stored
    assert attempts <= 1 + 2 * len(bad) * max(len(items).bit_length(), 1)
