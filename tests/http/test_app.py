"""What holds for every endpoint: errors as JSON, the description, the pages."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from kalshibook.http.answers import TickTopRow, TopRow
from kalshibook.http.app import make_app
from kalshibook.store import BookStore
from tests.http.client import ALL, Api, api_of, filled_store

pytestmark = pytest.mark.trio


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "words"),
    [
        ("GET", "/nothing", 404, "not_found", "nothing is served at '/nothing'"),
        ("GET", "/v1/books/", 404, "not_found", "/docs lists what is"),
        ("GET", "/static/x", 404, "not_found", "nothing is served"),
        ("DELETE", "/v1/tops", 405, "method_not_allowed", "use GET or HEAD or POST"),
        ("POST", "/healthz", 405, "method_not_allowed", "use GET or HEAD"),
    ],
)
async def test_errors_are_json(method: str, path: str, status: int, code: str, words: str) -> None:
    """Also those that no handler of ours raised."""
    answer = await api_of(BookStore()).ask(method, path)

    assert (status, code, "application/json") == (answer.status, answer.code, answer.headers["Content-Type"])
    assert words in answer.json["message"]
    assert {"code", "message", "details"} == set(answer.json)


async def test_allowed_methods_are_told_in_the_header() -> None:
    """A 405 carries Allow, as HTTP wants it."""
    answer = await api_of(BookStore()).ask("DELETE", "/v1/tops")

    assert {"GET", "HEAD", "OPTIONS", "POST"} == set(answer.headers["Allow"].split(", "))


async def test_bug_is_hidden_from_the_client_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error that nobody expected tells the client nothing of the inside, and the log everything."""

    def broken() -> Any:
        raise RuntimeError("secret inside")

    answer = await Api(make_app(BookStore(), feeds=[broken])).get("/readyz")

    assert (500, "internal_error") == (answer.status, answer.code)
    assert "secret" not in answer.body.decode()
    assert "secret inside" in caplog.text


def references(node: object) -> Iterator[str]:
    """Yield every reference in a JSON document."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


async def test_description_is_complete() -> None:
    """Every endpoint is described, every parameter and every reference leads somewhere."""
    api = (await api_of(BookStore()).get("/openapi.json")).json

    assert {
        "/healthz",
        "/readyz",
        "/trade-api/v2/markets/orderbooks",
        "/trade-api/v2/markets/{ticker}/orderbook",
        "/v1/books/{ticker}",
        "/v1/incidents",
        "/v1/markets",
        "/v1/statistics",
        "/v1/tops",
    } == set(api["paths"])
    assert {"get", "post"} == set(api["paths"]["/v1/tops"])
    names = {f"#/components/schemas/{name}" for name in api["components"]["schemas"]}
    assert set(references(api)) <= names
    for methods in api["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert all(parameter["description"] for parameter in operation["parameters"])


async def test_description_says_what_fields_mean() -> None:
    """What stands below a field in the source stands in the description."""
    schemas = (await api_of(BookStore()).get("/openapi.json")).json["components"]["schemas"]

    assert "its age is `now_ms` less this" in schemas["TopRow"]["properties"]["updated_ms"]["description"]
    assert "in doubt" in schemas["TickTopRow"]["properties"]["stale_reason"]["description"]


async def test_answers_are_what_the_description_says() -> None:
    """The joined bytes of a bulk answer have exactly the documented fields."""
    store, _ = filled_store()
    api = api_of(store)
    schemas = (await api.get("/openapi.json")).json["components"]["schemas"]

    for numbers, row in (("dollars", TopRow), ("ticks", TickTopRow)):
        answer = await api.get(f"/v1/tops?tickers={','.join(ALL)}&depth=1&numbers={numbers}")
        assert set(schemas["TopsAnswer"]["required"]) == set(answer.json)
        for market in answer.json["markets"]:
            assert set(schemas[row.__name__]["required"]) <= set(market)
            assert set(market) <= set(schemas[row.__name__]["properties"])


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_pages_load_nothing_from_elsewhere(path: str) -> None:
    """A page is one file; a browser is told to fetch from nowhere else."""
    answer = await api_of(BookStore()).get(path)

    page = answer.body.decode()
    assert (200, "text/html; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert [] == re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page)
    assert "innerHTML" not in page


async def test_pages_ask_only_for_what_is_served() -> None:
    """Every address in the pages exists."""
    api = api_of(filled_store()[0])
    paths: set[str] = set()
    for page in ("/", "/docs"):
        text = (await api.get(page)).body.decode()
        paths |= set(re.findall(r"""["'](/[a-z][a-z0-9_./]*)\??["']""", text))

    paths.discard("/v1/books/")
    assert {"/readyz", "/v1/markets", "/openapi.json", "/docs", "/metrics"} <= paths
    for path in paths:
        assert (await api.get(path)).status in (200, 503), path


async def test_titles_are_escaped_in_json() -> None:
    """A ticker with quotes does not break the joined answer."""
    store, script = filled_store()
    script.snapshot({100: 1}, {}, ticker='K"\\é</script>')

    answer = await api_of(store).post("/v1/tops", {"tickers": ['K"\\é</script>']})

    assert ['K"\\é</script>'] == [row["ticker"] for row in json.loads(answer.body)["markets"]]
