"""Times on the wire: RFC 3339 text."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from kalshibook.errors import WireError

__all__ = ["parse_time"]

_TIME: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d+))?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)


def parse_time(text: str, path: str = "$") -> int:
    """
    Read an RFC 3339 time as microseconds since the epoch; what is finer than a microsecond is cut off.

    Args:
        text: what the wire carried, for example ``"2026-11-22T12:00:00.123456Z"``.
        path: where it stood, for the error.

    Raises:
        WireError: another format, no such moment, no offset from UTC, or before 1970.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise WireError(path, f"{text!r} is not an RFC 3339 time such as '2026-11-22T12:00:00.5Z'")
    day, clock, fraction, offset = match.groups(default="")
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if offset in 'Zz' else offset}")
    except ValueError as error:
        raise WireError(path, f"{text!r} is no moment: {error}") from None
    # Whole seconds and the fraction are kept apart: as a float they would lose microseconds.
    seconds = (moment - _EPOCH) // _SECOND
    if seconds < 0:
        raise WireError(path, f"{text!r} is before 1970")
    return seconds * 1_000_000 + int(fraction[:6].ljust(6, "0"))
