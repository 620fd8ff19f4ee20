"""Everyday commands: `nox -s tests`, `lint`, `types`, `docs`, `perf`, `demo`, `platform`, and for servers."""

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests", "lint", "types"]

CODE = ("src", "tests", "perf", "docs/examples", "noxfile.py")


def _starts(version: str) -> bool:
    # Being on the PATH is not enough: a shim of pyenv stands there for versions that are not active.
    path = shutil.which(f"python{version}")
    if path is None:
        return False
    return subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0  # noqa: S603 - a Python


# Only what is here: in CI, nox fails on an interpreter that is missing.
PYTHONS = [version for version in ("3.11", "3.12", "3.13", "3.14") if _starts(version)]


# Two for each core, because half of the tests wait for a process, a socket or a broker most of the time.
PARALLEL = ("-n", str(min(2 * (os.cpu_count() or 1), 16)), "--dist", "worksteal")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on this interpreter, in parallel, but for those on databases; arguments go to pytest."""
    session.install("-e", ".[dev]")
    # Each worker would start servers of its own: `nox -s databases` starts each kind once.
    chosen = ("-m", "not postgres and not timescale and not pglite and not platform")
    session.run("pytest", *PARALLEL, *chosen, *session.posargs)


@nox.session(python=PYTHONS or None)
def pythons(session: nox.Session) -> None:
    """Run the tests on every Python that is installed here."""
    tests(session)


@nox.session
def lint(session: nox.Session) -> None:
    """Check rules and format with ruff; `-- --fix` repairs what can be repaired."""
    session.install("ruff>=0.17,<0.18")
    paths = [path for path in CODE if Path(path).exists()]
    session.run("ruff", "check", *session.posargs, *paths)
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]), *paths)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy, strictly."""
    session.install("-e", ".[perf]")
    session.run("mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build/html; a warning is an error."""
    session.install("-e", ".[archive,cli,docs]")
    session.run(
        "sphinx-build", "-W", "--keep-going", "-b", "html", *session.posargs, "docs", "docs/_build/html"
    )


@nox.session
def perf(session: nox.Session) -> None:
    """Run the load tests, all or named ones (`-- small-concurrency`), and write perf/results/."""
    session.install("-e", ".[perf]")
    session.run("python", "-m", "perf", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the whole chain on a simulated exchange; arguments go to `kalshibook demo`."""
    session.install("-e", ".[cli]")
    session.run("kalshibook", "demo", *session.posargs)


@nox.session
def databases(session: nox.Session) -> None:
    """Run the archive's tests on a PostgreSQL and TimescaleDBs, which `.ci/databases` installs."""
    session.install("-e", ".[dev]")
    paths = ("tests/archive", "tests/cli/test_archive.py", "tests/cli/test_archive_production.py")
    # What needs no server has run with the other tests.
    chosen = ("-m", "postgres or timescale or pglite")
    session.run("pytest", *PARALLEL, *chosen, *paths, *session.posargs)


@nox.session
def platform(session: nox.Session) -> None:
    """Run everything at once while things break, and prove it; `-- --minutes 2` is the small form."""
    session.install("-e", ".[dev]")
    minutes = [] if "--minutes" in session.posargs else ["--minutes", "10"]
    session.run("pytest", "tests/platform", "-s", *minutes, *session.posargs)


@nox.session
def kafka(session: nox.Session) -> None:
    """Run the broker suite on an Apache Kafka (Java 17, Maven), or on `-- --bootstrap-servers HOST:PORT`."""
    session.install("-e", ".[dev]")
    own = [] if "--bootstrap-servers" in session.posargs else ["--real-kafka"]
    session.run("pytest", "tests/kafka", *own, *session.posargs)
