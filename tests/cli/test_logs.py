import json
import logging

import pytest
import structlog

from kalshibook.cli.logs import configure_logs
from kalshibook.settings import LogOptions


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """The library's records and our own become one JSON object a line, with what they carry."""
    configure_logs(LogOptions(format="json"))

    logging.getLogger("kalshibook.store").warning("market %s is stale", "KXFROG", extra={"partition": 3})
    structlog.stdlib.get_logger("kalshibook.serve").info("serving", rest="http://x")

    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert ("market KXFROG is stale", "warning", "kalshibook.store", 3) == (
        first["event"],
        first["level"],
        first["logger"],
        first["partition"],
    )
    assert ("serving", "info", "http://x") == (second["event"], second["level"], second["rest"])


def test_exceptions_are_part_of_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback does not break the rule of one object a line."""
    configure_logs(LogOptions(format="json"))
    try:
        int("on purpose")
    except ValueError:
        logging.getLogger("kalshibook").exception("failed")

    [line] = capsys.readouterr().err.splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_levels(level: str, shown: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The level is the least that is written."""
    configure_logs(LogOptions(level=level))  # type: ignore[arg-type]  # one of its four words
    log = logging.getLogger("kalshibook")

    for write in (log.debug, log.info, log.warning, log.error):
        write("something")

    assert len(capsys.readouterr().err.splitlines()) == shown


def test_console(capsys: pytest.CaptureFixture[str]) -> None:
    """`console` is for people: level and text, no JSON."""
    configure_logs(LogOptions(format="console"))

    logging.getLogger("kalshibook.feeds").warning("broker down")

    [line] = capsys.readouterr().err.splitlines()
    assert "warning" in line
    assert "broker down" in line
    assert not line.startswith("{")
