"""Settings of the gatherer."""

import pytest

from kalshibook.errors import SettingsError
from kalshibook.gather.options import GatherOptions


def test_addresses_follow_the_environment() -> None:
    """Production ends in .com, demo in .co, and an exchange of one's own is where its settings say."""
    own = GatherOptions(
        environment="custom",
        rest_url="http://127.0.0.1:8080/trade-api/v2/",
        stream_url="ws://127.0.0.1:8081/trade-api/ws/v2",
    )

    assert "https://external-api.kalshi.com/trade-api/v2" == GatherOptions().endpoints().rest_url
    assert "wss://external-api-ws.demo.kalshi.co/trade-api/ws/v2" == (
        GatherOptions(environment="demo").endpoints().stream_url
    )
    assert ("http://127.0.0.1:8080/trade-api/v2", "ws://127.0.0.1:8081/trade-api/ws/v2") == own.endpoints()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": " "}, "gather.source is empty"),
        ({"rest_url": "http://here"}, "gather.rest_url is for gather.environment 'custom'"),
        ({"environment": "custom"}, "gather.rest_url is ''"),
        (
            {"environment": "custom", "rest_url": "http://here", "stream_url": "http://here"},
            "gather.stream_url is 'http://here'",
        ),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], words: str) -> None:
    """The message names the setting and what it found."""
    with pytest.raises(SettingsError, match=words):
        GatherOptions(**options)  # type: ignore[arg-type]
