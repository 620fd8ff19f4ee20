"""Pieces that all readers of REST answers have in common: decoding with a path, and times."""

from functools import lru_cache
from typing import Final, TypeVar

import msgspec

from kalshibook.errors import WireError
from kalshibook.wire.frames import UNREADABLE, wire_error
from kalshibook.wire.times import parse_time

__all__ = ["decode_answer", "read_optional_time"]

T = TypeVar("T")

# The zero time of the exchange's language: it stands for "none", and is before what we count from.
_NO_TIME: Final = "0001-01-01T00:00:00Z"


def decode_answer(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw, path: str) -> T:
    """
    Decode an answer, or a part of it.

    Raises:
        WireError: it does not fit, with the field's path below `path`.
    """
    try:
        return decoder.decode(data)
    except UNREADABLE as error:
        raise wire_error(error, path) from None


# Markets open and close together: a page of a thousand has some ten distinct times.
@lru_cache(maxsize=16_384)
def _known_time(text: str) -> int:
    return parse_time(text)


def read_optional_time(found: str | int | None, path: str) -> int | None:
    """
    Read a time as microseconds: RFC 3339 or Unix seconds; what stands for none becomes None.

    Raises:
        WireError: it is no time.
    """
    if found is None or found in ("", _NO_TIME):
        return None
    if isinstance(found, int):
        return found * 1_000_000
    try:
        return _known_time(found)
    except WireError as error:
        raise WireError(path, error.reason) from None
