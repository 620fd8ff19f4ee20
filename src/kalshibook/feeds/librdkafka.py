"""Where librdkafka's own log lines go."""

import logging
import re
from typing import Final

__all__ = ["OncePerMinute", "librdkafka_logger"]

_REPEAT_S: Final = 60.0
_MOST_KINDS: Final = 256
_NUMBER: Final = re.compile(r"\d+")


class OncePerMinute(logging.Filter):
    """
    Passes a line on, and its repetitions once a minute with their number.

    While a broker is down librdkafka writes twenty lines a second, which differ in a number at most.
    The feed says once that the broker is down, so nothing is lost with them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide about a record, and tell in it how many like it were left out."""
        text = record.getMessage()
        kind = _NUMBER.sub("#", text)
        since_s, left_out = self._seen.get(kind, (None, 0))
        if since_s is not None and 0 <= record.created - since_s < _REPEAT_S:
            self._seen[kind] = (since_s, left_out + 1)
            return False
        if len(self._seen) >= _MOST_KINDS:
            self._seen.clear()
        self._seen[kind] = (record.created, 0)
        if left_out:
            record.msg, record.args = f"{text} ({left_out:,} more like it since the last)", None
        return True


def librdkafka_logger() -> logging.Logger:
    """Return the logger that every client of this package gives to librdkafka."""
    logger = logging.getLogger("kalshibook.librdkafka")
    if not any(isinstance(held, OncePerMinute) for held in logger.filters):
        logger.addFilter(OncePerMinute())
    return logger
