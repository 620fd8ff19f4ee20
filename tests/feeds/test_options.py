import io
from typing import Any

import pytest
import rich.console

from kalshibook.errors import SettingsError
from kalshibook.feeds import KafkaOptions
from kalshibook.feeds.options import is_secret


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        ({"bootstrap_servers": " "}, "kafka.bootstrap_servers is empty"),
        ({"topic": ""}, "kafka.topic is empty"),
        ({"batch_records": 0}, "kafka.batch_records is 0"),
        ({"rewind_minutes": 0}, "kafka.rewind_minutes is 0"),
        ({"poll_timeout_ms": 101}, "at most 100"),
        ({"silence_limit_s": -1}, "0 stands for no limit"),
        ({"lag_limit_s": -1}, "0 stands for no limit"),
        ({"start_offsets": {0: 1}}, "which is 'rewind'"),
        ({"start": "offsets"}, "without kafka.start_offsets"),
        ({"start": "offsets", "start_offsets": {0: -1}}, "neither is negative"),
        ({"quarantine_file": "a", "quarantine_topic": "b"}, "choose one"),
        ({"quarantine_topic": "market-data-all"}, "would come back"),
        ({"extra": {"auto.offset.reset": "latest"}}, "'auto.offset.reset' cannot be set"),
        ({"extra": {"bootstrap.servers": "x"}}, "bootstrap_servers"),
    ],
)
def test_unfit_values_are_refused(options: dict[str, Any], finding: str) -> None:
    """Each value that cannot work is an error that says which and why."""
    with pytest.raises(SettingsError, match=finding):
        KafkaOptions(**options)


@pytest.mark.parametrize(
    "name",
    ["sasl.password", "SSL.KEY.PASSWORD", "ssl.key.pem", "sasl.oauthbearer.client.secret", "sasl.username"],
)
def test_secrets_are_known_by_name(name: str) -> None:
    """Whatever sounds like a credential is one."""
    assert is_secret(name)
    assert not is_secret("fetch.wait.max.ms")


def test_secrets_are_never_shown() -> None:
    """No way of printing the options tells a password."""
    options = KafkaOptions(extra={"sasl.password": "hunter2", "client.id": "books"})
    output = io.StringIO()
    rich.console.Console(file=output, width=10_000).print(options)

    for text in (repr(options), str(options), f"{options}", output.getvalue()):
        assert "hunter2" not in text
        assert "books" in text
    assert "hunter2" == options.extra["sasl.password"]
