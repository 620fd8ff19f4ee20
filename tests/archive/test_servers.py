"""The servers that the other tests rely on."""

import psycopg
import pytest

from tests.archive.postgres import PostgresServer


@pytest.mark.postgres
def test_a_killed_server_comes_back_with_what_was_committed(own_server: PostgresServer) -> None:
    """Kill -9 takes the connections with it, and nothing that was committed."""
    dsn = own_server.create_database()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
        connection.commit()
        connection.execute("INSERT INTO kept VALUES (2)")
        own_server.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")

    own_server.start()

    with psycopg.connect(dsn) as connection:
        assert [(1,)] == connection.execute("SELECT number FROM kept").fetchall()
