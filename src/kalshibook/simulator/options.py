"""Settings of the market generator."""

import msgspec

from kalshibook.errors import SettingsError

__all__ = ["GeneratorOptions"]


class GeneratorOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much simulated traffic there is, and of what kind."""

    markets: int = 100
    """How many markets exist at any moment; a market that settles is followed by the next of its series."""

    messages_per_second: float = 1_000.0
    """Mean rate over all markets, while all of them trade."""

    seed: int = 1
    """Two generators with equal options and start time make equal bytes."""

    short_lived: float = 0.1
    """Share of markets that live for `life_seconds` and then close, are determined and settled."""

    life_seconds: int = 900
    """From open to close of a short-lived market."""

    pauses_per_hour: float = 1.0
    """How often each short-lived market is deactivated for a moment, on average."""

    def __post_init__(self) -> None:
        for name, least in (("markets", 1), ("life_seconds", 1), ("pauses_per_hour", 0)):
            if getattr(self, name) < least:
                raise SettingsError(f"generator.{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 < self.messages_per_second < float("inf"):
            raise SettingsError(
                f"generator.messages_per_second is {self.messages_per_second}; it must be above 0"
            )
        if not 0 <= self.short_lived <= 1:
            raise SettingsError(f"generator.short_lived is {self.short_lived}; it is a share, 0 to 1")
