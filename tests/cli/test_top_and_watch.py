import io
import json
from collections.abc import Iterator

import msgspec
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from kalshibook.cli import watch as watch_module
from kalshibook.cli.main import app
from kalshibook.cli.top import age_text
from kalshibook.http.options import HttpOptions
from kalshibook.server import BookServer, serve_in_thread
from kalshibook.store import BookStore
from kalshibook.stream.options import StreamOptions
from tests.cli.conftest import Start
from tests.store.builders import TICKER, Script


@pytest.fixture
def script() -> Script:
    """A store with two markets, one of them in doubt."""
    script = Script(BookStore())
    script.snapshot({4000: 7550}, {5500: 1000})
    script.snapshot({100: 100}, {}, ticker="KXOTHER-1")
    with script.store.writer() as writer:
        writer.doubt("KXOTHER-1", "a gap")
    return script


@pytest.fixture
def server(script: Script) -> Iterator[BookServer]:
    """A server of that store, on free ports."""
    http, stream = HttpOptions(port=0), StreamOptions(port=0)
    with serve_in_thread(script.store, http=http, stream=stream) as server:
        yield server


def _top(server: BookServer, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["top", "--url", str(server.addresses.http_url), *arguments])


def _watch(server: BookServer, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["watch", "--url", str(server.addresses.stream_url), *arguments])


def test_top_of_all(server: BookServer) -> None:
    """Without names the first markets are printed, and doubt is said."""
    result = _top(server)

    first, second = result.stdout.splitlines()
    assert result.exit_code == 0
    assert first.startswith(f"{TICKER}  yes bid 0.40 x 75.50  yes ask 0.45 x 10  live")
    assert second == "KXOTHER-1  yes bid 0.01 x 1  yes ask - x -  stale  a gap"


def test_top_of_named_markets(server: BookServer) -> None:
    """Known markets are printed, unknown ones are named, and the exit code tells."""
    result = _top(server, "KXOTHER-1", "KXNONE")

    assert result.exit_code == 1
    assert result.stdout.startswith("KXOTHER-1 ")
    assert result.stderr == "kalshibook: unknown market: KXNONE\n"


def test_top_by_filter_as_json(server: BookServer) -> None:
    """`--json` is the server's own answer, in Kalshi's strings."""
    result = _top(server, "--prefix", "KXOTHER", "--json")

    [market] = json.loads(result.stdout)["markets"]
    assert ("KXOTHER-1", "0.0100", None) == (
        market["ticker"],
        market["yes_bid_dollars"],
        market["yes_ask_dollars"],
    )


def test_top_refused(server: BookServer) -> None:
    """What the server refuses is told in its own words."""
    result = _top(server, "--prefix", "X" * 300)

    assert result.exit_code == 1
    assert " answered 400: " in result.stderr
    assert result.stderr.count("\n") == 1


def test_top_of_something_else(server: BookServer) -> None:
    """Another program's answer is an error, not a traceback."""
    result = CliRunner().invoke(app, ["top", "--url", f"{server.addresses.http_url}/docs?x="])

    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["top", "watch"])
@pytest.mark.parametrize("address", ["//127.0.0.1:1", "nonsense", "//127.0.0.1:1/a b"])
def test_no_server(command: str, address: str) -> None:
    """A server that cannot be reached is one line with its address; exit code 1."""
    scheme = "http" if command == "top" else "ws"
    url = f"{scheme}:{address}" if address.startswith("//") else address

    result = CliRunner().invoke(app, [command, "--url", url])

    assert result.exit_code == 1
    assert result.stderr.startswith(f"kalshibook: no server answers at {url}: ")
    assert result.stderr.count("\n") == 1


def test_watch_prints_lines(server: BookServer) -> None:
    """The state at the start arrives at once, one line a market."""
    result = _watch(server, "--count", "2")

    assert result.exit_code == 0
    assert sorted(result.stdout.splitlines()) == [
        f"{TICKER}  yes bid 0.40 x 75.50  yes ask 0.45 x 10  live",
        "KXOTHER-1  yes bid 0.01 x 1  yes ask - x -  stale  a gap",
    ]


def test_watch_as_json(server: BookServer) -> None:
    """`--json` prints the frames as they came."""
    result = _watch(server, "--prefix", "KXOTHER", "--json", "--count", "1")

    kinds = [json.loads(line)["type"] for line in result.stdout.splitlines()]
    assert kinds[-1] == "top_of_book"
    assert set(kinds[:-1]) == {"subscribed"}


def test_watch_refused(server: BookServer) -> None:
    """An error frame of the server is one line, whatever the format."""
    result = _watch(server, "X" * 300)

    assert result.exit_code == 1
    assert result.stderr.startswith("kalshibook: the server refused: ")
    assert result.stderr.count("\n") == 1


def test_watch_at_the_wrong_path(server: BookServer, start: Start) -> None:
    """A refused handshake is told with its status."""
    assert server.addresses.stream is not None
    host, port = server.addresses.stream

    # In a process of its own: trio-websocket leaves the refused socket to the collector, which warns.
    watch = start("watch", "--url", f"ws://{host}:{port}/wrong")

    assert watch.ended() == 1
    [line] = watch.error
    assert line.endswith("HTTP status 404")


def test_screen_shows_what_changed_last() -> None:
    """A terminal that is too small shows the markets that moved last, and counts the others."""
    out = io.StringIO()
    console = Console(file=out, width=120, height=7, force_terminal=True, color_system=None)
    screen = watch_module._Screen(console, "ws://somewhere")
    for number, (ticker, merged) in enumerate([("A", 1), ("B", 1), ("C", 1), ("D", 1), ("A", 5)]):
        message = {
            "market_ticker": ticker,
            **dict.fromkeys(("yes_bid_dollars", "yes_bid_size_fp", "yes_ask_dollars", "yes_ask_size_fp")),
            "condition": "live",
            "stale_reason": None,
            "status": None,
            "version": number,
            "merged": merged,
        }
        screen.take(msgspec.json.encode({"type": "top_of_book", "msg": message}).decode())
    screen.take('{"type":"ok"}')

    console.print(screen.content())

    lines = [line.split() for line in out.getvalue().splitlines()]
    assert [line[0] for line in lines[1:4]] == ["A", "C", "D"]
    assert lines[1][-1] == "6"
    assert " ".join(lines[4]) == "ws://somewhere 4 markets, 1 not shown 9 updates Ctrl-C ends"


def test_screen_before_the_first_market() -> None:
    """Until a market comes the screen says what is waited for, and shows no empty table."""
    screen = watch_module._Screen(Console(file=io.StringIO()), "ws://somewhere")

    before = str(screen.content())
    screen.take('{"type":"subscribed"}')

    assert "ws://somewhere   connecting   Ctrl-C ends" == before
    assert "ws://somewhere   no such market yet   Ctrl-C ends" == str(screen.content())


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (-5, "0.0 s"),
        (320, "0.3 s"),
        (41_000, "41 s"),
        (119_000, "119 s"),
        (720_000, "12 min"),
        (18_000_000, "5 h"),
    ],
)
def test_ages_read_well(milliseconds: int, text: str) -> None:
    """An age is written in the unit that people would choose; a server's clock ahead is no age."""
    assert text == age_text(milliseconds)
