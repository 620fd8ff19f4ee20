"""A process that plays recordings into Kafka, in a loop."""

import threading
from pathlib import Path

from kalshibook.feeds.broker import EmbeddedBroker
from kalshibook.feeds.player import play
from kalshibook.feeds.publisher import Publisher
from kalshibook.feeds.tape import Tape
from perf.clients.worker import answer_commands, settings


def main(address: str, folder: str, speed: float) -> None:
    """Play until standard input ends."""
    stop = threading.Event()
    with Publisher(address, source="player", settings=dict(EmbeddedBroker.PRODUCER_SETTINGS)) as publisher:
        tape = Tape(Path(folder))

        def run() -> None:
            play(tape, publisher, speed=speed, loop=True, stop=stop)

        thread = threading.Thread(target=run, daemon=True)

        def halt() -> dict[str, int]:
            stop.set()
            thread.join()
            return {"offered": publisher.statistics().offered, "failed": publisher.statistics().failed}

        answer_commands({"start": thread.start, "stop": halt}, {})
        stop.set()


if __name__ == "__main__":
    main(**settings())
