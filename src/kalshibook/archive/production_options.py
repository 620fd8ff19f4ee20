"""Settings of the deduplicator and of the export."""

from typing import Final

import msgspec

from kalshibook.errors import SettingsError

__all__ = ["DedupOptions", "ExportOptions"]

_AT_LEAST: Final = {
    "dedup": {"batch_rows": 1, "pause_ms": 1, "retry_s": 1, "refresh_s": 0, "requests_per_second": 1},
    "export": {"batch_rows": 1, "settle_s": 0, "every_s": 0},
}


class DedupOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    Settings of `kalshibook archive dedup`.

    >>> "hunter2" in repr(DedupOptions(source_dsns={"a": "postgresql://me:hunter2@db/a"}))
    False
    """

    source_dsns: dict[str, str] = {}
    """Address of each gatherer's database, by a name; the name is its cursor's. Secrets."""

    batch_rows: int = 20_000
    """Rows of one table taken from one source in one transaction, at most."""

    pause_ms: int = 500
    """Between rounds, while no source has more."""

    retry_s: int = 30
    """Longest pause before a source that did not answer is asked again."""

    refresh_s: int = 300
    """How often series, events and markets are fetched over REST; 0 for never."""

    requests_per_second: int = 10
    """Requests to the exchange per second, at most."""

    metrics_port: int | None = None
    """Port of `/metrics` and `/health`; 0 takes a free one, none serves nothing."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        _check("dedup", self)
        for name in self.source_dsns:
            if "/" in name:
                raise SettingsError(f"dedup.source_dsns: {name!r} is no name; it must not contain a slash")
        if self.metrics_port is not None and not 0 <= self.metrics_port < 65_536:
            raise SettingsError(f"dedup.metrics_port is {self.metrics_port}; it must be a port")

    # A struct's own representations would put passwords into every log line that shows settings.
    def __repr__(self) -> str:
        return f"DedupOptions({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        values = msgspec.structs.asdict(self)
        values["source_dsns"] = dict.fromkeys(self.source_dsns, "***")
        return [*values.items()]


class ExportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    Settings of `kalshibook archive export`.

    >>> "hunter2" in repr(ExportOptions(s3_credentials={"secret_access_key": "hunter2"}))
    False
    """

    target: str = ""
    """Where Parquet files go: a folder, or ``s3://bucket/prefix``."""

    s3_credentials: dict[str, str] = {}
    """
    Options of the bucket: ``endpoint``, ``access_key_id``, ``secret_access_key``, ``region``; what is not
    given is taken from the environment, as AWS's own tools do. Secrets.
    """

    batch_rows: int = 500_000
    """
    Rows of one table held in memory and written together, at most; of series, events and markets, whose
    rows are long, a twentieth.
    """

    settle_s: int = 60
    """How old, by receipt, a row must be, so that sources that lag have seen it too."""

    every_s: int = 0
    """Pause before the next export; 0 exports once and ends."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        _check("export", self)

    def __repr__(self) -> str:
        return f"ExportOptions({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        values = msgspec.structs.asdict(self)
        values["s3_credentials"] = dict.fromkeys(self.s3_credentials, "***")
        return [*values.items()]


def _check(section: str, options: msgspec.Struct) -> None:
    for name, least in _AT_LEAST[section].items():
        if getattr(options, name) < least:
            raise SettingsError(f"{section}.{name} is {getattr(options, name)}; it must be at least {least}")
