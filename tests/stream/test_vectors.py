"""The commands of the vector file, answered by a session without a socket."""

from typing import Any

import msgspec
import pytest

from kalshibook.store import BookStore
from kalshibook.stream.hub import Client, Hub
from kalshibook.stream.options import StreamOptions
from tests.store.builders import Script
from tests.vectors import VECTORS, frame_bytes

COMMANDS = [row for row in VECTORS if "reply" in row]

FROGS = "KXFROG-26DEC01-T40", "KXFROG-26DEC01-T45.5", "KXFROG-26DEC01-T50", "KXFROG-26DEC01-T55"


def name_of(row: dict[str, Any]) -> str:
    """Name a test by its vector."""
    name: str = row["name"]
    return name


def pond() -> BookStore:
    """Return a store with the books that the vectors speak of."""
    store = BookStore()
    script = Script(store)
    script.snapshot({3800: 12_000, 4000: 7_550}, {5500: 6_000, 5700: 1_025}, ticker=FROGS[0])
    script.snapshot({}, {400: 50_000, 9000: 300}, ticker=FROGS[1])
    script.snapshot({}, {}, ticker=FROGS[2])
    script.snapshot({2500: 800}, {}, ticker=FROGS[3])
    script.snapshot({1000: 100}, {2000: 100}, ticker="KXTOAD-26DEC01-B10")
    return store


def taken(client: Client) -> list[dict[str, Any]]:
    """Take all frames that wait; short ones only, whose length is in one or in two bytes."""
    data = client.take(1_000_000, now_us=1_000)
    frames: list[dict[str, Any]] = []
    while data:
        assert 0x81 == data[0]
        short = data[1] < 126
        size, start = (data[1], 2) if short else (int.from_bytes(data[2:4], "big"), 4)
        frames.append(msgspec.json.decode(data[start : start + size]))
        data = data[start + size :]
    return frames


def given(client: Client, row: dict[str, Any]) -> dict[str, int]:
    """Make the subscriptions that stand before the command; return sids by their names in the file."""
    sids: dict[str, int] = {}
    for name, params in row.get("given", {}).items():
        client.receive(msgspec.json.encode({"cmd": "subscribe", "params": params}), now_us=0)
        sids[name] = next(f["msg"]["sid"] for f in taken(client) if f["type"] == "subscribed")
    return sids


def with_sids(value: Any, sids: dict[str, int]) -> Any:
    """Put the server's own sids in place of the file's, in a command as well as in a reply."""
    if isinstance(value, dict):
        renamed = {key: with_sids(inner, sids) for key, inner in value.items()}
        if "sid" in renamed:
            renamed["sid"] = sids.get(str(renamed["sid"]), renamed["sid"])
        if "sids" in renamed:
            renamed["sids"] = [sids.get(str(sid), sid) for sid in renamed["sids"]]
        return renamed
    return [with_sids(inner, sids) for inner in value] if isinstance(value, list) else value


def shown(expected: Any, found: Any) -> Any:
    """Return what was found as far as it was expected; an absent key is null."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return {key: shown(inner, found.get(key)) for key, inner in expected.items()}
    return found


@pytest.mark.parametrize("row", COMMANDS, ids=name_of)
def test_command_is_answered(row: dict[str, Any]) -> None:
    """The replies are the file's, in its order, and no other follows; the connection lives on."""
    client = Hub(pond(), StreamOptions()).connect(now_us=0)
    sids = given(client, row)
    raw = frame_bytes(row)
    command = raw if isinstance(row["frame"], str) else msgspec.json.encode(with_sids(row["frame"], sids))

    client.receive(command, now_us=0)

    replies = taken(client)
    expected = with_sids(row["reply"], sids)
    assert expected == [shown(want, got) for want, got in zip(expected, replies, strict=True)]
    assert client.closing is None


def test_a_skipped_list_stays_away() -> None:
    """A subscription that asked for it gets its later `ok` without the list of markets."""
    row = next(row for row in VECTORS if row["name"] == "cmd_skip_ticker_ack")
    client = Hub(pond(), StreamOptions()).connect(now_us=0)
    client.receive(frame_bytes(row), now_us=0)
    sid = taken(client)[0]["msg"]["sid"]
    params = {"sid": sid, "action": "add_markets", "market_ticker": FROGS[3]}

    client.receive(msgspec.json.encode({"id": 52, "cmd": "update_subscription", "params": params}), now_us=0)

    ok, snapshot = taken(client)
    assert (52, "ok", {}) == (ok["id"], ok["type"], ok["msg"])
    assert FROGS[3] == snapshot["msg"]["market_ticker"]


def test_a_peek_does_not_subscribe() -> None:
    """A snapshot of a market outside the subscription leaves the subscription as it was."""
    row = next(row for row in VECTORS if row["name"] == "cmd_get_snapshot_market_not_in_subscription")
    client = Hub(pond(), StreamOptions()).connect(now_us=0)
    sids = given(client, row)

    client.receive(msgspec.json.encode(with_sids(row["frame"], sids)), now_us=0)

    (held,) = client.subscriptions
    assert [FROGS[0]] == list(held.selection.tickers)
