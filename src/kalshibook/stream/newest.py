"""A market's newest state on a conflating channel, and the changes that were folded into it."""

from bisect import bisect_right
from typing import final

import msgspec

from kalshibook.store import Book
from kalshibook.stream.encode import MESSAGE_OPENING
from kalshibook.stream.shared import Body

__all__ = ["Folded", "Latest"]


class Latest(msgspec.Struct, frozen=True, gc=False):
    """A market's newest state on a conflating channel."""

    ticker: str
    version: int
    """The store's version in which the book last changed."""
    body: Body
    since_us: int
    """When the oldest change that is not written yet was handed over."""
    merged: int
    """How many changes it stands for; 0 for the state sent on subscribing."""
    folded: "Folded | None" = None
    """The changes that were folded before anybody was handed one; None where it was one alone."""

    @property
    def whole(self) -> "Latest":
        """The state as it stands for all of its changes, for whoever had none of them before."""
        return self if self.folded is None else self.folded.after(-1)[0]

    @property
    def first_version(self) -> int:
        """The store's version of the oldest of its changes."""
        return self.version if self.folded is None else self.folded.first_version

    @property
    def replaced(self) -> int:
        """How many changes were replaced by newer ones before anybody was handed them."""
        return 0 if self.folded is None else self.folded.after(-1)[1]

    @property
    def tail(self) -> bytes:
        """The tail of its frame, which says how many changes it stands for where it is more than one."""
        tail = self.body.tail
        if self.merged <= 1:
            return tail
        note = b'"merged":%d,"since_ms":%d,' % (self.merged, self.since_us // 1_000)
        return MESSAGE_OPENING + note + tail[len(MESSAGE_OPENING) :]


@final
class Folded:
    """
    Changes of one market that were folded into the newest, oldest first.

    What a subscription has waiting does not refer to it: it grows with the changes of a round.
    """

    __slots__ = ("_since_us", "_totals", "_versions", "whole")

    def __init__(self, version: int, since_us: int, merged: int) -> None:
        self._versions = [version]
        self._since_us = [since_us]
        self._totals = [merged]
        self.whole: Latest | None = None
        """The state that stands for all of them, for whoever had none of them before."""

    @property
    def first_version(self) -> int:
        """The store's version of the oldest of them."""
        return self._versions[0]

    def add(self, version: int, since_us: int, merged: int) -> None:
        """Take a later change."""
        self._versions.append(version)
        self._since_us.append(since_us)
        self._totals.append(self._totals[-1] + merged)

    def latest(self, book: Book, body: Body) -> Latest:
        """Return the newest state, to be handed to subscriptions."""
        ticker, since_us, merged = book.market.ticker, self._since_us[0], self._totals[-1]
        whole = Latest(ticker, book.version, body, since_us, merged)
        if len(self._versions) == 1:
            return whole
        self.whole = whole
        return Latest(ticker, book.version, body, since_us, merged, self)

    def after(self, version: int) -> tuple[Latest, int]:
        """Return the state as it stands for the later changes only, and how many of them it has replaced."""
        whole, first = self.whole, bisect_right(self._versions, version)
        assert whole is not None, "asked of what was handed out"
        if first:
            merged = self._totals[-1] - self._totals[first - 1]
            whole = Latest(whole.ticker, whole.version, whole.body, self._since_us[first], merged)
        return whole, len(self._versions) - first - 1
