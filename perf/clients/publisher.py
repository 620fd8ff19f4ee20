"""A process that publishes the load: all snapshots, then changes at a steady rate or as fast as they go."""

import time
from typing import Any, Final

from confluent_kafka import Producer

from kalshibook.feeds import EmbeddedBroker
from perf.clients.load import Encoder, Load, LoadSettings
from perf.clients.worker import answer_commands, settings

_TOPIC: Final = "market-data-all"
_SLICE_S: Final = 0.001


class Publisher:
    """Publishes one load to one topic, each market's records to the market's partition."""

    def __init__(self, address: str, load: dict[str, Any], linger_ms: int) -> None:
        self._load = Load(LoadSettings(**load))
        self._encoder = Encoder(self._load)
        self._producer = Producer(
            {
                "bootstrap.servers": address,
                **EmbeddedBroker.PRODUCER_SETTINGS,
                "linger.ms": linger_ms,
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 1_048_576,
                "enable.idempotence": True,
            }
        )
        self._published = 0
        self._failed = 0

    def snapshots(self) -> dict[str, int]:
        """Publish the book of every market."""
        for market in range(self._load.settings.markets):
            self._put(market, self._encoder.snapshot(market, time.time_ns() // 1_000))
        return self._flushed()

    def changes(self, count: int, rate: float | None) -> dict[str, float]:
        """
        Publish changes.

        Args:
            count: how many.
            rate: a second; None is as fast as it goes, which is for topics that are read later.

        Returns:
            How many were published so far, and the seconds that it took.
        """
        load, encoder = self._load, self._encoder
        started = time.perf_counter()
        done = 0
        while done < count:
            due = count if rate is None else min(int((time.perf_counter() - started) * rate) + 1, count)
            for _ in range(min(due - done, 1_000)):
                step = load.step()
                self._put(step.market, encoder.delta(step, time.time_ns() // 1_000))
                done += 1
            self._producer.poll(0)
            if done >= due and done < count:
                time.sleep(_SLICE_S)
        seconds = time.perf_counter() - started
        return {**self._flushed(), "seconds": seconds}

    def _put(self, market: int, record: bytes) -> None:
        while True:
            try:
                self._producer.produce(
                    _TOPIC,
                    record,
                    self._load.tickers[market].encode(),
                    partition=self._load.partition(market),
                    on_delivery=self._on_delivery,
                )
            except BufferError:
                self._producer.poll(0.01)
            else:
                self._published += 1
                return

    def _on_delivery(self, error: object, _: object) -> None:
        if error is not None:
            self._failed += 1

    def _flushed(self) -> dict[str, int]:
        self._producer.flush(30)
        return {"published": self._published, "failed": self._failed}


def main(address: str, load: dict[str, Any], linger_ms: int = 1) -> None:
    """Publish on command."""
    publisher = Publisher(address, load, linger_ms)
    answer_commands({"snapshots": publisher.snapshots, "changes": publisher.changes}, {})


if __name__ == "__main__":
    main(**settings())
