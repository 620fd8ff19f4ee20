import json
import re
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Start
from tests.cli.test_serve import ANY_PORTS

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings"


def _frame(kind: str, seq: int, **message: Any) -> dict[str, Any]:
    return {"type": kind, "sid": 1, "seq": seq, "msg": {"market_ticker": "KXFROG-T40", **message}}


def _delta(seq: int, change: str) -> dict[str, Any]:
    return _frame("orderbook_delta", seq, side="yes", price_dollars="0.4000", delta_fp=change, ts_ms=seq)


def _record(folder: Path, *frames: dict[str, Any]) -> Path:
    market = folder / "KXFROG-T40"
    market.mkdir()
    lines = [json.dumps({"recv_ms": number, "event": frame}) for number, frame in enumerate(frames)]
    (market / "2026-11-22.ndjson").write_text("\n".join(lines))
    return folder


SNAPSHOT = _frame("orderbook_snapshot", 1, yes_dollars_fp=[["0.4000", "75.50"]])


def test_an_exchange_until_a_signal(start: Start) -> None:
    """Ctrl-C ends the demo, with what the run measured and a comparison with the exchange's own books."""
    demo = start("demo", "--markets", "5", "--rate", "200", *ANY_PORTS)
    demo.wait_for(r"curl 'http://127.0.0.1:\d+/v1/tops")
    demo.wait_for(r"\d+ changes .* 5 live")

    assert demo.stopped(signal.SIGINT) == 0
    assert demo.error == []
    assert any("changes per second through Kafka into 5 books" in line for line in demo.out)
    assert any(line.startswith("exchange to producer") for line in demo.out)
    assert demo.out[-1] == "Equal: 5 books are those of the exchange."


def test_duration_ends_it(start: Start) -> None:
    """`--duration` is a demo for scripts."""
    assert start("demo", "--duration", "0.1", "--markets", "2", *ANY_PORTS).ended() == 0


def test_what_was_survived_is_told(start: Start) -> None:
    """With faults on, the books are those of the exchange at the end all the same."""
    demo = start("demo", "--faults", "lively", "--markets", "5", "--rate", "500", *ANY_PORTS)
    control = demo.wait_for(r"faults +(http://\S+)")[1]
    demo.wait_for(r"\d+ changes .* 5 live")
    httpx.post(control, json={"kind": "lost", "count": 3}).raise_for_status()
    while httpx.get(control).json()["done"].get("lost", 0) < 3:
        pass

    assert demo.stopped(signal.SIGINT) == 0
    assert any(re.match(r"lost +\d", line) for line in demo.out)
    assert demo.out[-1] == "Equal: 5 books are those of the exchange."


def test_recordings_equal_a_plain_fold(start: Start, tmp_path: Path) -> None:
    """Recordings at full speed end by themselves, and the books are compared with a reference."""
    frames = [SNAPSHOT, *(_delta(seq, "1.00") for seq in range(2, 300))]
    demo = start("demo", "--recordings", str(_record(tmp_path, *frames)), "--speed", "max", *ANY_PORTS)

    assert demo.ended() == 0
    assert any("299 frames, played to the end" in line for line in demo.out)
    assert demo.out[-1].startswith("Equal: ")
    assert demo.error == []


def test_recordings_that_contradict_themselves(start: Start, tmp_path: Path) -> None:
    """A book in doubt is a difference: it is named, and the exit code is 1."""
    recordings = _record(tmp_path, SNAPSHOT, _delta(2, "-80.00"))
    demo = start("demo", "--recordings", str(recordings), "--speed", "max", *ANY_PORTS)

    assert demo.ended() == 1
    assert any("KXFROG-T40 is stale" in line for line in demo.out)


@pytest.mark.recordings
def test_a_real_recording(start: Start) -> None:
    """A quarter of an hour of a real market, through Kafka, equals a plain fold of it."""
    recording = RECORDINGS / "KXGOLD15M-26AUG101900-00"
    if not recording.is_dir():
        pytest.skip(f"there are no recordings at {RECORDINGS}")
    demo = start("demo", "--recordings", str(recording), "--speed", "max", *ANY_PORTS)

    assert demo.ended() == 0
    assert any("23,003 frames, played to the end" in line for line in demo.out)
    equal = re.match(r"Equal: (\d+) books, at the end and at 10 random moments", demo.out[-1])
    assert equal is not None
    # 11, less the moments before the snapshot had come through.
    assert 5 <= int(equal[1]) <= 11


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--recordings", "/missing"], 2, "does not exist"),
        (["--recordings", "."], 1, "there are no recordings at ."),
        (["--speed", "fast"], 1, "neither 'max' nor a number above 0"),
        (["--markets", "0"], 2, "0 is not in the range x>=1"),
        (["--bootstrap-servers", "127.0.0.1:1", "--set", "kafka.start=later"], 1, "kafka.start"),
    ],
)
def test_mistakes_are_one_line(start: Start, arguments: list[str], code: int, line: str) -> None:
    """What cannot be played is said before anything starts."""
    demo = start("demo", *arguments, *ANY_PORTS)

    assert code == demo.ended()
    assert [] == demo.out
    [found] = demo.error
    assert line in found
