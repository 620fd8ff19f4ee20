from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner

from kalshibook.cli.archive import ARCHIVE_COMMANDS
from kalshibook.cli.main import app
from tests.archive.conftest import unavailable
from tests.archive.entries import query
from tests.archive.postgres import DatabaseUnavailable, PostgresServer

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    try:
        made = PostgresServer()
    except DatabaseUnavailable as missing:
        unavailable(str(missing))
    with made:
        yield made


@pytest.fixture
def run(server: PostgresServer) -> Callable[..., tuple[int, str]]:
    dsn = server.create_database()

    def run_on(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["archive", *arguments, "--dsn", dsn])
        return result.exit_code, result.output

    return run_on


def test_migrate_status_retain(run: Callable[..., tuple[int, str]]) -> None:
    """A database is made, described, and kept tidy; doing it again changes nothing."""
    code, said = run("migrate")
    assert 0 == code
    assert "applied local/0002_time_series.sql" in said
    assert "a local archive on PostgreSQL" in said
    assert "applied" not in run("migrate")[1]

    code, said = run("status")
    assert 0 == code
    assert "orderbook_snapshots" in said
    assert "dead letters: 0" in said
    assert "native partitions" in said

    assert (0, "0 chunks dropped\n") == run("retain")


def test_settings_reach_the_database(server: PostgresServer) -> None:
    """Retention and chunks are written where housekeeping finds them."""
    dsn = server.create_database()
    flags = ["--dsn", dsn, "--set", "archive.keep_days.trades=5", "--set", "archive.chunk_hours.trades=12"]
    assert 0 == CliRunner().invoke(app, ["archive", "migrate", *flags]).exit_code

    assert [(43_200, 432_000)] == query(dsn, "SELECT chunk_s, keep_s FROM time_series WHERE name = 'trades'")


def test_each_variant_keeps_to_itself(run: Callable[..., tuple[int, str]]) -> None:
    """Production is made on request, and nobody writes frames into it."""
    assert 0 == run("migrate", "--production")[0]

    for arguments in (("migrate",), ("write",)):
        code, said = run(*arguments)
        assert 1 == code
        assert "production" in said


def test_faults_are_one_line(run: Callable[..., tuple[int, str]]) -> None:
    """What is wrong and what to do, without a traceback."""
    code, said = run("status")
    assert (1, "kalshibook: this database holds no archive; run `kalshibook archive migrate`\n") == (
        code,
        said,
    )

    nobody = CliRunner().invoke(app, ["archive", "status", "--dsn", "postgresql://x@127.0.0.1:1/none"])
    assert 1 == nobody.exit_code
    assert "the database does not answer" in nobody.output
    unset = CliRunner().invoke(app, ["archive", "status"])
    assert "archive.dsn is not set" in unset.output


@pytest.mark.parametrize("name", ARCHIVE_COMMANDS)
def test_every_command_has_help(name: str) -> None:
    """Each can be imported, and says what it does."""
    result = CliRunner().invoke(app, ["archive", name, "--help"])

    assert 0 == result.exit_code
    assert "Usage:" in result.output
