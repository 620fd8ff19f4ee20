import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

import psycopg
import pytest

from kalshibook.archive.migrate import Variant, migrate
from tests.archive.gathered import Stage
from tests.archive.pglite import PgliteServer
from tests.archive.postgres import DatabaseUnavailable, PostgresServer
from tests.archive.timescale import TimescaleServer

# Hypertables behave otherwise than native partitions in places, so what writes or deletes runs on both.
SERVERS = [
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("timescale", marks=pytest.mark.timescale),
]


NEEDS = {
    "postgres_server": "postgres",
    "own_server": "postgres",
    "timescale_server": "timescale",
    "pglite_server": "pglite",
}


ANNOUNCED: set[str] = set()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark whatever uses a server, however far behind other fixtures, so that `-m` finds all of it."""
    for item in items:
        for fixture, mark in NEEDS.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)


@pytest.fixture(scope="session")
def postgres_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PostgresServer]:
    """A PostgreSQL of this run."""
    try:
        server = PostgresServer()
    except DatabaseUnavailable as missing:
        unavailable(str(missing))
    with server:
        announce(request, server.described)
        yield server


@pytest.fixture(scope="session")
def timescale_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A TimescaleDB of this run."""
    try:
        server = TimescaleServer(f"kalshibook-{os.getpid()}")
    except DatabaseUnavailable as missing:
        unavailable(str(missing))
    try:
        server.start()
        announce(request, server.described)
        yield server
    finally:
        server.remove()


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL that the test may stop and kill."""
    try:
        server = PostgresServer()
    except DatabaseUnavailable as missing:
        unavailable(str(missing))
    with server:
        yield server


@pytest.fixture
def pglite_server(request: pytest.FixtureRequest) -> Iterator[PgliteServer]:
    """An empty database of TimescaleDB's full edition, of this test's own."""
    try:
        server = PgliteServer()
    except DatabaseUnavailable as missing:
        # Nothing installs Node on purpose.
        (unavailable if shutil.which("npm") else pytest.skip)(str(missing))
    with server:
        announce(request, server.described)
        yield server


@pytest.fixture
def new_database(postgres_server: PostgresServer) -> Callable[[], str]:
    """A maker of empty databases on PostgreSQL; each has its own address."""
    return postgres_server.create_database


@pytest.fixture(params=SERVERS)
def any_server(request: pytest.FixtureRequest) -> PostgresServer:
    """Each kind of server in turn."""
    server: PostgresServer = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def new_archive(any_server: PostgresServer) -> Callable[..., str]:
    """A maker of migrated databases, on each kind of server in turn."""

    def make(variant: Variant = "local") -> str:
        dsn = any_server.create_database()
        with psycopg.connect(dsn) as connection:
            migrate(connection, variant)
        return dsn

    return make


@pytest.fixture
def stage(new_archive: Callable[..., str]) -> Stage:
    """Three gatherers' databases and production, on each kind of server in turn."""
    return Stage(new_archive)


def announce(request: pytest.FixtureRequest, server: str) -> None:
    """Say once which server the tests run on, also where their output is captured."""
    if server in ANNOUNCED:
        return
    ANNOUNCED.add(server)
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        sys.stderr.write(f"\narchive: tests run on {server}\n")


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail where every part has been installed on purpose."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
