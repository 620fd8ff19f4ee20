"""
Whether the service tells the truth: pure judgement over what the store and the feeds say.

``/healthz`` says only that the process answers: a restart would not make a broker come back.
``/readyz`` says whether answers can be relied on, and is red with every reason that holds.
"""

from collections.abc import Sequence
from typing import Protocol

from kalshibook.http.answers import FeedAnswer, ReasonRow
from kalshibook.http.options import HttpOptions
from kalshibook.store import ConditionCounts

__all__ = ["FeedReport", "feed_answer", "reasons_against"]


class FeedReport(Protocol):
    """
    What a feed says about itself; every feed's own health fits it.

    The HTTP server reports on feeds without importing any.
    """

    @property
    def name(self) -> str:
        """Which feed."""

    @property
    def state(self) -> str:
        """What it is doing."""

    @property
    def reason(self) -> str:
        """Why, for people."""

    @property
    def ok(self) -> bool:
        """Whether it is caught up, connected and not silent."""

    @property
    def silent(self) -> bool:
        """Whether nothing has come for longer than is normal."""

    @property
    def since_us(self) -> int:
        """When the state began, microseconds since the epoch."""

    @property
    def lag(self) -> int | None:
        """Records still to be read, or None when unknown."""

    @property
    def waiting_us(self) -> int:
        """For how long, at least, the oldest of them has been there, microseconds."""

    @property
    def records(self) -> int:
        """Records read."""

    @property
    def bytes(self) -> int:
        """Bytes of their values."""

    @property
    def rejected(self) -> int:
        """Records that could not be read."""

    @property
    def tombstones(self) -> int:
        """Records without a value."""

    @property
    def quarantined(self) -> int:
        """Rejected records that the quarantine keeps."""

    @property
    def quarantine_lost(self) -> int:
        """Rejected records that the quarantine did not take."""

    @property
    def queued(self) -> int:
        """Records fetched ahead."""

    @property
    def last_record_us(self) -> int | None:
        """When the last record was read, microseconds since the epoch."""


def feed_answer(feed: FeedReport) -> FeedAnswer:
    """Copy what a feed says into an answer."""
    return FeedAnswer(**{name: getattr(feed, name) for name in FeedAnswer.__struct_fields__})


def reasons_against(
    *, behind: str | None, counts: ConditionCounts, feeds: Sequence[FeedReport], options: HttpOptions
) -> list[ReasonRow]:
    """
    Return every reason why answers cannot be relied on; none means ready.

    Args:
        behind: why the store may be behind its feed's source, or None.
        counts: markets by condition.
        feeds: what the feeds say.
        options: limits.
    """
    reasons: list[ReasonRow] = []
    if behind is not None:
        message = f"books may be behind the exchange: {behind}"
        reasons.append(ReasonRow("store", message, {"behind": behind}))
    for feed in feeds:
        if not feed.ok:
            what = "is silent" if feed.silent else f"is {feed.state}"
            details = {"feed": feed.name, "state": str(feed.state), "silent": feed.silent, "lag": feed.lag}
            details["waiting_us"] = feed.waiting_us
            reasons.append(ReasonRow("feed", f"feed {feed.name} {what}: {feed.reason}", details))
    # Awaiting and closed markets are left out: neither says anything about what we hold.
    held = counts.live + counts.stale
    if held and counts.stale > options.stale_share_limit * held:
        message = (
            f"{counts.stale} of {held} open books are in doubt, over the limit of "
            f"{options.stale_share_limit:.0%}; their snapshots are outstanding"
        )
        reasons.append(ReasonRow("stale_share", message, {"stale": counts.stale, "live": counts.live}))
    return reasons
