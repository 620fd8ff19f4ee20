"""Bulk REST beside a plain Quart handler of the same process, while the feed runs."""

from typing import Any, Final

from perf.clients.load import LoadSettings
from perf.clients.worker import Worker
from perf.context import Context
from perf.result import Check, Goal, Measurement, ScenarioResult, Series, Table
from perf.stage import Stage, staged

_RATE: Final = 10_000
_SIZES: Final = (1, 100, 1_000, 10_000)
_LONGEST_URL: Final = 3_000
"""Tickers that a GET's address can hold."""
_PLAIN_LIMIT: Final = 10.0
_EMPTY_LIMIT: Final = 2.0


def run(context: Context) -> ScenarioResult:
    """Ask for growing lists in turn with the plain handler and the empty answer."""
    seconds = 0.5 if context.quick else 2.0
    load = LoadSettings(markets=10_000, levels=5, seed=context.seed)
    with staged(load, plain_http=True) as stage:
        context.step(f"bulk: {_RATE:,} updates/s meanwhile")
        # Somewhat longer than the requests take; the feed then runs under all of them.
        stage.begin(int(_RATE * seconds * 14), _RATE)
        found = _measure(stage, context, seconds)
        stage.finish()
        stage.settle()
        checks = [*stage.checks(), *_compared(stage)]
    rows = tuple(
        (
            method,
            size,
            size * one["requests"] / one["seconds"],
            *(one["percentiles_us"][key] / 1_000 for key in ("p50", "p99")),
        )
        for (method, size), one in found.items()
    )
    rates = {key: key[1] * one["requests"] / one["seconds"] for key, one in found.items()}
    empty_ms = found["empty", 1]["percentiles_us"]["p50"] / 1_000
    thousand_ms = found["POST", 1_000]["percentiles_us"]["p50"] / 1_000
    goals = [
        Goal(
            text=f"{size:,} tickers: ≥ 10 times the books/s of the plain handler",
            value=rates["POST", size] / rates["plain POST", size],
            limit=_PLAIN_LIMIT,
            at_most=False,
            reason="Hypercorn alone takes more than a tenth of what the plain handler does",
        )
        for size in _SIZES
        if size > 1
    ]
    goals.append(
        Goal(
            text="1,000 tickers: p50 ≤ 2 times that of an empty Quart answer",
            value=thousand_ms / empty_ms,
            limit=_EMPTY_LIMIT,
            reason="1,000 books to compare, a join of 290 kB and its way through h11, and the feed beside it",
        )
    )
    return ScenarioResult(
        name="bulk",
        title="tops of 1 to 10,000 books a request, GET and POST, beside a plain Quart handler",
        conditions=(
            f"{load.markets:,} markets, feed at {_RATE:,} updates/s, seed {load.seed}",
            "one kept-alive connection, closed loop; the same list again and again, as a poller asks",
            "the plain handler: same process, same store, but builds dicts and dumps them",
        ),
        measurements=(Measurement("empty Quart answer, p50", empty_ms, "ms"),),
        tables=(Table("Requests", ("what", "tickers", "books/s", "p50 ms", "p99 ms"), rows),),
        series=tuple(
            Series(
                plot="Books a second against tickers a request",
                name=name,
                x_label="tickers",
                y_label="books/s",
                x=tuple(float(size) for method, size in found if method == name),
                y=tuple(rates[method, size] for method, size in found if method == name),
                log_x=True,
                log_y=True,
            )
            for name in ("GET", "POST", "plain POST")
        ),
        goals=tuple(goals),
        checks=tuple(checks),
    )


def _measure(stage: Stage, context: Context, seconds: float) -> dict[tuple[str, int], dict[str, Any]]:
    ours, plain = stage.requests(), stage.requests("plain")
    found: dict[tuple[str, int], dict[str, Any]] = {}
    found["empty", 1] = plain.ask("repeat", path="/empty", seconds=seconds)
    for size in _SIZES:
        context.step(f"bulk: {size:,} tickers a request")
        body = {"tickers": _tickers(stage, size)}
        found["plain POST", size] = plain.ask("repeat", path="/tops", body=body, seconds=seconds)
        found["POST", size] = ours.ask("repeat", path="/v1/tops", body=body, seconds=seconds)
        if size <= _LONGEST_URL:
            path = "/v1/tops?tickers=" + ",".join(body["tickers"])
            found["GET", size] = ours.ask("repeat", path=path, seconds=seconds)
    return found


def _tickers(stage: Stage, count: int) -> list[str]:
    return [f"KXPERF-26DEC01-T{number * stage.load.markets // count:06d}" for number in range(count)]


def _compared(stage: Stage) -> list[Check]:
    expected = stage.server.ask("books")
    requests: Worker = stage.requests()
    answer = requests.ask("fetch", path="/v1/tops", body={"tickers": _tickers(stage, 10_000)})
    wrong = [row["ticker"] for row in answer["markets"] if _top(row) != expected[row["ticker"]]["top"][:3]]
    return [
        Check(
            f"the tops of {len(answer['markets']):,} books by REST are the store's",
            not wrong and len(answer["markets"]) == len(expected),
            ", ".join(wrong[:5]),
        )
    ]


def _top(row: dict[str, Any]) -> list[str | None]:
    return [row["yes_bid_dollars"], row["yes_bid_size_fp"], row["no_bid_dollars"]]
