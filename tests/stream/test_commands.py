"""Commands as bytes: whatever a client sends, an answer comes and nothing is raised."""

import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from kalshibook.stream.channels import CHANNELS, Code, Refused
from kalshibook.stream.commands import MarketParams, Markets, checked_markets, decode_command, decode_id
from tests.stream.stage import T40, Stage

words = st.sampled_from(
    [
        *("subscribe", "unsubscribe", "update_subscription", "list_subscriptions"),
        *("add_markets", "delete_markets", "get_snapshot"),
        *("orderbook_delta", "ticker", "trade", "top_of_book", "communications", "fill"),
        *(T40, "KXFROG", "", "\u0000", "\U0001f438"),
    ]
)
scalars = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.integers() | st.floats() | words | st.text(max_size=3)
)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(words, scalars, max_size=2)
keys = st.sampled_from(
    [
        *("channels", "market_ticker", "market_tickers", "market_id", "market_ids", "market_prefixes"),
        *("sid", "sids", "action", "send_initial_snapshot", "skip_ticker_ack", "use_yes_price"),
        *("shard_factor", "shard_key"),
    ]
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "id": values,
        "cmd": words | values,
        "params": st.dictionaries(keys, values, max_size=5) | values,
    },
)


@settings(deadline=None, derandomize=True)
@given(st.lists(messages | values, max_size=12), st.binary(max_size=40))
def test_anything_is_answered(said: list[Any], noise: bytes) -> None:
    """Every message has an answer, numbers stay whole, and the connection lives on."""
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {})
    user = stage.connect()
    for message in said:
        user.say(message)
        assert user.hear()
    user.client.receive(noise, 0)
    user.hear()
    stage.script.delta("yes", 4_000, 1)
    stage.deliver()
    user.hear()
    assert user.client.closing is None
    stage.hub.disconnect(user.client)
    assert 0 == stage.hub.statistics().routes


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('{"id":7,"cmd":5}', 7),
        ('{"id":0}', 0),
        ('{"id":-1}', -1),
        ('{"cmd":"x"}', 0),
        ('{"id":"7"}', 0),
        ("[7]", 0),
        ('{"id":7', 0),
    ],
)
def test_id_is_echoed_when_it_can_be_read(message: str, expected: int) -> None:
    """The id of a command that makes no sense is read all the same; 0 is none."""
    assert expected == decode_id(message)


def test_error_names_the_place() -> None:
    """A wrong type is refused with the path at which it stands."""
    with pytest.raises(Refused, match=r"Expected `array \| null`, got `str` - at `\$\.channels`") as refusal:
        decode_command('{"cmd":"subscribe","params":{"channels":"ticker"}}')
    assert refusal.value.code is Code.UNREADABLE


def test_every_code_has_its_text() -> None:
    """Each code that we send has a text beside it."""
    assert all(code.text for code in Code)


@pytest.mark.parametrize(
    ("params", "channel", "expected"),
    [
        ({}, "trade", Markets((), (), True)),
        ({"market_ticker": "A"}, "trade", Markets(("A",), (), False)),
        ({"market_tickers": ["A", "B", "A"]}, "orderbook_delta", Markets(("A", "B"), (), False)),
        ({"market_prefixes": ["A"]}, "orderbook_delta", Markets((), ("A",), False)),
        ({"market_tickers": ["A"]}, "market_lifecycle_v2", Markets((), (), True)),
        ({"market_tickers": []}, "trade", Code.MARKET_REQUIRED),
        ({"market_prefixes": []}, "trade", Code.MARKET_REQUIRED),
        ({}, "orderbook_delta", Code.MARKET_REQUIRED),
        ({"market_ids": ["x"]}, "orderbook_delta", Code.MARKET_REQUIRED),
        ({"market_ids": ["x"], "market_ticker": "A"}, "orderbook_delta", Code.INVALID_PARAMETER),
        ({"market_ids": []}, "trade", Code.INVALID_PARAMETER),
        ({"market_ticker": "A", "market_tickers": ["A"]}, "trade", Code.INVALID_PARAMETER),
        ({"market_ticker": "ABCDEF"}, "trade", Code.INVALID_PARAMETER),
        ({"market_prefixes": [""]}, "top_of_book", Code.INVALID_PARAMETER),
    ],
)
def test_markets(params: dict[str, Any], channel: str, expected: Markets | Code) -> None:
    """What a command names is read once each, or refused; nothing named is all only where that exists."""
    found = MarketParams(**json.loads(json.dumps(params)))
    if isinstance(expected, Markets):
        assert expected == checked_markets(found, CHANNELS[channel], longest=5)
        return
    with pytest.raises(Refused) as refusal:
        checked_markets(found, CHANNELS[channel], longest=5)
    assert expected is refusal.value.code
