"""What fills a store: the Kafka feed, an embedded broker, and how feeds of others are found."""

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

__all__ = [
    "EmbeddedBroker",
    "Feed",
    "FeedHealth",
    "FeedState",
    "KafkaFeed",
    "KafkaOptions",
    "PartitionHealth",
    "load_feed",
]
