"""The commands over production and Parquet, from the command line."""

import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from kalshibook.archive.candles import candles
from kalshibook.archive.migrate import Variant, migrate
from kalshibook.archive.reading import open_archive
from kalshibook.archive.rows import TradeRow
from kalshibook.cli.main import app
from kalshibook.cli.moments import moment_text
from kalshibook.errors import SettingsError
from kalshibook.feeds import EmbeddedBroker, KafkaFeed, KafkaOptions
from kalshibook.numbers import format_price, format_size
from kalshibook.settings import Argument, load_settings
from kalshibook.simulator import SimulatorOptions
from kalshibook.simulator.thread import exchange_in_thread
from kalshibook.store import BookStore
from tests.archive.conftest import unavailable
from tests.archive.gathered import held, store, store_gaps, trade
from tests.archive.postgres import DatabaseUnavailable, PostgresServer
from tests.archive.scenario import START_US, Scenario, sides
from tests.cli.conftest import Start
from tests.cli.test_serve import STOP_S

pytestmark = pytest.mark.postgres

SCENARIO = Scenario(12, frames=400, loss=0.003, cuts=0)
TICKER = SCENARIO.tickers[0]
WHOLE = SCENARIO.end_us // 1_000_000 * 1_000_000 - 4_000_000
FROM, TO = moment_text(START_US + 1_000), moment_text(WHOLE)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL."""
    try:
        made = PostgresServer()
    except DatabaseUnavailable as missing:
        unavailable(str(missing))
    with made:
        yield made


class Databases:
    """Three gatherers' databases and production, and the arguments that name them."""

    def __init__(self, server: PostgresServer) -> None:
        self.sources = {name: self._new(server, "local") for name in ("a", "b", "c")}
        self.production = self._new(server, "production")
        rows = [*SCENARIO.rows, *(self._trade(number) for number in range(20))]
        for name, dsn in self.sources.items():
            store(dsn, [row for row in rows if row.source == name])
            store_gaps(dsn, [gap for gap in SCENARIO.gaps if gap.source == name])
        self.arguments = ["--dsn", self.production]
        for name, dsn in self.sources.items():
            self.arguments += ["--set", f"dedup.source_dsns.{name}={dsn}"]

    @staticmethod
    def _trade(number: int) -> TradeRow:
        one = trade("a", number, f"t-{number}", START_US + number * 500_000)
        return one._replace(ticker=TICKER, yes_price=1_000 + number)

    @staticmethod
    def _new(server: PostgresServer, variant: Variant) -> str:
        dsn = server.create_database()
        with psycopg.connect(dsn) as connection:
            migrate(connection, variant)
        return dsn


@pytest.fixture
def databases(server: PostgresServer) -> Databases:
    """Databases with what the gatherers saw, not merged yet."""
    return Databases(server)


@pytest.fixture(scope="module")
def merged(server: PostgresServer) -> Databases:
    """The same, merged; tests only read it."""
    databases = Databases(server)
    assert 0 == run("dedup", "--once", *databases.arguments, "--set", "dedup.refresh_s=0").exit_code
    return databases


def run(*arguments: str) -> Result:
    """Run a command of the archive."""
    return CliRunner().invoke(app, ["archive", *arguments], prog_name="kalshibook")


def test_dedup_once(databases: Databases) -> None:
    """It merges all there is, says how much, and may be done again."""
    arguments = ["dedup", "--once", *databases.arguments, "--set", "dedup.refresh_s=0"]

    first = run(*arguments, "--set", "dedup.batch_rows=50")
    again = run(*arguments)

    assert (0, 0) == (first.exit_code, again.exit_code), first.output
    assert "orderbook_deltas: " in first.stdout
    assert "" == again.stdout
    assert len(held(databases.production)) > 100


def test_a_source_that_is_down_is_named(databases: Databases) -> None:
    """With --once the exit code says that not all was read; the others were."""
    bad = "dedup.source_dsns.c=postgresql://postgres@127.0.0.1:1/none"

    result = run("dedup", "--once", *databases.arguments, "--set", bad, "--set", "dedup.refresh_s=0")

    assert 1 == result.exit_code
    assert "not all sources were read: c: " in result.output
    assert {"a", "b"} == {name for row in held(databases.production) for name in row[2]}


def test_dedup_runs_until_a_signal(start: Start, databases: Databases) -> None:
    """It serves metrics, asks the exchange for its lists, merges, and ends in good order."""
    with exchange_in_thread(SimulatorOptions(open=True, messages_per_second=0, rest_lag_ms=0)) as exchange:
        dedup = start(
            "archive",
            "dedup",
            *databases.arguments,
            *("--metrics-port", "0", "--set", "dedup.pause_ms=20", "--set", "dedup.refresh_s=1"),
            *("--set", "dedup.requests_per_second=1000", "--set", "dedup.retry_s=1"),
            *("--set", "gather.environment=custom", "--set", f"gather.rest_url={exchange.rest_url}"),
            *("--set", f"gather.stream_url={exchange.stream_url}"),
        )
        address = dedup.wait_for("^metrics at (http.*)$").group(1)
        wanted = ['described_total{table="markets"}', 'reachable{source="b"} 1.0']
        tries = 5_000
        while tries and not all(line in (text := _read(address)) for line in wanted):
            tries -= 1
        assert 'kalshibook_dedup_source_reachable{source="b"} 1.0' in text

        assert 0 == dedup.stopped(signal.SIGTERM, within=STOP_S)

    assert any(line.startswith("orderbook_deltas: ") for line in dedup.out)
    with psycopg.connect(databases.production) as connection:
        assert connection.execute("SELECT count(*) FROM markets").fetchone() != (0,)


def _read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def test_export_check_and_read_back(merged: Databases, tmp_path: Path) -> None:
    """Exported files are checked, and a book comes out of them as it comes out of production."""
    target = str(tmp_path / "parquet")
    flags = ["--to", target, "--dsn", merged.production, "--set", "export.settle_s=0"]

    result = run("export", *flags, "--set", "export.batch_rows=200")

    assert 0 == result.exit_code, result.output
    assert "orderbook_deltas: 200 rows in 1 files" in result.stdout
    assert "" == run("export", *flags).stdout, "there is nothing new"
    assert "every file is as its manifest says\n" == run("check", "--to", target).output
    at = ["--ticker", TICKER, "--at", TO, "--json"]
    from_files = run("replay", *at, "--archive", target).stdout
    assert from_files == run("replay", *at, "--dsn", merged.production).stdout
    book = json.loads(from_files)
    truth = SCENARIO.truth(TICKER, WHOLE)
    assert truth is not None
    assert "live" == book["condition"]
    for side, levels in truth.items():
        best_first = sorted(levels.items(), reverse=True)
        assert [[format_price(price), format_size(size)] for price, size in best_first] == book[side]

    next((tmp_path / "parquet" / "trades").rglob("*.parquet")).unlink()
    assert 1 == run("check", "--to", target).exit_code


def test_export_again_and_again(start: Start, merged: Databases, tmp_path: Path) -> None:
    """With a pause it goes on until it is told to end."""
    grow = "UPDATE orderbook_deltas SET ingest = nextval('ingest_order'), xid = pg_current_xact_id()"
    with psycopg.connect(merged.production) as connection:
        connection.execute(grow)
    export = start(
        *("archive", "export", "--to", str(tmp_path), "--dsn", merged.production, "--every", "1"),
        *("--set", "export.settle_s=0"),
    )
    export.wait_for("^orderbook_deltas: ")
    with psycopg.connect(merged.production) as connection:
        connection.execute("ALTER TABLE exports RENAME TO mislaid")
    export.wait_for("the export failed and is tried again")
    with psycopg.connect(merged.production) as connection:
        connection.execute("ALTER TABLE mislaid RENAME TO exports")
        connection.execute(grow)
    export.wait_for("^orderbook_deltas: ")

    assert 0 == export.stopped(signal.SIGINT, within=STOP_S)


def test_gaps(merged: Databases) -> None:
    """Whether a market is complete is the exit code, and where it is not is said."""
    stretch = ["gaps", "--ticker", TICKER, "--dsn", merged.production]

    whole = run(*stretch, "--from", FROM, "--to", TO)
    early = run(*stretch, "--from", "2026-09-21", "--to", TO, "--json")

    assert (0, f"{TICKER} is complete from {FROM} to {TO}\n") == (whole.exit_code, whole.stdout)
    assert 1 == early.exit_code
    found = json.loads(early.stdout)
    assert [False, "nobody watched this market"] == [found["complete"], found["lost"][0]["reason"]]
    assert "2026-09-21T00:00:00.000Z" == found["lost"][0]["from"]


def test_completeness(merged: Databases) -> None:
    """Each source's share, for people and for programs."""
    flags = ["completeness", "--from", "2026-09-21", "--to", "2026-09-22", "--dsn", merged.production]

    table = run(*flags)
    (hour,) = json.loads(run(*flags, "--json").stdout)

    assert 0 == table.exit_code
    assert "2026-09-21T14:00" in table.stdout
    assert "2026-09-21T14:00:00.000Z" == hour["hour"]
    assert {"a", "b", "c"} == set(hour["seen"])
    assert max(hour["seen"].values()) <= hour["events"]
    assert 3 == len(json.loads(run(*flags, "--json", "--by-market").stdout))


def test_replay_is_readable(merged: Databases) -> None:
    """Without --json it is a line and two ladders; before anything is known it is awaited."""
    shown = run("replay", "--ticker", TICKER, "--at", TO, "--dsn", merged.production).stdout
    before = run("replay", "--ticker", TICKER, "--at", "2026-01-01", "--dsn", merged.production).stdout

    assert f"{TICKER}  yes bid " in shown
    assert "awaiting" in before
    with open_archive(merged.production) as archive:
        found = candles(archive, "trade", TICKER, START_US, WHOLE, 1_000_000)
    lines = run(
        *("candles", "--ticker", TICKER, "--from", FROM, "--to", TO, "--width", "1s"),
        *("--dsn", merged.production, "--json"),
    ).stdout
    assert len(json.loads(lines)) in {len(found), len(found) - 1}


def test_replay_plays_an_archive_into_kafka(broker: EmbeddedBroker, merged: Databases) -> None:
    """Played at full speed, it makes the books that were."""
    arguments = ["replay", merged.production, "--from", FROM, "--to", TO, "--speed", "max"]

    result = CliRunner().invoke(app, [*arguments, "--bootstrap-servers", str(broker)])

    assert 0 == result.exit_code, result.output
    store_ = BookStore()
    options = KafkaOptions(
        bootstrap_servers=str(broker), start="beginning", extra=dict(EmbeddedBroker.CONSUMER_SETTINGS)
    )
    with KafkaFeed(store_, options) as feed:
        assert feed.wait_ready(20)
        for ticker in SCENARIO.tickers:
            assert SCENARIO.truth(ticker, WHOLE - 1) == sides(store_.book(ticker))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["archive", "dedup"], "archive.dsn is empty"),
        (["archive", "dedup", "--dsn", "postgresql://postgres@127.0.0.1:1/none"], "there is no source"),
        (["archive", "export", "--dsn", "x"], "export.target is empty"),
        (
            ["archive", "gaps", "--ticker", "A", "--from", "yesterday", "--to", "2026-01-01"],
            "not an RFC 3339",
        ),
        (["archive", "replay", "--ticker", "A", "--at", "2026-01-01", "--archive", "/nowhere"], "no export"),
        (["replay", "postgresql://localhost/x"], "played from --from to --to"),
        (["replay", ".", "--ticker", "KXA-1"], "choose from an archive"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], reason: str) -> None:
    """Whatever keeps a command from running is said at once."""
    result = CliRunner().invoke(app, arguments, prog_name="kalshibook")

    assert 0 != result.exit_code
    assert reason in result.output


@pytest.mark.parametrize("address", ["postgresql//me:hunter2@db/x", "postgresql://me:hunter2@db:y/x"])
@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["write"],
        ["export", "--to", "/nowhere"],
        ["dedup", "--set", "dedup.source_dsns.a=postgresql://x@127.0.0.1:1/none"],
        ["gaps", "--ticker", "A", "--from", "2026-01-01", "--to", "2026-01-02"],
        ["completeness", "--from", "2026-01-01", "--to", "2026-01-02"],
        ["replay", "--ticker", "A", "--at", "2026-01-01"],
    ],
    ids=lambda command: command[0],
)
def test_a_mistaken_address_shows_no_password(command: list[str], address: str) -> None:
    """What cannot be read is refused in one line that does not repeat it."""
    arguments = ["archive", *command, "--dsn", address]
    result = CliRunner().invoke(app, arguments, prog_name="kalshibook")

    assert 1 == result.exit_code
    assert result.output.startswith("kalshibook: ")
    assert "hunter2" not in result.output


@pytest.mark.parametrize(
    ("section", "setting"),
    [
        ("dedup", "batch_rows=0"),
        ("dedup", "pause_ms=0"),
        ("dedup", "retry_s=0"),
        ("dedup", "refresh_s=-1"),
        ("dedup", "requests_per_second=0"),
        ("dedup", "metrics_port=70000"),
        ("dedup", "source_dsns.a/b=postgresql://x"),
        ("export", "batch_rows=0"),
        ("export", "settle_s=-1"),
        ("export", "every_s=-1"),
    ],
)
def test_what_cannot_be_is_refused(section: str, setting: str) -> None:
    """A setting that would stop everything is found before anything runs."""
    with pytest.raises(SettingsError, match=section):
        load_settings(arguments=[Argument.parse(f"{section}.{setting}")], environ={})


def test_secrets_are_not_shown() -> None:
    """Addresses and keys survive as they are given, and stand in no table and no log."""
    given = "postgresql://me:pa$s w@rd@db/kalshi"
    loaded = load_settings(
        arguments=[
            Argument.parse(f"dedup.source_dsns.a={given}"),
            Argument.parse("export.s3_credentials.secret_access_key=pa$s w@rd"),
        ],
        environ={},
    )

    assert given == loaded.settings.dedup.source_dsns["a"]
    assert "pa$s w@rd" == loaded.settings.export.s3_credentials["secret_access_key"]
    shown = repr(loaded.rows()) + repr(loaded.settings)
    assert "pa$s" not in shown
