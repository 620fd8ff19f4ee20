import json
import signal
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.cli.conftest import Start
from tests.cli.test_serve import STOP_S
from tests.simulator.signing import Signer

ROOT = "/trade-api/v2"
WS_PATH = "/trade-api/ws/v2"
SNAPSHOT = (
    b'{"recv_ms":1,"event":{"type":"orderbook_snapshot","sid":1,"seq":1,"msg":{"market_ticker":"KXFROG-T40",'
    b'"yes_dollars_fp":[["0.4000","75.50"]]}}}\n'
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_simulates_until_a_signal(start: Start, number: signal.Signals) -> None:
    """It tells its addresses and what to try, serves both, and stops soon with what it did."""
    run = start("simulate", "--markets", "5", "--rate", "200")
    rest = run.wait_for(r"REST +(http:\S+)")[1]
    socket_url = run.wait_for(r"WebSocket +(ws:\S+)")[1]
    run.wait_for(r"gather --set gather.environment=custom")

    assert 5 <= len(httpx.get(f"{rest}/markets").json()["markets"])
    with connect(socket_url) as socket:
        socket.send(json.dumps({"id": 1, "cmd": "list_subscriptions"}))
        assert "ok" == json.loads(socket.recv(timeout=10))["type"]
    assert 0 == run.stopped(number, within=STOP_S)
    assert [] == run.error
    assert run.out[-1].startswith("Stopped after")


def test_a_new_key(start: Start, tmp_path: Path) -> None:
    """The key that was made lets in; nothing else does, and no file is written over."""
    run = start("simulate", "--new-key", "key.pem", "--markets", "2")
    rest = run.wait_for(r"REST +(http:\S+)")[1]
    file = tmp_path / "key.pem"
    assert 0o600 == file.stat().st_mode & 0o777
    signer = Signer.read("simulator", file.read_bytes())
    path = "/account/limits"
    assert 200 == httpx.get(rest + path, headers=signer.headers(ROOT + path)).status_code
    assert 401 == httpx.get(rest + path).status_code
    assert 0 == run.stopped(within=STOP_S)
    again = start("simulate", "--new-key", "key.pem")
    assert 1 == again.ended()
    assert ["kalshibook: key.pem exists already; a key is never written over"] == again.error


def test_keys_are_read_from_files(start: Start, tmp_path: Path) -> None:
    """Public keys are named in the settings; a file that is none is one line."""
    signer = Signer("mine")
    (tmp_path / "mine.pem").write_bytes(signer.public_pem)
    run = start("simulate", "--markets", "2", "--set", "simulator.keys.mine=mine.pem")
    socket_url = run.wait_for(r"WebSocket +(ws:\S+)")[1]
    with connect(socket_url, additional_headers=signer.headers(WS_PATH)):
        pass
    assert 0 == run.stopped(within=STOP_S)
    (tmp_path / "bad.pem").write_bytes(b"nonsense")
    bad = start("simulate", "--set", "simulator.keys.mine=bad.pem")
    assert 1 == bad.ended()
    assert 1 == len(bad.error)
    missing = start("simulate", "--set", "simulator.keys.mine=missing.pem")
    assert 1 == missing.ended()
    assert "missing.pem cannot be read" in missing.error[0]


def test_recordings_are_listed_and_move(start: Start, tmp_path: Path) -> None:
    """Recorded markets are there with their books."""
    folder = tmp_path / "recordings" / "KXFROG-T40"
    folder.mkdir(parents=True)
    (folder / "2026-11-22.ndjson").write_bytes(SNAPSHOT)
    run = start("simulate", "--markets", "0", "--rate", "1", "--recordings", "recordings")
    rest = run.wait_for(r"REST +(http:\S+)")[1]
    found = httpx.get(f"{rest}/markets").json()["markets"]
    while not found:
        found = httpx.get(f"{rest}/markets").json()["markets"]
    assert [("KXFROG-T40", "0.4000")] == [(market["ticker"], market["yes_bid_dollars"]) for market in found]
    assert 0 == run.stopped(within=STOP_S)
    none = start("simulate", "--recordings", "nowhere")
    assert 1 == none.ended()
    assert "there are no recordings at nowhere" in none.error[0]


def test_duration_ends_it(start: Start) -> None:
    """`--duration` is a simulation for scripts."""
    assert 0 == start("simulate", "--duration", "0.1", "--markets", "2").ended()
