"""Where librdkafka's own log lines go, and what its statistics tell of a topic."""

import logging
import re
from typing import Final

import msgspec

__all__ = ["OncePerMinute", "count_partitions", "librdkafka_logger"]

_REPEAT_S: Final = 60.0
_MOST_KINDS: Final = 256
_NUMBER: Final = re.compile(r"\d+")


class _Topic(msgspec.Struct, gc=False):
    partitions: dict[int, msgspec.Raw] = {}


class _Statistics(msgspec.Struct, gc=False):
    topics: dict[str, _Topic] = {}


_decoder: Final = msgspec.json.Decoder(_Statistics, strict=False)


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


def count_partitions(statistics: str, topic: str) -> int:
    """
    Return how many partitions a client knows a topic to have; 0 while it knows nothing of it.

    Args:
        statistics: librdkafka's, as JSON.
        topic: whose.
    """
    found = _decoder.decode(statistics).topics.get(topic)
    # -1 is where records wait whose partition is not chosen yet.
    return 0 if found is None else sum(number >= 0 for number in found.partitions)


def librdkafka_logger() -> logging.Logger:
    """Return the logger that every client of this package gives to librdkafka."""
    logger = logging.getLogger("kalshibook.librdkafka")
    if not any(isinstance(held, OncePerMinute) for held in logger.filters):
        logger.addFilter(OncePerMinute())
    return logger
