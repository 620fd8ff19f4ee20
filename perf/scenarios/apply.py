"""
What one update costs: decode, read, apply, publish one version; against a bare decode of the same bytes.

The collector runs as Python sets it, and nothing reads meanwhile: this is the price of the work itself,
in CPU time of the one thread that does it.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from kalshibook.store import Arrival, BookStore
from kalshibook.testing import compare_all, fold
from kalshibook.wire import EnvelopeHead, decode_envelope, read_frame
from kalshibook.wire.envelope import typed_decoder
from perf.context import Context
from perf.frames import recorded_records, synthetic_records
from perf.result import Check, Goal, Measurement, ScenarioResult, Table
from perf.timing import Cost, costs

__all__ = ["run"]

_LIMIT: Final = 3.0
_DECODE, _UNTYPED, _ENVELOPE, _READ, _ARRIVAL, _ALL = (
    "bare decode into structs",
    "decode into dicts, for comparison",
    "decode, version checked",
    "and read: fixed-point numbers",
    "and where it came from",
    "and apply and publish a version",
)


def run(context: Context) -> ScenarioResult:
    """Measure each step on real and on made-up frames."""
    limit, rounds = (10_000, 3) if context.quick else (60_000, 5)
    found = recorded_records(context, limit)
    inputs = [] if found is None else [("real", *found)]
    inputs.append(("made-up", *synthetic_records(context, limit, 1_000)))
    measurements: list[Measurement] = []
    tables: list[Table] = []
    goals: list[Goal] = []
    checks: list[Check] = []
    for name, values, description in inputs:
        context.step(f"apply: {description}")
        measured = costs(_steps(values), len(values), rounds)
        bare, whole = measured[_DECODE], measured[_ALL]
        measurements.append(Measurement("one update", whole.least, "µs", f"{name} frames, all steps"))
        measurements.append(Measurement("updates", 1e6 / whole.least, "/s", f"{name} frames, one thread"))
        tables.append(_table(f"{name} frames: each row does what the rows above do, and more", measured))
        goals.append(
            Goal(
                text=f"{name} frames: at most {_LIMIT:g} x a bare decode",
                value=whole.over(bare),
                limit=_LIMIT,
                reason=_reason(measured),
            )
        )
        checks.append(_check(name, values))
    return ScenarioResult(
        name="apply",
        title="One update on one thread: from a record's bytes to a published version of the store.",
        conditions=(
            *(description for _, _, description in inputs),
            f"{rounds} interleaved rounds; CPU time of the thread: the least round, ratios by the median",
            "the collector as Python sets it, no readers",
        ),
        measurements=tuple(measurements),
        tables=tuple(tables),
        goals=tuple(goals),
        checks=tuple(checks),
    )


def _reason(measured: dict[str, Cost]) -> str:
    store = measured[_ALL].least - measured[_ARRIVAL].least
    dicts = measured[_UNTYPED].over(measured[_DECODE])
    return (
        f"the store's share is {store:.1f} µs, a dozen small objects made and as many old ones freed; "
        f"beside it, decoding into dicts instead of structs costs {dicts:.1f} x"
    )


def _steps(values: Sequence[bytes]) -> dict[str, Callable[[], object]]:
    typed, untyped = typed_decoder.decode, msgspec.json.Decoder().decode

    def bare() -> None:
        for value in values:
            typed(value)

    def dicts() -> None:
        for value in values:
            untyped(value)

    def envelope() -> None:
        for value in values:
            decode_envelope(value)

    def read() -> None:
        for value in values:
            read_frame(decode_envelope(value).payload)

    def arrival() -> None:
        for offset, value in enumerate(values):
            found = decode_envelope(value)
            read_frame(found.payload)
            Arrival.of(found, partition=0, offset=offset, kafka_us=1, consumed_us=1)

    return {
        _DECODE: bare,
        _UNTYPED: dicts,
        _ENVELOPE: envelope,
        _READ: read,
        _ARRIVAL: arrival,
        _ALL: lambda: _applied(values),
    }


def _applied(values: Sequence[bytes]) -> BookStore:
    store = BookStore()
    with store.writer() as writer:
        for offset, value in enumerate(values):
            found = decode_envelope(value)
            event = read_frame(found.payload)
            writer.apply(event, Arrival.of(found, partition=0, offset=offset, kafka_us=1, consumed_us=1))
    return store


def _table(title: str, measured: dict[str, Cost]) -> Table:
    bare = measured[_DECODE]
    rows = tuple((name, cost.least, cost.over(bare)) for name, cost in measured.items())
    return Table(title, ("step", "µs", "x decode"), rows)


def _check(name: str, values: Sequence[bytes]) -> Check:
    head = msgspec.json.Decoder(EnvelopeHead).decode
    store = _applied(values)
    differences = compare_all(store.cut(), fold(bytes(head(value).payload) for value in values))
    lost = len(values) - store.cut().version
    return Check(
        f"{name} frames: every book equals a plain dictionary book, no update is lost",
        not differences and not lost,
        "; ".join(differences[:3]) or f"{len(store.cut())} books",
    )
