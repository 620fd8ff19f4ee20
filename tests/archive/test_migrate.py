import threading
from collections.abc import Callable

import psycopg
import pytest

from kalshibook.archive.migrate import (
    Applied,
    Migration,
    Variant,
    applied_migrations,
    migrate,
    migrations_of,
    pending,
)
from kalshibook.errors import ArchiveError
from tests.archive.postgres import PostgresServer

ONE = Migration(1, "common/0001_one.sql", "SELECT 1")
TWO = Migration(2, "local/0002_two.sql", "SELECT 2")


def had(migration: Migration, variant: str = "local") -> Applied:
    return Applied(migration.number, migration.name, variant, migration.checksum)


class TestPending:
    def test_what_is_missing_is_applied_in_order(self) -> None:
        """A database that had the first migration needs the second."""
        assert [ONE, TWO] == pending([], [ONE, TWO], "local")
        assert [TWO] == pending([had(ONE)], [ONE, TWO], "local")
        assert [] == pending([had(ONE), had(TWO)], [ONE, TWO], "local")

    def test_a_changed_file_is_refused(self) -> None:
        """An applied migration is never edited: its checksum gives it away."""
        with pytest.raises(ArchiveError, match=r"common/0001_one\.sql was changed"):
            pending([had(ONE._replace(sql="SELECT 3"))], [ONE, TWO], "local")

    def test_a_newer_database_is_refused(self) -> None:
        """An older release does not touch what it does not know."""
        with pytest.raises(ArchiveError, match=r"0002_two\.sql, which this release does not know"):
            pending([had(ONE), had(TWO)], [ONE], "local")

    def test_the_other_variant_is_refused(self) -> None:
        """A gatherer's database is not turned into the production one by mistake."""
        with pytest.raises(ArchiveError, match="holds a local archive, not a production one"):
            pending([had(ONE)], [ONE], "production")

    def test_a_hole_is_refused(self) -> None:
        """Migrations go forward only."""
        with pytest.raises(
            ArchiveError, match=r"0001_one\.sql is missing in a database that has had number 2"
        ):
            pending([had(TWO)], [ONE, TWO], "local")


@pytest.mark.parametrize("variant", ["local", "production"])
def test_numbers_are_unique_and_without_holes(variant: Variant) -> None:
    """Files of a variant and the common ones count together."""
    numbers = [migration.number for migration in migrations_of(variant)]

    assert list(range(1, len(numbers) + 1)) == numbers


@pytest.mark.parametrize("variant", ["local", "production"])
def test_migrating_twice_changes_nothing(any_server: PostgresServer, variant: Variant) -> None:
    """All migrations are applied once, and remembered with their checksums."""
    with psycopg.connect(any_server.create_database()) as connection:
        first = migrate(connection, variant)
        second = migrate(connection, variant)

        assert migrations_of(variant) == first
        assert [] == second
        assert [one.checksum for one in first] == [one.checksum for one in applied_migrations(connection)]


@pytest.mark.postgres
def test_two_at_a_time_wait_for_each_other(new_database: Callable[[], str]) -> None:
    """Several processes that start together migrate one after the other; each file is applied once."""
    dsn = new_database()
    counts: list[int] = []
    barrier = threading.Barrier(3)

    def run() -> None:
        with psycopg.connect(dsn) as connection:
            barrier.wait(10)
            counts.append(len(migrate(connection, "local")))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert [0, 0, len(migrations_of("local"))] == sorted(counts)


@pytest.mark.postgres
def test_a_failing_migration_leaves_nothing_behind(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that fails is named, what it had done is undone, and those before it stay."""
    good = migrations_of("local")
    bad = Migration(good[-1].number + 1, "local/9999_bad.sql", "CREATE TABLE half (); SELECT 1 / 0")
    monkeypatch.setattr(
        "kalshibook.archive.migrate.migrations_of", lambda variant: [*migrations_of(variant), bad]
    )
    with psycopg.connect(new_database()) as connection:
        with pytest.raises(
            ArchiveError, match=r"9999_bad\.sql failed, nothing of it is kept: division by zero"
        ):
            migrate(connection, "local")

        found = connection.execute("SELECT to_regclass('half')").fetchone()
        assert (None,) == found
        assert len(good) == len(applied_migrations(connection))
