"""
Servers and changes in an asyncio program: the server in a thread of its own, changes on the loop.

The embedded broker and what is published to it stand in for your Kafka.
"""

import asyncio

from kalshibook import BookStore, Change, EmbeddedBroker, KafkaFeed, KafkaOptions, format_price
from kalshibook.feeds.publisher import Publisher
from kalshibook.http.options import HttpOptions
from kalshibook.server import serve_in_thread
from kalshibook.store import ChangeReader
from kalshibook.stream.options import StreamOptions
from kalshibook.testing import FrameFactory

TICKER = "KXFROG-26DEC01-T40"
PRICES = (4_000, 4_100, 4_200)


async def follow(reader: ChangeReader) -> None:
    """Print each new best bid until it is the last one of `PRICES`."""
    async for batch in reader.asyncio():
        for change in batch.changes:
            if not isinstance(change, Change) or change.new.yes_bid is None:
                continue
            print("best bid", format_price(change.new.yes_bid.price))
            if change.new.yes_bid.price == PRICES[-1]:
                return


def publish(publisher: Publisher, frames: FrameFactory) -> None:
    """Publish a snapshot and then better and better bids."""
    first, *others = PRICES
    for frame in (
        frames.snapshot(TICKER, yes=[(first, 7_550)], no=[(5_700, 1_025)]),
        *(frames.delta(TICKER, "yes", price, 500) for price in others),
    ):
        publisher.publish(frame, connection="c1", received_us=frames.now_us)
    publisher.flush()


async def main() -> None:
    """Follow a store that a feed fills and that is served to others meanwhile."""
    store = BookStore()
    with (
        EmbeddedBroker({"market-data-all": 4}) as broker,
        Publisher(str(broker), source="example") as publisher,
    ):
        options = KafkaOptions(bootstrap_servers=str(broker), start="beginning")
        with (
            KafkaFeed(store, options) as feed,
            serve_in_thread(
                store, http=HttpOptions(port=0), stream=StreamOptions(port=0), feeds=[feed]
            ) as server,
            store.changes() as reader,
        ):
            print("REST at", server.addresses.http_url, "- WebSocket at", server.addresses.stream_url)
            following = asyncio.create_task(follow(reader))
            await asyncio.to_thread(publish, publisher, FrameFactory())
            await asyncio.wait_for(following, 30)
    print("stopped")


if __name__ == "__main__":
    asyncio.run(main())
