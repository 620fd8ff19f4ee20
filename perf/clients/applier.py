"""A process that decodes and applies the load from memory: the most that a feed can reach."""

import time
from typing import Any

from kalshibook.store import Arrival, BookStore
from kalshibook.wire import decode_envelope, read_frame
from perf.clients.load import Encoder, Load, LoadSettings
from perf.clients.worker import answer_commands, settings

_BATCH = 500


def main(load: dict[str, Any], changes: int) -> None:
    """Make the records, then apply them on command."""
    made = Load(LoadSettings(**load))
    encoder = Encoder(made)
    records = [encoder.snapshot(market, 0) for market in range(made.settings.markets)]
    records += [encoder.delta(made.step(), 0) for _ in range(changes)]

    def run() -> dict[str, float]:
        store = BookStore()
        started, cpu = time.perf_counter(), time.thread_time()
        with store.writer() as writer:
            for number, record in enumerate(records):
                envelope = decode_envelope(record)
                event = read_frame(envelope.payload, "$.payload")
                arrival = Arrival.of(envelope, partition=0, offset=number, kafka_us=None, consumed_us=None)
                writer.apply(event, arrival)
                if number % _BATCH == 0:
                    writer.commit()
        return {
            "rate": len(records) / (time.perf_counter() - started),
            "us": (time.thread_time() - cpu) / len(records) * 1e6,
        }

    answer_commands({"run": run}, {})


if __name__ == "__main__":
    main(**settings())
