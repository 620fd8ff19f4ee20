"""From the exchange to Kafka and on to a client: throughput, latency, reconnection, and a fault campaign."""

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from websockets.sync.client import connect

from perf.campaign import Findings, joined
from perf.clients.worker import Worker
from perf.context import Context
from perf.measures import PERCENTILES, counted_percentiles
from perf.result import Check, Goal, Measurement, ScenarioResult, Table

__all__ = ["run"]

_TOPICS: Final = {"market-data-all": 4, "market-data-gaps": 1}
_RECONNECT_S: Final = 5.0
_WAIT_S: Final = 120
_CAMPAIGNS: Final = 2
"""Processes that a campaign is spread over, each with a seed of its own."""


def run(context: Context) -> ScenarioResult:
    """Measure with sockets, then let the campaign run without them."""
    flow = _throughput(context)
    latency = _latency(context)
    again = _reconnect(context)
    sockets = _socket_campaign(context)
    found, seconds = _campaign(context)
    injected = sum(found.injected.values())
    return ScenarioResult(
        name="gather",
        title="A gatherer between a simulated exchange and Kafka: its pace, a cut connection, faults.",
        conditions=(
            "exchange, broker, gatherer, reader and client are processes of their own, all on this machine",
            f"throughput: 200 markets, all channels, as fast as it is read, for {flow['seconds']:.0f} s",
            f"latency: {latency['rate']:,} messages/s, {latency['samples']:,} deltas at one WebSocket client",
            f"reconnection: {again['markets']:,} markets on one connection that is cut",
            (
                f"campaign without sockets: {found.messages:,} frames, {injected:,} faults,"
                f" {_CAMPAIGNS} processes with seeds from {context.seed} on"
            ),
            f"campaign over sockets, one process: {sockets['frames']:,} frames, {sockets['faults']} faults",
        ),
        measurements=(
            Measurement("exchange to Kafka", flow["frames_per_s"], "frames/s", "acknowledged by the broker"),
            Measurement(
                "CPU of the gatherer", flow["cpu_us"], "µs", "a frame, own books of the audit included"
            ),
            Measurement("reconnection", again["seconds"], "s", f"{again['markets']:,} markets live again"),
            Measurement("campaign", found.messages / seconds, "messages/s", "exchange and reader included"),
        ),
        tables=(
            Table(
                "exchange to client, ms",
                ("", *PERCENTILES),
                (("delta", *(latency["percentiles"][name] for name in PERCENTILES)),),
            ),
            Table(
                "faults of the campaign without sockets",
                ("kind", "done", "found"),
                tuple(
                    (kind, count, found.found.get(kind, 0)) for kind, count in sorted(found.injected.items())
                ),
            ),
        ),
        goals=(
            Goal(
                text=f"{again['markets']:,} markets are live again within {_RECONNECT_S:g} s",
                value=again["seconds"],
                limit=_RECONNECT_S,
                unit="s",
                reason="the machine is busy with the exchange and the broker too",
            ),
        ),
        checks=(*_checks(found), *_socket_checks(sockets)),
        notes=(
            "the exchange's clock is told in whole milliseconds: latencies are half a millisecond too long",
            f"{found.reconnections} connections were given up in the campaign, as the rules demand",
        ),
    )


def _checks(found: Findings) -> tuple[Check, ...]:
    return (
        Check("campaign: no fault missed", not found.missed, "; ".join(found.missed[:5])),
        Check("campaign: no false alarm", not found.false_alarms, "; ".join(found.false_alarms[:5])),
        Check("campaign: all books are the exchange's", not found.differing, ", ".join(found.differing[:5])),
        Check("campaign: no gap left open", not found.open_gaps, str(found.open_gaps or "")),
    )


def _socket_checks(sockets: dict[str, Any]) -> tuple[Check, ...]:
    return (
        Check(
            "over sockets: all books are the exchange's",
            not sockets["differing"],
            ", ".join(sockets["differing"][:5]),
        ),
        Check(
            "over sockets: no gap left open, but for what is lost of trades",
            not sockets["open"],
            f"{', '.join(sockets['open'])} {sockets['lost']} lost for good".strip(),
        ),
    )


@contextmanager
def _gathering(exchange: dict[str, Any], **gatherer: Any) -> Iterator[tuple[Worker, Worker, str]]:
    with ExitStack() as stack:
        broker = stack.enter_context(Worker("broker", topics=_TOPICS))
        address: str = broker.greeting["address"]
        there = stack.enter_context(Worker("exchange", open=True, read_tokens_per_second=0, **exchange))
        urls = {name: there.greeting[name] for name in ("rest_url", "stream_url")}
        here = stack.enter_context(Worker("gatherer", address=address, **urls, **gatherer))
        yield there, here, address


def _throughput(context: Context) -> dict[str, float]:
    seconds = 2.0 if context.quick else 10.0
    context.step("gather: as fast as the exchange is read")
    settings = {"markets": 200, "short_lived": 0, "speed": 0, "subscription_buffer": 1_000_000}
    with _gathering(settings, poll_seconds=0) as (_, gatherer, _):
        _wait_for_frames(gatherer)
        first = gatherer.ask("counts")
        time.sleep(seconds)
        last = gatherer.ask("counts")
    frames, took = last["delivered"] - first["delivered"], last["time"] - first["time"]
    return {
        "seconds": took,
        "frames_per_s": frames / took,
        "cpu_us": (last["cpu"] - first["cpu"]) / max(frames, 1) * 1e6,
    }


def _wait_for_frames(gatherer: Worker) -> None:
    end = time.monotonic() + _WAIT_S
    while gatherer.ask("counts")["delivered"] < 5_000:
        assert time.monotonic() < end, "the gatherer publishes nothing"
        time.sleep(0.1)


def _latency(context: Context) -> dict[str, Any]:
    seconds, rate, markets = (3.0, 500, 100) if context.quick else (12.0, 1_000, 100)
    context.step("gather: latency from the exchange to a client")
    with ExitStack() as stack:
        settings = {"markets": markets, "short_lived": 0, "messages_per_second": rate}
        _, gatherer, address = stack.enter_context(_gathering(settings, poll_seconds=0))
        reader = stack.enter_context(Worker("reading", address=address))
        gatherer.ask("wait_live", markets=markets)
        end = time.monotonic() + _WAIT_S
        while (found := reader.ask("live"))["live"] < markets:
            assert time.monotonic() < end, "the reader has not caught up"
            time.sleep(0.1)
        delays = _listen(reader.greeting["stream_url"], found["tickers"], seconds)
    return {
        "rate": rate,
        "samples": sum(delays.values()),
        "percentiles": counted_percentiles(delays),
    }


def _listen(url: str, tickers: list[str], seconds: float) -> Counter[int]:
    """Return how often a delta took so many milliseconds from the exchange's clock to here."""
    delays: Counter[int] = Counter()
    params = {"channels": ["orderbook_delta"], "market_tickers": tickers}
    command = json.dumps({"id": 1, "cmd": "subscribe", "params": params})
    with connect(url, max_queue=None, max_size=None) as socket:
        socket.send(command)
        begin = time.monotonic() + 0.5  # after the snapshots
        end = begin + seconds
        while (now := time.monotonic()) < end:
            try:
                frame = json.loads(socket.recv(timeout=1))
            except TimeoutError:
                continue
            if frame["type"] == "error":
                # The reader fell behind, as on a machine with too much to do: its clients begin anew.
                time.sleep(0.5)
                socket.send(command)
            elif frame["type"] == "orderbook_delta" and now > begin:
                delays[round(time.time() * 1_000 - frame["msg"]["ts_ms"])] += 1
    return delays


def _reconnect(context: Context) -> dict[str, Any]:
    context.step("gather: a cut connection")
    markets = 1_500 if context.quick else 7_500
    settings = {"markets": 100, "quiet_markets": markets - 100, "short_lived": 0, "messages_per_second": 500}
    with _gathering(settings, poll_seconds=0, book_connections=1) as (exchange, gatherer, _):
        gatherer.ask("wait_live", markets=markets)
        gatherer.tell("reconnect")
        time.sleep(0.2)
        _post(exchange.greeting["control_url"] + "/faults", {"kind": "cut", "channel": "orderbook_delta"})
        took: dict[str, Any] = gatherer.hear()
    return {"markets": markets, **took}


def _post(url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


def _socket_campaign(context: Context) -> dict[str, Any]:
    context.step("gather: faults over sockets")
    changes, faults = (5_000, 20) if context.quick else (100_000, 200)
    with Worker("gatherer", campaign={"changes": changes, "faults": faults, "seed": context.seed}) as worker:
        found: dict[str, Any] = worker.ask("run")
    return found


def _campaign(context: Context) -> tuple[Findings, float]:
    # A minute of CPU time a million: ten of them are for the long run.
    millions = 10 if context.soak else 1
    text = f"gather: campaign of {millions},000,000 messages"
    messages, faults = millions * 1_000_000 // _CAMPAIGNS, millions * 100 // _CAMPAIGNS
    start = time.perf_counter()
    with ExitStack() as stack:
        parts = [
            stack.enter_context(
                Worker("campaigner", messages=messages, faults=faults, seed=context.seed + number)
            )
            for number in range(_CAMPAIGNS)
        ]
        done = 0.0
        while done < 1:
            for part in parts:
                part.tell("step")
            done = min(part.hear() for part in parts)
            context.step(text, done)
        found = [Findings(**part.ask("findings")) for part in parts]
    return joined(found), time.perf_counter() - start
