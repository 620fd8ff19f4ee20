"""What a session wants done, in order, before the frame that it returns is handed on. Pure."""

from typing import TypeAlias

import msgspec

from kalshibook.gather.incidents import GatherIncidentKind
from kalshibook.gather.records import Notice
from kalshibook.wire.gaps import GapCause

__all__ = ["Drop", "Effect", "Overfull", "Released", "Send", "Tell", "Trouble"]


class Send(msgspec.Struct, frozen=True, gc=False):
    """Write a command to the socket."""

    command: bytes


class Tell(msgspec.Struct, frozen=True, gc=False):
    """Publish a notice."""

    notice: Notice


class Drop(msgspec.Struct, frozen=True, gc=False):
    """Give the connection up and open another."""

    cause: GapCause
    reason: str


class Overfull(msgspec.Struct, frozen=True, gc=False):
    """Place these markets elsewhere: the exchange takes no more on this subscription."""

    tickers: tuple[str, ...]


class Released(msgspec.Struct, frozen=True, gc=False):
    """Know that these markets are off the subscription: nothing of them comes any more."""

    tickers: tuple[str, ...]


class Trouble(msgspec.Struct, frozen=True, gc=False):
    """Record an incident."""

    kind: GatherIncidentKind
    detail: str
    ticker: str | None = None


Effect: TypeAlias = Send | Tell | Drop | Overfull | Released | Trouble
