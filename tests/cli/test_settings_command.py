import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kalshibook.cli.main import app


@pytest.fixture
def kalshibook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Return a runner in an empty folder whose terminal is wide."""
    monkeypatch.chdir(tmp_path)
    return CliRunner(env={"COLUMNS": "200"})


def test_table_masks_secrets_and_names_origins(kalshibook: CliRunner) -> None:
    """The table shows value and origin of everything, and no password."""
    environ = {"KALSHIBOOK_KAFKA_EXTRA_SASL_PASSWORD": "p$ w@[red]x", "KALSHIBOOK_KAFKA_TOPIC": "[bold]t"}

    result = kalshibook.invoke(app, ["settings"], env=environ)

    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.split()}
    assert result.exit_code == 0
    assert lines["kafka.topic"] == ["[bold]t", "environment", "KALSHIBOOK_KAFKA_TOPIC"]
    assert lines["kafka.extra.sasl.password"][0] == "***"
    assert lines["log.level"] == ["info", "default"]
    assert "w@" not in result.stdout


def test_a_line_is_a_setting_in_a_pipe(kalshibook: CliRunner) -> None:
    """However narrow the terminal was, nothing is folded where a program reads."""
    environ = {"KALSHIBOOK_KAFKA_BOOTSTRAP_SERVERS": ",".join(["broker:9092"] * 20), "COLUMNS": "40"}

    result = kalshibook.invoke(app, ["settings", "--changed"], env=environ)

    [line] = [line for line in result.stdout.splitlines()[1:] if line.strip()]
    assert ["kafka.bootstrap_servers", environ["KALSHIBOOK_KAFKA_BOOTSTRAP_SERVERS"]] == line.split()[:2]
    assert line.rstrip().endswith("environment KALSHIBOOK_KAFKA_BOOTSTRAP_SERVERS")


def test_json_of_what_is_changed(kalshibook: CliRunner) -> None:
    """`--changed --json` is the difference to the defaults, for a script or a bug report."""
    result = kalshibook.invoke(app, ["settings", "--changed", "--json", "--set", "http.port=0"])

    assert json.loads(result.stdout) == {"http.port": {"value": "0", "origin": "command line --set"}}
