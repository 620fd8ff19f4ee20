import json
import signal
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from kalshibook.cli.main import app
from kalshibook.feeds import EmbeddedBroker
from tests.cli.conftest import Start
from tests.cli.test_serve import STOP_S

TOPICS = {"market-data-all": 2, "market-data-gaps": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_gathers_until_a_signal(start: Start, number: signal.Signals) -> None:
    """Against `kalshibook simulate` it says when it is ready, and it ends well."""
    exchange = start("simulate", "--markets", "5", "--rate", "200")
    rest = exchange.wait_for(r"REST +(http:\S+)")[1]
    stream = exchange.wait_for(r"WebSocket +(ws:\S+)")[1]
    with EmbeddedBroker(TOPICS) as broker:
        custom = ("--environment", "custom", "--rest-url", rest, "--stream-url", stream, "--port", "0")
        run = start("gather", *custom, "--bootstrap-servers", str(broker))
        run.wait_for(r'"event": ?"gathering"')
        assert 0 == run.stopped(number, within=STOP_S * 2)
    assert any('"stopped"' in line for line in run.error)
    assert [] == run.out


def test_signs_with_a_key_file(start: Start) -> None:
    """An exchange that wants signatures lets it in with its key, by flag."""
    exchange = start("simulate", "--markets", "2", "--new-key", "key.pem")
    rest = exchange.wait_for(r"REST +(http:\S+)")[1]
    stream = exchange.wait_for(r"WebSocket +(ws:\S+)")[1]
    with EmbeddedBroker(TOPICS) as broker:
        custom = ("--environment", "custom", "--rest-url", rest, "--stream-url", stream, "--port", "0")
        key = ("--key-id", "simulator", "--key-file", "key.pem")
        run = start("gather", *custom, *key, "--bootstrap-servers", str(broker))
        run.wait_for(r'"event": ?"gathering"')
        assert 0 == run.stopped(within=STOP_S * 2)


def test_shows_its_health_over_http(start: Start, tmp_path: Path) -> None:
    """The ready file says where, for whoever started it as a part."""
    exchange = start("simulate", "--markets", "2")
    rest = exchange.wait_for(r"REST +(http:\S+)")[1]
    stream = exchange.wait_for(r"WebSocket +(ws:\S+)")[1]
    with EmbeddedBroker(TOPICS) as broker:
        custom = ("--environment", "custom", "--rest-url", rest, "--stream-url", stream, "--port", "0")
        run = start("gather", *custom, "--bootstrap-servers", str(broker), "--ready-file", "ready.json")
        run.wait_for(r'"event": ?"gathering"')
        addresses = json.loads((tmp_path / "ready.json").read_text())
        assert 200 == httpx.get(f"{addresses['http_url']}/readyz").status_code
        assert 0 == run.stopped(within=STOP_S * 2)


def test_without_a_key_it_says_what_to_set() -> None:
    """One line, before anything is connected."""
    result = CliRunner().invoke(app, ["gather", "--environment", "demo"])

    assert 1 == result.exit_code
    assert "no key" in result.output
    assert "gather.private_key_file" in result.output


def test_a_missing_broker_is_one_line() -> None:
    """It says where none answers."""
    custom = [
        "--environment",
        "custom",
        "--rest-url",
        "http://127.0.0.1:9",
        "--stream-url",
        "ws://127.0.0.1:9",
    ]
    result = CliRunner().invoke(app, ["gather", *custom, "--bootstrap-servers", "127.0.0.1:1"])

    assert 1 == result.exit_code
    assert "no Kafka broker answers at 127.0.0.1:1" in result.output
