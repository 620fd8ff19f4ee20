"""
Books in a plain script: a feed fills a store on its own thread, the script reads it.

The embedded broker and what is published to it stand in for your Kafka; with that, only the feed
remains.
"""

from kalshibook import BookStore, EmbeddedBroker, KafkaFeed, KafkaOptions, format_price, format_size
from kalshibook.feeds.publisher import Publisher
from kalshibook.testing import FrameFactory

TICKER = "KXFROG-26DEC01-T40"


def publish(bootstrap_servers: str) -> None:
    """Publish a snapshot and two changes of one market, as a gatherer does."""
    frames = FrameFactory()
    with Publisher(bootstrap_servers, source="example") as publisher:
        for frame in (
            frames.snapshot(TICKER, yes=[(4_000, 7_550)], no=[(5_700, 1_025)]),
            frames.delta(TICKER, "yes", 4_100, 2_000),
            frames.delta(TICKER, "no", 5_700, -1_025),
        ):
            publisher.publish(frame, connection="c1", received_us=frames.now_us)


def main() -> None:
    """Read one book, and the whole store at one moment."""
    store = BookStore()
    with EmbeddedBroker({"market-data-all": 4}) as broker:
        publish(str(broker))
        options = KafkaOptions(bootstrap_servers=str(broker), start="beginning")
        with KafkaFeed(store, options) as feed:
            if not feed.wait_ready(timeout=30):
                raise SystemExit(f"not ready: {feed.health().reason}")

            book = store.book(TICKER)
            for level in book.yes:
                print(f"YES bid {format_price(level.price)} x {format_size(level.size)}")
            print("YES ask", "none" if book.yes_ask is None else format_price(book.yes_ask.price))

            cut = store.cut()
            print(f"version {cut.version}: {cut.counts.live} live book, offsets {dict(cut.offsets)}")


if __name__ == "__main__":
    main()
