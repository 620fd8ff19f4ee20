"""A server that is killed, and its successor."""

import signal
from decimal import Decimal
from pathlib import Path

import httpx

from kalshibook.feeds import EmbeddedBroker
from kalshibook.feeds.publisher import Publisher
from kalshibook.testing import FrameFactory, fold
from tests.cli.running import Running

MARKETS = ("KXKILL-1", "KXKILL-2", "KXKILL-3")
FRAMES = 2_000


def test_books_after_kill_9_are_those_of_a_run_that_never_stopped(tmp_path: Path) -> None:
    """
    Killed while it starts, while it catches up and while it serves, each time with more on its way.

    A store lives in memory, so its successor reads the topic again: what it then serves is what a plain
    fold of everything that was published gives.
    """
    frames = FrameFactory()
    published = [frames.snapshot(ticker, yes=[(4_000, 10_000)], no=[(5_000, 10_000)]) for ticker in MARKETS]
    options = ["--port", "0", "--stream-port", "0", "--set", "kafka.start=beginning"]
    with EmbeddedBroker({"market-data-all": 3}) as broker, Publisher(str(broker), source="g1") as publisher:

        def publish(frame: bytes) -> None:
            publisher.publish(frame, connection=frames.connection, received_us=frames.now_us)

        for frame in published:
            publish(frame)
        for moment in ('"rest"', "kafka is ", "kafka is live"):
            for step in range(FRAMES):
                published.append(
                    frames.delta(
                        MARKETS[step % 3], "yes" if step % 2 else "no", 100 * (1 + step % 30), 1 + step
                    )
                )
                publish(published[-1])
            publisher.flush()
            with Running("serve", "--bootstrap-servers", str(broker), *options, folder=tmp_path) as killed:
                killed.wait_for(moment)
                assert -signal.SIGKILL == killed.stopped(signal.SIGKILL)
        with Running("serve", "--bootstrap-servers", str(broker), *options, folder=tmp_path) as serve:
            url = serve.wait_for(r'"rest": "(http:[^"]*)"')[1]
            serve.wait_for("kafka is live")
            served = {
                ticker: httpx.get(f"{url}/trade-api/v2/markets/{ticker}/orderbook").json()["orderbook_fp"]
                for ticker in MARKETS
            }
            counts = httpx.get(f"{url}/v1/statistics").json()["store"]["outcomes"]

    for ticker, book in fold(published).items():
        for side, levels in book.sides.items():
            found = {Decimal(price): Decimal(size) for price, size in served[ticker][f"{side}_dollars"]}
            assert levels == found
    assert {"snapshot": 3, "delta": 3 * FRAMES} == {name: count for name, count in counts.items() if count}
