"""The pages say what is true: their examples run, their names exist, their diagrams are the tables'."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from kalshibook import BookStore
from kalshibook.archive import dedup_metrics
from kalshibook.gather import metrics as gather_metrics
from kalshibook.gather.incidents import GatherIncidentKind
from kalshibook.gather.markets import MARKETS
from kalshibook.gather.states import CONNECTIONS
from kalshibook.http import metrics
from kalshibook.http.options import HttpOptions
from kalshibook.server import BookServer, serve_in_thread
from kalshibook.settings import Settings
from kalshibook.simulator import SimulatorOptions
from kalshibook.simulator.ledger import FaultKind
from kalshibook.simulator.thread import ThreadedExchange, exchange_in_thread
from kalshibook.store.heartbeats import PULSES
from kalshibook.store.states import CHANGEOVER, COPIES, STATUSES, Condition, CopyEvent
from kalshibook.stream.hub import Hub
from kalshibook.stream.options import StreamOptions
from kalshibook.testing import FrameFactory

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
    if not {"_build", "generated"} & {*page.relative_to(ROOT).parts}
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TICKERS = ("KXFROG-26DEC01-T40", "KXFROG-26DEC01-T50")


class Fence(NamedTuple):
    """A block of code in a page."""

    page: str
    language: str
    text: str


def fences(page: Path) -> list[Fence]:
    """Return a page's blocks of code, in order."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [Fence(str(page.relative_to(ROOT)), language, text) for language, text in found]


def all_fences(language: str) -> list[Fence]:
    """Return all blocks of a language, in all pages."""
    return [fence for page in PAGES for fence in fences(page) if fence.language == language]


RUNNABLE = {
    page: [fence.text for fence in found if fence.language == "python" and fence.text.startswith("# runs\n")]
    for page in PAGES
    if (found := fences(page))
}
BESIDE_A_SERVER = [
    fence for fence in all_fences("python") if fence.text.startswith("# runs beside a server\n")
]
CURLS = [
    (fence.page, line)
    for fence in all_fences("sh")
    for line in fence.text.splitlines()
    if line.startswith("curl ")
]


def filled_store() -> BookStore:
    """Return a store with the markets that the pages name."""
    store, frames = BookStore(), FrameFactory()
    with store.writer() as writer:
        for ticker in TICKERS:
            frame = frames.snapshot(ticker, yes=[(3_800, 12_000), (4_000, 7_550)], no=[(5_700, 1_025)])
            writer.apply(*frames.message(frame))
        writer.set_ready(True)
    return store


@pytest.fixture(scope="module")
def server() -> Iterator[BookServer]:
    """Serve it on free ports."""
    with serve_in_thread(filled_store(), http=HttpOptions(port=0), stream=StreamOptions(port=0)) as running:
        yield running


def to_server(text: str, server: BookServer) -> str:
    """Put a running server's addresses in place of the usual ones."""
    addresses = server.addresses
    assert addresses.http is not None
    assert addresses.stream is not None
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{addresses.http[1]}")
    return text.replace("127.0.0.1:8001", f"127.0.0.1:{addresses.stream[1]}")


@pytest.mark.parametrize(
    "page", [page for page, texts in RUNNABLE.items() if texts], ids=lambda page: page.stem
)
def test_python_of_a_page_runs(page: Path) -> None:
    """Blocks that say so run one after the other, as one program."""
    namespace: dict[str, Any] = {"__name__": f"docs.{page.stem}"}

    for number, text in enumerate(RUNNABLE[page], 1):
        exec(compile(text, f"{page.name}, block {number}", "exec"), namespace)


@pytest.mark.parametrize("fence", BESIDE_A_SERVER, ids=lambda fence: fence.page)
def test_python_beside_a_server_runs(fence: Fence, server: BookServer) -> None:
    """A client in a page does what it shows."""
    program = to_server(fence.text, server)

    exec(compile(program, fence.page, "exec"), {"__name__": "docs"})


@pytest.fixture(scope="module")
def exchange() -> Iterator[ThreadedExchange]:
    """Simulate an exchange with the markets that the pages name."""
    with exchange_in_thread(SimulatorOptions(open=True, markets=5, rest_lag_ms=0)) as running:
        for ticker in TICKERS:
            running.do(lambda exchange, ticker=ticker: exchange.create(ticker))  # type: ignore[misc]
        yield running


@pytest.mark.parametrize(("page", "line"), CURLS, ids=lambda part: part[:60])
def test_curl_line_is_answered(page: str, line: str, server: BookServer, exchange: ThreadedExchange) -> None:
    """A request in a page gets the answer it is shown for: one of 200, or the status in its comment."""
    command, _, comment = line.partition("  # ")
    words = shlex.split(
        to_server(command, server).replace("127.0.0.1:8010", urlsplit(exchange.rest_url).netloc)
    )
    url = next(word for word in words if word.startswith("http://"))
    body = words[words.index("-d") + 1].encode() if "-d" in words else None

    response = httpx.request("POST" if body else "GET", url, content=body)

    expected = int(comment) if comment else 201 if response.status_code == 201 else 200
    assert (page, expected) == (page, response.status_code)


@pytest.mark.parametrize(
    "fence",
    [fence for fence in all_fences("json") if '"cmd"' in fence.text],
    ids=lambda fence: fence.page,
)
def test_command_in_a_page_is_accepted(fence: Fence) -> None:
    """A command that a page shows is carried out."""
    client = Hub(filled_store(), StreamOptions()).connect(now_us=0)

    client.receive(fence.text, now_us=0)

    assert b'"type":"subscribed"' in client.take(65_536, now_us=0)


def test_top_of_book_has_the_fields_that_its_page_shows() -> None:
    """The sample frame of the reference has exactly the keys of a real one, in their order."""
    (sample,) = (fence for fence in all_fences("json") if '"type": "top_of_book"' in fence.text)
    client = Hub(filled_store(), StreamOptions()).connect(now_us=0)
    command = {"cmd": "subscribe", "params": {"market_ticker": TICKERS[0]}}
    client.receive(msgspec.json.encode(command), now_us=0)

    frames = client.take(65_536, now_us=0)

    shown = msgspec.json.decode(sample.text)
    real = msgspec.json.decode(frames[frames.index(b'{"type":"top_of_book"') :])
    assert list(shown) == list(real)
    assert list(shown["msg"]) == list(real["msg"])


def test_bulk_answer_has_the_fields_that_its_page_shows(server: BookServer) -> None:
    """The sample answer of the tutorial has exactly the keys of a real one."""
    (sample,) = (fence for fence in all_fences("json") if '"not_fresh"' in fence.text)

    real = httpx.get(f"{server.addresses.http_url}/v1/tops?tickers={TICKERS[0]}").json()

    shown = msgspec.json.decode(sample.text)
    assert list(shown) == list(real)
    assert list(shown["markets"][0]) == list(real["markets"][0])


def arrows(diagram: str) -> set[tuple[str, str, str]]:
    """Return the transitions of a state diagram: from, to, by what."""
    found: set[tuple[str, str, str]] = set()
    for start, end, labels in re.findall(r"^ +(\w+) --> (\w+): (.+)$", diagram, re.MULTILINE):
        found |= {(start, end, label) for label in labels.split(", ")}
    return found


def test_state_diagrams_are_the_tables() -> None:
    """The store's page draws every transition of both tables and no other."""
    copies, statuses = (
        fence.text
        for fence in fences(DOCS / "kalshi-data" / "store.md")
        if fence.text.startswith("stateDiagram")
    )

    assert {
        (before.value, after.value, event.value)
        for before, row in COPIES.items()
        for event, after in row.items()
    } == arrows(copies)
    assert {
        (before.value if before else "unknown", after.value, event.value)
        for before, row in STATUSES.items()
        for event, after in row.items()
        if after is not None and after is not before
    } == arrows(statuses)


def test_diagrams_of_several_gatherers_are_the_tables() -> None:
    """The page on gaps draws the life of a source, and when a book changes over, as the code has them."""
    changeover, pulses = (
        fence.text
        for fence in fences(DOCS / "discussion" / "gaps.md")
        if fence.text.startswith("stateDiagram")
    )

    assert {
        (before.value, Condition.LIVE.value if taken else before.value, "snapshot of another gatherer")
        for before, taken in CHANGEOVER.items()
    } | {
        (before.value, row[CopyEvent.DOUBT].value, "doubt")
        for before, row in COPIES.items()
        if row[CopyEvent.DOUBT] is not before
    } == arrows(changeover)
    assert {
        (before.value, after.value, event.value)
        for before, row in PULSES.items()
        for event, after in row.items()
        if after is not before
    } == arrows(pulses)


def test_state_diagrams_of_the_gatherer_are_its_tables() -> None:
    """Its page draws every change of state of a connection and of a market, and no other."""
    diagrams = [
        arrows(fence.text)
        for fence in fences(DOCS / "kalshi-data" / "gather.md")
        if fence.text.startswith("stateDiagram")
    ]

    for table in (CONNECTIONS, MARKETS):
        expected = {
            (before.value, after.value, event.value)
            for before, row in table.items()
            for event, after in row.items()
            if after is not before
        }
        assert expected in diagrams


def test_every_kind_of_a_gatherers_incidents_is_explained() -> None:
    """Its how-to says of each what it means and what to do, and of no other."""
    text = (DOCS / "how-to" / "gather.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text[text.index("## Incidents") :], re.MULTILINE)
    named = [kind for row in rows for kind in re.findall(r"`(\w+)`", row)]

    assert sorted(GatherIncidentKind) == sorted(named)


COMPONENTS = [
    ("wire", "wire"),
    ("store", "store"),
    ("feeds", "feeds"),
    ("http", "http"),
    ("stream", "stream"),
    ("gather", "gather"),
    ("archive", "archive"),
    ("simulator", "simulator"),
    ("simulator", "testing"),
    ("cli", "cli"),
]


@pytest.mark.parametrize(("page", "folder"), COMPONENTS)
def test_a_components_page_names_every_module(page: str, folder: str) -> None:
    """A module that is not on its component's page would never be found by a newcomer."""
    text = (DOCS / "kalshi-data" / f"{page}.md").read_text(encoding="utf-8")
    modules = {path.stem for path in (ROOT / "src" / "kalshibook" / folder).glob("*.py")}

    assert set() == modules - {"__init__", "options"} - set(re.findall(r"`(\w+)`", text))


def test_every_kind_of_fault_is_explained() -> None:
    """The simulator's reference names all kinds and no other."""
    text = (DOCS / "reference" / "simulator.md").read_text(encoding="utf-8")
    table = text[text.index("| kind | what happens |") : text.index("Schedules (")]
    named = [
        kind
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for kind in re.findall(r"`(\w+)`", row)
    ]

    assert sorted(FaultKind) == sorted(named)


SETTINGS = {
    f"{section.name}.{field.name}"
    for section in msgspec.structs.fields(Settings)
    for field in msgspec.structs.fields(section.type)
}
# In a page `store.book(…)` and `store/ladder.py` are code, not settings.
NAMED = re.compile(r"`(store|kafka|snapshots|http|stream|server|gather|archive|simulator|log)\.([a-z_]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_that_a_page_names_exist(page: Path) -> None:
    """A setting is written `section.name`, and is one."""
    named = {f"{section}.{name}" for section, name in NAMED.findall(page.read_text(encoding="utf-8"))}

    assert set() == {name for name in named if not name.endswith(".py")} - SETTINGS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_metrics_that_a_page_names_exist(page: Path) -> None:
    """A metric that a page names stands in a table of all, the server's or the gatherer's."""
    tables = f"{metrics.__doc__}{gather_metrics.__doc__}{dedup_metrics.__doc__}"
    known = set(re.findall(r"`(kalshibook_\w+)`", tables))
    named = set(re.findall(r"\bkalshibook_[a-z_]+", page.read_text(encoding="utf-8")))

    assert set() == {name.removesuffix("_total") for name in named} - known


def test_every_setting_is_explained() -> None:
    """The table of settings, made from the code, has a meaning for each."""
    pytest.importorskip("sphinx", reason="the table is made while the documentation is built")
    import importlib.util

    spec = importlib.util.spec_from_file_location("_generate", DOCS / "_generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)

    rows = re.findall(r"^\| `(\w+)` \| .+? \| (.*) \|$", generate.settings_tables(), re.MULTILINE)

    assert len(SETTINGS) == len(rows)
    assert [] == [name for name, meaning in rows if not meaning]
