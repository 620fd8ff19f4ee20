"""The README's promises that are not code of a page: its commands, its settings."""

import re
import tomllib
from pathlib import Path

from click import Context
from click.testing import CliRunner

from kalshibook.cli.main import app
from kalshibook.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the README's blocks of code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_test_command_is_what_ci_runs_first() -> None:
    """The checks begin with the README's own test command, to the letter."""
    (command,) = [block.strip() for block in blocks("sh") if "nox -s tests" in block]

    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_settings_example_is_accepted(tmp_path: Path) -> None:
    """The TOML of the README is read, and shows as the file's in the effective values."""
    (text,) = blocks("toml")
    file = tmp_path / "kalshibook.toml"
    file.write_text(text, encoding="utf-8")

    shown = CliRunner().invoke(app, ["settings", "--config", str(file)])

    assert 0 == shown.exit_code, shown.output
    assert "broker:9092" in shown.output
    assert {"kafka", "http"} == set(tomllib.loads(text)) <= set(Settings.__struct_fields__)


def test_every_command_of_the_readme_exists() -> None:
    """Whatever the README tells to type is a command of the program or a session of nox."""
    typed = set(re.findall(r"kalshibook (demo|serve|replay|top|watch|settings)\b", README))
    sessions = set(re.findall(r"nox -s (\w+)", README))
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")

    assert typed <= set(app.list_commands(Context(app)))
    assert all(f"def {session}(" in noxfile for session in sessions)
