"""
Our clock against the exchange's, read off the ``Date`` of its answers. Pure.

A signature holds for some ten seconds around the exchange's time (measured in 2026; the window is not
documented). A machine whose clock is off is refused with status 401 as if its key were wrong, so the
error has to name the clock.
"""

from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["SUSPICIOUS_SKEW_S", "explain_unauthorized", "skew_s"]

# Beyond this the clock is named as the cause. `Date` counts whole seconds and the answer travelled.
SUSPICIOUS_SKEW_S: Final = 5


def skew_s(date: str | None, age: str | None, now_ms: int) -> int | None:
    """
    Return by how many seconds our clock is ahead (behind: negative) of who answered.

    Args:
        date: the answer's ``Date``.
        age: its ``Age``, where a cache answered: the date is that much older.
        now_ms: our Unix ms at the answer.
    """
    if not date:
        return None
    try:
        theirs = int(parsedate_to_datetime(date).timestamp())
    except (ValueError, OverflowError):
        return None
    cached = int(age) if age is not None and age.isascii() and age.isdecimal() and len(age) < 10 else 0
    return now_ms // 1_000 - theirs - cached


def explain_unauthorized(reason: str, skew: int | None, *, signed: bool) -> str:
    """
    Return what a refusal with status 401 most probably means and what to do.

    Args:
        reason: the exchange's words.
        skew: what `skew_s` found.
        signed: whether the request carried a signature at all.
    """
    if not signed:
        return f"the exchange wants a signature ({reason}); set gather.key_id and gather.private_key_file"
    if skew is not None and abs(skew) > SUSPICIOUS_SKEW_S:
        direction = "ahead of" if skew > 0 else "behind"
        return (
            f"the exchange refused the signature ({reason}), and this machine's clock is {abs(skew)} s "
            f"{direction} the exchange's; set the clock right (NTP), the key may well be fine"
        )
    return (
        f"the exchange refused the key ({reason}); check that gather.key_id belongs to the private key and "
        "both to gather.environment"
    )
