from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kalshibook.cli.client import rest_url, stream_url
from kalshibook.cli.options import BROKER_FLAGS, SERVER_FLAGS, with_settings
from kalshibook.settings import Argument, Loaded, load_settings


def _given(*arguments: str, folder: Path | None = None) -> Loaded:
    seen: list[Loaded] = []

    @click.command()
    @with_settings(*BROKER_FLAGS, *SERVER_FLAGS)
    def command(loaded: Loaded) -> None:
        seen.append(loaded)

    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen[0]


@pytest.mark.parametrize(
    ("option", "value", "paths"),
    [
        ("--bootstrap-servers", "a:1,b:2", ["kafka.bootstrap_servers"]),
        ("--topic", "other", ["kafka.topic"]),
        ("--host", "0.0.0.0", ["http.host", "stream.host"]),
        ("--port", "18000", ["http.port"]),
        ("--stream-port", "18001", ["stream.port"]),
        ("--log-level", "debug", ["log.level"]),
    ],
)
def test_own_options_are_settings(option: str, value: str, paths: list[str]) -> None:
    """A common setting's own option reaches it, and is named as the origin."""
    loaded = _given(option, value)

    rows = {row.path: row for row in loaded.rows()}
    assert [value] * len(paths) == [rows[path].value for path in paths]
    assert {f"command line {option}"} == {rows[path].origin for path in paths}


def test_own_options_win_over_a_file(tmp_path: Path) -> None:
    """`--config` names the file; what stands on the command line beside it wins."""
    file = tmp_path / "some.toml"
    file.write_text("[http]\nport = 1\nmax_page = 7")

    loaded = _given("--config", str(file), "--port", "2", "--set", "kafka.topic=t")

    http = loaded.settings.http
    assert (2, 7, "t") == (http.port, http.max_page, loaded.settings.kafka.topic)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("box", "box")],
)
def test_addresses_of_the_server(host: str, shown: str) -> None:
    """Clients look where the server of the same settings listens; everywhere includes here."""
    arguments = [Argument("http.host", host, ""), Argument("stream.host", host, "")]
    settings = load_settings(environ={}, arguments=arguments).settings

    assert f"http://{shown}:8000" == rest_url(settings)
    assert f"ws://{shown}:8001/trade-api/ws/v2" == stream_url(settings)
