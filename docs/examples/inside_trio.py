"""
REST and WebSocket inside a Trio program: the server runs in the program's own nursery.

The embedded broker and what is published to it stand in for your Kafka, the client for somebody
else's program.
"""

import json

import trio
from trio_websocket import open_websocket_url

from kalshibook import BookStore, EmbeddedBroker, KafkaFeed, KafkaOptions
from kalshibook.feeds.publisher import Publisher
from kalshibook.http.options import HttpOptions
from kalshibook.server import BookServer
from kalshibook.stream.options import StreamOptions
from kalshibook.testing import FrameFactory

TICKER = "KXFROG-26DEC01-T40"


async def follow(url: str, connected: trio.Event) -> None:
    """Be a client: subscribe to the top of the book and print it until the bid is 42 cents."""
    async with open_websocket_url(url) as client:
        subscribe = {
            "id": 1,
            "cmd": "subscribe",
            "params": {"channels": ["top_of_book"], "market_ticker": TICKER},
        }
        await client.send_message(json.dumps(subscribe))
        while True:
            frame = json.loads(await client.get_message())
            connected.set()
            if frame["type"] != "top_of_book":
                continue
            bid = frame["msg"]["yes_bid_dollars"]
            print("top of book over WebSocket:", bid)
            if bid == "0.4200":
                return


async def main() -> None:
    """Serve a store that a feed fills, while a client follows one market."""
    store, frames = BookStore(), FrameFactory()
    with (
        EmbeddedBroker({"market-data-all": 4}) as broker,
        Publisher(str(broker), source="example") as publisher,
    ):

        def publish(frame: bytes) -> None:
            publisher.publish(frame, connection="c1", received_us=frames.now_us)
            publisher.flush()

        publish(frames.snapshot(TICKER, yes=[(4_000, 7_550)], no=[(5_700, 1_025)]))
        options = KafkaOptions(bootstrap_servers=str(broker), start="beginning")
        with KafkaFeed(store, options) as feed:
            await trio.to_thread.run_sync(feed.wait_ready, 30)
            server = BookServer(store, http=HttpOptions(port=0), stream=StreamOptions(port=0), feeds=[feed])
            async with trio.open_nursery() as nursery:
                await nursery.start(server.run)
                print("REST at", server.addresses.http_url)
                assert server.addresses.stream_url is not None
                async with trio.open_nursery() as clients:
                    connected = trio.Event()
                    clients.start_soon(follow, server.addresses.stream_url, connected)
                    await connected.wait()
                    for price in (4_100, 4_200):
                        await trio.to_thread.run_sync(publish, frames.delta(TICKER, "yes", price, 500))
                nursery.cancel_scope.cancel()
    print("stopped")


if __name__ == "__main__":
    trio.run(main)
