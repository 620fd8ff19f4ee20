"""The REST server's settings."""

import msgspec
import pytest

from kalshibook.errors import SettingsError
from kalshibook.http.options import HttpOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65_536),
        ("stale_share_limit", 1.01),
        ("stale_share_limit", -0.1),
        ("max_tickers", 0),
        ("max_levels", 0),
        ("max_page", 0),
        ("max_body_bytes", 10),
        ("max_head_bytes", 10),
        ("stuck_client_ms", 0),
        ("keep_alive_ms", 0),
        ("drain_ms", -1),
        ("cached_fragments", 0),
    ],
)
def test_unfit_values_are_named(name: str, value: float) -> None:
    """A value that cannot be is refused with its name and itself."""
    with pytest.raises(SettingsError, match=rf"http\.{name} is {value}"):
        msgspec.convert({name: value}, HttpOptions)


def test_defaults_are_fit() -> None:
    """The defaults pass their own checks and listen on this machine only."""
    assert ("127.0.0.1", 8_000, 10_000) == (
        HttpOptions().host,
        HttpOptions().port,
        HttpOptions().max_tickers,
    )
