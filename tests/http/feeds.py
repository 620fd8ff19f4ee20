"""What a feed would say about itself, for tests that need no feed."""

from kalshibook.feeds.base import FeedHealth, FeedState, PartitionHealth


def healthy(**changes: object) -> FeedHealth:
    """Return the health of a feed that is well, with changes."""
    facts: dict[str, object] = {
        "name": "kafka",
        "state": FeedState.LIVE,
        "reason": "reading",
        "since_us": 1,
        "partitions": (PartitionHealth(0, 5, 9, caught_up=True),),
        "records": 5,
        "bytes": 500,
        "rejected": 1,
        "last_record_us": 2_000_000,
    }
    return FeedHealth(**{**facts, **changes})  # type: ignore[arg-type]
