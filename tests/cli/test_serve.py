import json
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from kalshibook.cli import serve as serving
from kalshibook.cli.serve import make_feed
from kalshibook.errors import FeedError
from kalshibook.feeds import EmbeddedBroker, KafkaFeed
from kalshibook.feeds.publisher import Publisher
from kalshibook.feeds.recording import RecordingFeed
from kalshibook.settings import Argument, load_settings
from kalshibook.store import BookStore, IncidentKind
from tests.cli.conftest import Start

SNAPSHOT = (
    b'{"type":"orderbook_snapshot","sid":1,"seq":1,"msg":{"market_ticker":"KXFROG-T40",'
    b'"yes_dollars_fp":[["0.4000","75.50"]],"no_dollars_fp":[["0.5500","10.00"]]}}'
)
ANY_PORTS = ("--port", "0", "--stream-port", "0")
STOP_S = 15  # a second is what it takes; the rest is for a machine that is busy with other tests


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_a_topic_and_stops_on_a_signal(
    start: Start, broker: EmbeddedBroker, number: signal.Signals
) -> None:
    """What is in Kafka is served over REST; a signal ends all of it soon, with exit code 0."""
    with Publisher(str(broker), source="g1", settings=EmbeddedBroker.PRODUCER_SETTINGS) as publisher:
        publisher.publish(SNAPSHOT, connection="c1", received_us=1)
    serve = start("serve", "--bootstrap-servers", str(broker), *ANY_PORTS)
    url = serve.wait_for(r'"rest": "(http:[^"]*)"')[1]
    serve.wait_for("kafka is live")

    tops = httpx.get(f"{url}/v1/tops", params={"tickers": "KXFROG-T40"}).json()

    assert [row["yes_bid_dollars"] for row in tops["markets"]] == ["0.4000"]
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert serve.stopped(number, within=STOP_S) == 0
    assert json.loads(serve.error[-1])["event"] == "stopped"
    assert all(json.loads(line)["level"] in {"info", "warning"} for line in serve.error)


def test_serves_while_no_broker_answers(start: Start) -> None:
    """Without a broker it lives, says that it is not ready, and stops as soon as with one."""
    serve = start("serve", "--bootstrap-servers", "127.0.0.1:1", *ANY_PORTS)
    url = serve.wait_for(r'"rest": "(http:[^"]*)"')[1]
    serve.wait_for("broker_down")

    assert httpx.get(f"{url}/healthz").status_code == 200
    assert httpx.get(f"{url}/readyz").status_code == 503
    assert serve.stopped(within=STOP_S) == 0


@pytest.mark.parametrize("option", ["--port", "--stream-port"])
@pytest.mark.parametrize("command", ["serve", "demo"])
def test_a_busy_port_is_one_line(start: Start, command: str, option: str) -> None:
    """A port in use is named with the option that chooses another; exit code 1, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        run = start(command, *ANY_PORTS, option, port)

        assert run.ended() == 1
    [line] = run.error
    assert line.startswith(f"kalshibook: port {port} of 127.0.0.1 is in use")
    assert f"choose another {option} " in line


def test_a_feed_of_another_name(start: Start, tmp_path: Path) -> None:
    """`--feed` chooses a plug-in, which gets its options from the settings."""
    folder = tmp_path / "KXFROG-T40"
    folder.mkdir()
    (folder / "2026-11-22.ndjson").write_bytes(b'{"recv_ms":1,"event":%s}\n' % SNAPSHOT)
    path = f"server.feed_options.path={tmp_path}"
    serve = start("serve", "--feed", "recording", "--set", path, *ANY_PORTS)
    url = serve.wait_for(r'"rest": "(http:[^"]*)"')[1]

    found = httpx.get(f"{url}/v1/tops", params={"tickers": "KXFROG-T40"}).json()["markets"]
    while not found:
        found = httpx.get(f"{url}/v1/tops", params={"tickers": "KXFROG-T40"}).json()["markets"]

    assert found[0]["yes_ask_dollars"] == "0.4500"
    assert serve.stopped(within=STOP_S) == 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["server.feed=nothing"], "no feed is named 'nothing'; installed: kafka, recording"),
        (["server.feed=recording"], "missing required field `path`"),
        (["server.feed=recording", "server.feed_options.path=x", "server.feed_options.spede=1"], "spede"),
    ],
)
def test_unfit_feeds(settings: list[str], reason: str) -> None:
    """A feed that is not there, or does not take its options, is an error with the reason."""
    loaded = load_settings(environ={}, arguments=[Argument.parse(text) for text in settings])

    with pytest.raises(FeedError, match=reason):
        make_feed(loaded.settings, BookStore())


def test_feeds_are_made_from_their_options() -> None:
    """Kafka has a section of its own; others are given their own struct, converted from text."""
    path = Argument.parse("server.feed_options.path=x")
    loop = Argument.parse("server.feed_options.loop=true")
    settings = load_settings(
        environ={}, arguments=[path, loop, Argument.parse("server.feed=recording")]
    ).settings

    recording = make_feed(settings, BookStore())
    kafka = make_feed(load_settings(environ={}).settings, BookStore())

    assert isinstance(recording, RecordingFeed)
    assert ("x", True) == (recording.options.path, recording.options.loop)
    assert isinstance(kafka, KafkaFeed)


def test_settings_reach_store_and_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is made with its own section."""
    paths = (
        "store.incident_capacity=7",
        "http.max_page=7",
        "stream.max_markets=7",
        "server.switch_interval_us=7",
    )
    settings = load_settings(environ={}, arguments=[Argument.parse(path) for path in paths]).settings
    made: dict[str, Any] = {}

    def server(store: BookStore, **given: Any) -> None:
        made.update(given, store=store)
        raise ZeroDivisionError

    monkeypatch.setattr(serving, "BookServer", server)
    with pytest.raises(ZeroDivisionError):
        trio.run(serving._serve, settings, lambda: None)

    assert (settings.http, settings.stream, 7) == (
        made["http"],
        made["stream"],
        made["switch_interval_us"],
    )
    for number in range(9):
        made["store"].incidents.record(IncidentKind.FEED, str(number))
    assert 7 == len(made["store"].incidents.recent())
