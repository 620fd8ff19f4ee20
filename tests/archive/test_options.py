from typing import Any

import pytest

from kalshibook.archive.options import ArchiveOptions
from kalshibook.errors import SettingsError
from kalshibook.settings import Argument, load_settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_rows": 0}, r"archive\.batch_rows is 0"),
        ({"housekeeping_minutes": 0}, r"archive\.housekeeping_minutes is 0"),
        ({"snapshot_interval_s": -1}, r"archive\.snapshot_interval_s is -1"),
        ({"group": " "}, r"archive\.group is empty"),
        ({"keep_days": {"deltas": 3}}, r"archive\.keep_days: no table 'deltas'; there are orderbook_deltas"),
        ({"keep_days": {"trades": -1}}, r"archive\.keep_days\.trades is -1"),
        ({"chunk_hours": {"trades": 0}}, r"archive\.chunk_hours\.trades is 0"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    """A value that cannot work is an error at the start, with its name."""
    with pytest.raises(SettingsError, match=message):
        ArchiveOptions(**values)


def test_defaults_of_both_variants() -> None:
    """A gatherer's database forgets, production does not; one table is changed and the others stay."""
    options = ArchiveOptions(keep_days={"trades": 90})

    local = options.kept_days("local")
    assert (7, 30, 90, 7) == tuple(
        local[table] for table in ("orderbook_deltas", "orderbook_snapshots", "trades", "tickers")
    )
    assert {None, 90} == set(options.kept_days("production").values())
    assert 6 == options.chunked_hours("local")["orderbook_deltas"]
    assert 24 == options.chunked_hours("production")["orderbook_deltas"]


def test_the_address_is_a_secret() -> None:
    """It holds a password, which no log and no list of settings shows."""
    dsn = "postgresql://me:hun$ter 2@db/kalshi"
    loaded = load_settings(environ={}, arguments=[Argument.parse(f"archive.dsn={dsn}")])

    assert dsn == loaded.settings.archive.dsn
    assert ["***"] == [row.value for row in loaded.rows() if row.path == "archive.dsn"]
    assert "hun$ter" not in repr(loaded.settings.archive)
