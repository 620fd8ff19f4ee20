"""A process that reads a topic and serves its books over WebSocket: for the `gather` scenario."""

from functools import partial
from typing import Any

import trio

from kalshibook.collecting import served_collector
from kalshibook.feeds import EmbeddedBroker, KafkaFeed, KafkaOptions
from kalshibook.server import BookServer
from kalshibook.store import BookStore
from kalshibook.stream.options import StreamOptions
from perf.clients.worker import answer_commands, settings


async def main(*, address: str) -> None:
    """Serve until standard input ends."""
    store = BookStore()
    kafka = KafkaOptions(
        bootstrap_servers=address, start="beginning", extra={**EmbeddedBroker.CONSUMER_SETTINGS}
    )
    feed = KafkaFeed(store, kafka)

    def live() -> dict[str, Any]:
        counts = store.cut().counts
        return {"live": counts.live, "tickers": [str(ticker) for ticker in store.cut()]}

    with served_collector() as filled:
        async with BookServer(store, http=None, stream=StreamOptions(port=0), feeds=[feed]) as server:
            feed.start()
            filled()
            try:
                greeting = {"stream_url": server.addresses.stream_url}
                await trio.to_thread.run_sync(partial(answer_commands, {"live": live}, greeting))
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(feed.stop)


if __name__ == "__main__":
    trio.run(partial(main, **settings()))
