"""What the scenarios feed: records of real recordings, else of the market generator, always the same."""

import time
from typing import Final

from kalshibook.feeds.enveloper import Enveloper
from kalshibook.feeds.tape import Tape
from kalshibook.simulator import GeneratorOptions, MarketGenerator
from perf.context import Context

__all__ = ["START_US", "recorded_records", "synthetic_records"]

START_US: Final = 1_790_000_000_000_000
"""When made-up time begins, microseconds since the epoch."""


def recorded_records(context: Context, limit: int) -> tuple[list[bytes], str] | None:
    """
    Return record values made of real recordings, in the order in which they happened.

    Args:
        context: says where recordings are.
        limit: how many at most.

    Returns:
        The values and a line for the report, or None when there are no recordings.
    """
    if context.recordings is None:
        return None
    tape = Tape(context.recordings, strict=False, align=True, run="perf")
    enveloper = Enveloper("perf", clock_us=lambda: START_US)
    values: list[bytes] = []
    for frame in tape:
        route = enveloper.route(frame.frame)
        if route is None:
            continue
        received_us = frame.received_ms * 1_000
        values.append(
            enveloper.wrap(frame.frame, route, connection=frame.connection, received_us=received_us)
        )
        enveloper.accept(route, connection=frame.connection)
        if len(values) == limit:
            break
    return values, f"{len(values):,} real frames of {len(tape.markets)} recorded markets, in their envelopes"


def synthetic_records(context: Context, limit: int, markets: int) -> tuple[list[bytes], str]:
    """
    Return record values of simulated markets, with the statistics of real ones.

    Args:
        context: gives the seed.
        limit: how many.
        markets: how many markets there are at any moment.
    """
    options = GeneratorOptions(markets=markets, messages_per_second=10_000, seed=context.seed)
    generator = MarketGenerator(options, start_us=START_US)
    enveloper = Enveloper("perf", clock_us=lambda: generator.now_us)
    values: list[bytes] = []
    shown_s = time.monotonic()
    for _, frame in generator.frames():
        route = enveloper.route(frame)
        if route is None:
            continue
        values.append(enveloper.wrap(frame, route, connection="perf", received_us=generator.now_us))
        enveloper.accept(route, connection="perf")
        if len(values) == limit:
            break
        if time.monotonic() - shown_s > 1:
            shown_s = time.monotonic()
            context.step(f"making {limit:,} records", len(values) / limit)
    return values, f"{limit:,} made-up frames of {markets:,} markets, seed {context.seed}, in their envelopes"
