import subprocess
import sys

import pytest
from click.testing import CliRunner

from kalshibook import __version__
from kalshibook.cli.main import COMMANDS, app


def _run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, prog_name="kalshibook")
    return result.exit_code, result.stdout, result.stderr


def test_version() -> None:
    """`--version` prints the package's version."""
    assert (0, f"kalshibook {__version__}\n", "") == _run("--version")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_every_command(arguments: list[str]) -> None:
    """No arguments are no error: a newcomer sees what there is."""
    code, out, _ = _run(*arguments)

    assert code == 0
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    """Each command can be imported and describes itself."""
    code, out, _ = _run(name, "--help")

    assert code == 0
    assert out.startswith(f"Usage: kalshibook {name}")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["settings", "--nonsense"], 2, "No such option '--nonsense'"),
        (["settings", "--set", "kafka.topik=x"], 1, "did you mean 'kafka.topic'?"),
        (["settings", "--set", "kafka.topic"], 1, "has no '='"),
        (["settings", "--config", "/missing.toml"], 1, "cannot be read"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], code: int, line: str) -> None:
    """A wrong command exits with 2, a wrong setting with 1; each with one line that says what to do."""
    found, out, error = _run(*arguments)

    assert code == found
    assert out == ""
    assert line in error
    assert error.count("\n") == 1


def test_without_the_command_line_extra() -> None:
    """The script of a core installation says what to install, without a traceback."""
    script = "import sys; sys.modules['click'] = None; from kalshibook.cli.main import main; main()"

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert result.returncode == 1
    assert result.stderr == (
        "kalshibook: the command line is not installed;"
        " pip install 'kalshibook-live[cli]', or '.[cli]' in a checkout\n"
    )


def test_without_the_server_extra() -> None:
    """A command whose library is missing names it and the extra."""
    script = "import sys; sys.modules['trio'] = None; from kalshibook.cli.main import main; main()"

    result = subprocess.run(
        [sys.executable, "-c", script, "serve"], capture_output=True, text=True, check=False
    )

    assert result.returncode == 1
    assert result.stderr == (
        "kalshibook: serve needs trio, which is not installed;"
        " pip install 'kalshibook-live[cli]', or '.[cli]' in a checkout\n"
    )
