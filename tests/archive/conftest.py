import os
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

import psycopg
import pytest

from kalshibook.archive.migrate import Variant, migrate
from tests.archive.postgres import DatabaseUnavailable, PostgresServer


@pytest.fixture(scope="session")
def postgres_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PostgresServer]:
    """A PostgreSQL of this run."""
    try:
        server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    except DatabaseUnavailable as missing:
        unavailable(str(missing))
    with server:
        announce(request, server.described)
        yield server


@pytest.fixture
def new_database(postgres_server: PostgresServer) -> Callable[[], str]:
    """A maker of empty databases; each has its own address."""
    return postgres_server.create_database


@pytest.fixture
def new_archive(new_database: Callable[[], str]) -> Callable[[Variant], str]:
    """A maker of migrated databases."""

    def make(variant: Variant = "local") -> str:
        dsn = new_database()
        with psycopg.connect(dsn) as connection:
            migrate(connection, variant)
        return dsn

    return make


def announce(request: pytest.FixtureRequest, server: str) -> None:
    """Say which server the tests run on, also where their output is captured."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        sys.stderr.write(f"\narchive: tests run on {server}\n")


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail where every part has been installed on purpose."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
