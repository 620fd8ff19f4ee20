"""What fills a store, and what fills its topic: Kafka, recordings, an embedded broker, feeds of others."""

from kalshibook.feeds.base import (
    Feed as Feed,
    FeedHealth as FeedHealth,
    FeedState as FeedState,
    PartitionHealth as PartitionHealth,
    load_feed as load_feed,
)
from kalshibook.feeds.broker import EmbeddedBroker as EmbeddedBroker
from kalshibook.feeds.kafka import KafkaFeed as KafkaFeed
from kalshibook.feeds.options import KafkaOptions as KafkaOptions
from kalshibook.feeds.publisher import Publisher as Publisher
from kalshibook.feeds.recording import (
    RecordingFeed as RecordingFeed,
    RecordingOptions as RecordingOptions,
)
from kalshibook.feeds.snapshots import SnapshotOptions as SnapshotOptions, SnapshotWriter as SnapshotWriter

__all__ = [
    "EmbeddedBroker",
    "Feed",
    "FeedHealth",
    "FeedState",
    "KafkaFeed",
    "KafkaOptions",
    "PartitionHealth",
    "Publisher",
    "RecordingFeed",
    "RecordingOptions",
    "SnapshotOptions",
    "SnapshotWriter",
    "load_feed",
]
