import json
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kalshibook.cli.main import app
from kalshibook.feeds import EmbeddedBroker, KafkaFeed, KafkaOptions
from kalshibook.feeds.tape import Tape
from kalshibook.store import BookStore
from kalshibook.testing.reference import compare_all, fold
from tests.cli.conftest import Start
from tests.cli.test_demo import SNAPSHOT, _delta, _record
from tests.cli.test_serve import STOP_S


def _replay(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["replay", *arguments], prog_name="kalshibook")


def test_recordings_arrive(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """What is replayed into Kafka makes the books that a plain fold of the recording does."""
    path = _record(tmp_path, SNAPSHOT, *(_delta(seq, "1.25") for seq in range(2, 40)))

    result = _replay(str(path), "--speed", "max", "--bootstrap-servers", str(broker))

    assert result.stderr == ""
    assert "\n39 of 39 frames published to market-data-all in " in result.stdout
    store = BookStore()
    options = KafkaOptions(
        bootstrap_servers=str(broker), start="beginning", extra=dict(EmbeddedBroker.CONSUMER_SETTINGS)
    )
    with KafkaFeed(store, options) as feed:
        assert feed.wait_ready(20)
    assert [] == compare_all(store.cut(), fold(recorded.frame for recorded in Tape(path)))


def test_a_signal_ends_it(start: Start, broker: EmbeddedBroker, tmp_path: Path) -> None:
    """An endless replay stops soon; what was published is told, and the exit code is not 0."""
    path = _record(tmp_path, SNAPSHOT, _delta(2, "1.00"))
    replay = start("replay", str(path), "--loop", "--bootstrap-servers", str(broker))
    replay.wait_for("^playing .* into market-data-all at 127")

    assert replay.stopped(signal.SIGINT, within=STOP_S) == 130
    assert " frames published to market-data-all in " in replay.out[-1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--topic", "missing"], "topic 'missing' does not exist"),
        (["--speed", "0"], "speed '0' is neither 'max' nor a number above 0"),
        (["--set", "kafka.extra.acks=1"], "'acks' cannot be changed"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], reason: str, broker: EmbeddedBroker, tmp_path: Path
) -> None:
    """Whatever keeps it from playing is said in one line; exit code 1."""
    result = _replay(str(_record(tmp_path, SNAPSHOT)), "--bootstrap-servers", str(broker), *arguments)

    assert result.exit_code == 1
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("options", "code"), [([], 1), (["--skip-bad-lines"], 0)])
def test_bad_lines(options: list[str], code: int, broker: EmbeddedBroker, tmp_path: Path) -> None:
    """A line that cannot be read ends the replay with its place, unless it is to be passed over."""
    path = _record(tmp_path, SNAPSHOT)
    file = path / "KXFROG-T40" / "2026-11-22.ndjson"
    file.write_text("not JSON\n" + json.dumps({"recv_ms": 1, "event": SNAPSHOT}))

    result = _replay(str(path), "--speed", "max", "--bootstrap-servers", str(broker), *options)

    assert code == result.exit_code
    assert f"{file}, line 1" in result.stderr
