"""What the two REST interfaces of the simulated exchange share: answers, errors, and reading parameters."""

from collections.abc import Collection
from typing import Final

import msgspec
from quart import Response
from werkzeug.datastructures import MultiDict

from kalshibook.simulator.listing import BadQuery

__all__ = [
    "JSON",
    "Answer",
    "Arguments",
    "choice_of",
    "error",
    "flag_of",
    "json_answer",
    "limit_of",
    "number_of",
    "tickers_of",
]

JSON: Final = "application/json"
Arguments = MultiDict[str, str]
"""The parameters of a request."""

_MOST: Final = 2**62
_encode = msgspec.json.Encoder().encode


class Answer(Exception):  # noqa: N818 - an answer, not a failure
    """
    A request is answered with an error.

    Attributes:
        status: the HTTP status.
        body: what JSON is made of.
    """

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def error(status: int, code: str, message: str) -> Answer:
    """Return an error in the exchange's form, to be raised."""
    return Answer(status, {"code": code, "message": message})


def json_answer(body: object, status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(_encode(body), status, content_type=JSON)


def number_of(arguments: Arguments, name: str, default: int | None, most: int = _MOST) -> int | None:
    """
    Read a number.

    Raises:
        BadQuery: it is none, or too large.
    """
    text = arguments.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) > most:
        raise BadQuery(f"{name} is {text!r}; it is a number" + (f" from 0 to {most}" if most < _MOST else ""))
    return int(text)


def limit_of(arguments: Arguments, default: int, most: int) -> int:
    """
    Read how long a page shall be; 0 is allowed, and means the default.

    Raises:
        BadQuery: it is no number, or too large.
    """
    return number_of(arguments, "limit", default, most) or default


def flag_of(arguments: Arguments, name: str) -> bool:
    """Read a truth value, false unless it is true."""
    return arguments.get(name, "").lower() in {"true", "1"}


def choice_of(arguments: Arguments, name: str, choices: Collection[str]) -> str:
    """
    Read one of several words; empty if it is not given.

    Raises:
        BadQuery: it is another word.
    """
    value = arguments.get(name, "")
    if value and value not in choices:
        raise BadQuery(f"{name} is {value!r}; it is one of {', '.join(choices)}")
    return value


def tickers_of(arguments: Arguments, name: str = "tickers") -> tuple[str, ...]:
    """Read a list of tickers with commas between them, each once."""
    return tuple(dict.fromkeys(ticker for ticker in arguments.get(name, "").split(",") if ticker))
