import sys
from pathlib import Path

import pytest

from kalshibook.cli.invocation import own_command


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This program was started as a script of an environment in a checkout, which is the folder one is in."""
    script = tmp_path / "check out" / ".venv" / "bin" / "kalshibook"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setattr(sys, "prefix", str(script.parents[1]))
    monkeypatch.chdir(script.parents[2])
    monkeypatch.setenv("PATH", "/nowhere")
    return script


@pytest.mark.usefixtures("script")
def test_a_path_in_this_folder_is_short() -> None:
    """What a newcomer typed is what a newcomer is told to type."""
    assert ".venv/bin/kalshibook" == own_command()


def test_a_path_elsewhere_is_whole(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another folder the path is absolute, and quoted for a shell."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert f"'{script}'" == own_command()


def test_a_path_to_the_folder_itself(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without a slash would be searched for in the PATH."""
    monkeypatch.chdir(script.parent)
    monkeypatch.setattr(sys, "argv", ["./kalshibook"])

    assert "./kalshibook" == own_command()


def test_an_active_environment_is_not_active_elsewhere(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another terminal does not have this one's PATH."""
    monkeypatch.setenv("PATH", str(script.parent))

    assert ".venv/bin/kalshibook" == own_command()


def test_a_name_that_is_found_is_enough(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link on the PATH leads to this program."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kalshibook").symlink_to(script)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    assert "kalshibook" == own_command()


def test_started_as_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a script, the interpreter is named."""
    monkeypatch.setattr(sys, "argv", ["/lib/kalshibook/__main__.py"])

    assert f"{sys.executable} -m kalshibook" == own_command()
