"""Settings of a store."""

import msgspec

from kalshibook.errors import SettingsError

__all__ = ["StoreOptions"]


class StoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the past a store keeps, and how long it trusts a source that says nothing."""

    history_seconds: int = 300
    """How far back `as_of` reaches; 0 keeps no steps."""

    history_step_ms: int = 100
    """Distance of the versions kept for `as_of`; a read is exact to one step."""

    recent_versions: int = 256
    """How many of the newest versions are kept one by one for `at`; thousands cost every update dearly."""

    incident_capacity: int = 10_000
    """How many incidents are kept; older ones remain counted."""

    source_silence_ms: int = 10_000
    """
    A gatherer that gave signs of life and then gives none for so long is taken for dead: all books that
    follow it turn stale. At least two of its own intervals are waited; 0 judges nobody.
    """

    def __post_init__(self) -> None:
        for name, least in (
            ("history_seconds", 0),
            ("history_step_ms", 1),
            ("recent_versions", 1),
            ("incident_capacity", 1),
            ("source_silence_ms", 0),
        ):
            if getattr(self, name) < least:
                raise SettingsError(f"store.{name} is {getattr(self, name)}; it must be at least {least}")
