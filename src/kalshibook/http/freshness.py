"""Whether a book is as fresh as a request demands, judged in one place."""

from kalshibook.store import Book, Condition

__all__ = ["age_ms_of", "why_not_fresh"]


def age_ms_of(book: Book, now_us: int) -> int | None:
    """Return the age of the market's last message in milliseconds, or None while there was none."""
    age_us = book.age_us(now_us)
    # An exchange's clock that is ahead of ours makes nothing younger than new.
    return None if age_us is None else max(age_us, 0) // 1_000


def why_not_fresh(book: Book, age_ms: int | None, max_age_ms: int) -> str | None:
    """
    Return the reason why a book does not count as fresh, or None when it does.

    Args:
        book: in whatever condition.
        age_ms: its age, of `age_ms_of`.
        max_age_ms: the oldest age that is accepted.
    """
    if book.copy is Condition.AWAITING:
        return "awaits its first snapshot"
    if book.copy is Condition.STALE:
        return book.stale_reason or "in doubt"
    if age_ms is None or age_ms > max_age_ms:
        return f"its last message is {age_ms} ms old, {max_age_ms} ms are allowed"
    return None
