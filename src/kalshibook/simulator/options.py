"""Settings of the market generator and of the simulated exchange."""

from typing import Final, Literal

import msgspec

from kalshibook.errors import SettingsError
from kalshibook.simulator.ledger import FaultKind

__all__ = ["GeneratorOptions", "SimulatorOptions"]


_LEAST: Final = {
    "markets": 1,
    "life_seconds": 1,
    "pauses_per_hour": 0,
    "created_ahead_seconds": 0,
    "settled_seconds": 0,
    "rest_lag_ms": 0,
}


_SIMULATOR_LEAST: Final = {
    "clock_tolerance_ms": 1,
    "max_connections": 1,
    "markets": 0,
    "quiet_markets": 0,
    "messages_per_second": 0,
    "life_seconds": 1,
    "pauses_per_hour": 0,
    "created_ahead_seconds": 0,
    "settled_seconds": 0,
    "rest_lag_ms": 0,
    "speed": 0,
    "ping_interval_s": 0.001,
    "missed_pongs": 1,
    "subscription_buffer": 1,
    "reply_backlog_bytes": 1,
    "max_markets": 1,
    "max_session_markets": 1,
    "commands_per_second": 1,
    "subscription_commands_per_second": 1,
    "read_tokens_per_second": 0,
    "cache_seconds": 0,
    "fault_every_s": 0.001,
    "fault_count": 0,
    "fault_span": 1,
}
_NEVER: Final = 1e-9
"""Messages per second of an exchange that stands still: one in thirty years."""


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

    created_ahead_seconds: int = 0
    """How long before its opening a short-lived market is created."""

    settled_seconds: int = 0
    """How long a settled market stays on the lists."""

    rest_lag_ms: int = 0
    """For how long REST does not know a market that the socket told of already."""

    combos: float = 0.0
    """Share of multivariate markets (``KXMVE...``) among those that last."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise SettingsError(f"generator.{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 < self.messages_per_second < float("inf"):
            raise SettingsError(
                f"generator.messages_per_second is {self.messages_per_second}; it must be above 0"
            )
        for name in ("short_lived", "combos"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"generator.{name} is {getattr(self, name)}; it is a share, 0 to 1")


class SimulatorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the simulated exchange is like: its address, its markets, its clock, its limits, its faults."""

    # Where it listens.

    host: str = "127.0.0.1"
    """Address to listen on; ``0.0.0.0`` for all."""

    rest_port: int = 0
    """Port of the REST server; 0 takes a free one."""

    stream_port: int = 0
    """Port of the WebSocket server; 0 takes a free one."""

    open: bool = False
    """Take requests that are not signed, and any key; otherwise keys are registered."""

    keys: dict[str, str] = {}
    """Public keys: id to PEM file; a command's setting, in Python they are registered."""

    clock_tolerance_ms: int = 30_000
    """How far a signature's timestamp may be from the exchange's clock."""

    max_connections: int = 200
    """WebSocket connections per user; one more is refused with 429."""

    # Its markets.

    recordings: str = ""
    """Folder of recordings whose markets are listed too, and move as they did; a command's setting."""

    markets: int = 100
    """How many markets move; a market that settles is followed by the next of its series."""

    quiet_markets: int = 0
    """How many more are listed and have a book that never changes by itself."""

    messages_per_second: float = 1_000.0
    """Mean rate of changes and trades over all markets; 0 for an exchange that moves only by command."""

    seed: int = 1
    """Two exchanges with equal options and start time do the same."""

    short_lived: float = 0.1
    """Share of the moving markets that live for `life_seconds`, from creation to settlement."""

    life_seconds: int = 900
    """From open to close of a short-lived market."""

    pauses_per_hour: float = 1.0
    """How often each short-lived market is paused for a moment, on average."""

    combos: float = 0.1
    """Share of multivariate markets among those that last, and among the quiet ones."""

    created_ahead_seconds: int = 30
    """How long before its opening a short-lived market is created."""

    settled_seconds: int = 60
    """How long a settled market stays on the lists."""

    rest_lag_ms: int = 2_000
    """For how long REST answers 404 for a market whose creation the socket told already."""

    # Its clock.

    speed: float = 1.0
    """How fast its time passes; 0 as fast as the clients take what is sent."""

    frozen: bool = False
    """Begin with nothing happening to any market, until it is thawed or told to run."""

    # Its protocol.

    use_yes_price: bool = False
    """Scale of NO levels where a client does not say; true is the announced default."""

    ping_interval_s: float = 10.0
    """Distance of the pings, whose payload is ``heartbeat``."""

    missed_pongs: int = 3
    """So many pings without an answer, and the connection is cut."""

    subscription_buffer: int = 20_000
    """Frames that wait for one subscription; one more ends it with error 25."""

    reply_backlog_bytes: int = 4_194_304
    """Bytes of replies that wait for a client that commands without reading; then it is closed."""

    max_markets: int = 10_000
    """Markets of a subscription; more are refused with error 26."""

    max_session_markets: int = 500_000
    """Markets of all subscriptions of a connection; more are refused with error 26."""

    commands_per_second: int = 10_000
    """Commands of a connection; more are refused with error 27."""

    subscription_commands_per_second: int = 100
    """Commands that name one subscription; more are refused with error 27."""

    # REST.

    read_tokens_per_second: float = 200.0
    """Refill of a user's bucket; each read costs 10, and a bucket holds two seconds' worth. 0 is no limit."""

    cache_seconds: float = 0.0
    """How old answers to unsigned requests may be, as from the exchange's public cache; 0 is none."""

    # Faults.

    faults: Literal["none", "lively", "campaign"] = "none"
    """What goes wrong by itself: something every few seconds, or `fault_count` faults over `fault_span`."""

    fault_kinds: tuple[FaultKind, ...] = ()
    """Which faults the schedule takes; those that suit it unless given."""

    fault_seed: int = 1
    """The same seed does the same to the same course of events."""

    fault_every_s: float = 4.0
    """Mean time between the faults of ``lively``."""

    fault_count: int = 100
    """How many faults a ``campaign`` has."""

    fault_span: int = 100_000
    """Over how many changes a ``campaign`` spreads them."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in ("rest_port", "stream_port"):
            if not 0 <= getattr(self, name) <= 65_535:
                raise SettingsError(f"simulator.{name} is {getattr(self, name)}; it is 0 to 65535")
        for name in ("short_lived", "combos"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"simulator.{name} is {getattr(self, name)}; it is a share, 0 to 1")
        for name, least in _SIMULATOR_LEAST.items():
            if not least <= getattr(self, name) < float("inf"):
                raise SettingsError(
                    f"simulator.{name} is {getattr(self, name)}; it must be at least {least}, and finite"
                )

        if not self.speed and not self.messages_per_second:
            raise SettingsError(
                "simulator.speed is 0, so that time runs from message to message; there are none"
            )

    def generator(self) -> GeneratorOptions:
        """Return how the moving markets move."""
        return GeneratorOptions(
            markets=max(1, self.markets),
            messages_per_second=self.messages_per_second or _NEVER,
            seed=self.seed,
            short_lived=self.short_lived,
            life_seconds=self.life_seconds,
            pauses_per_hour=self.pauses_per_hour,
            created_ahead_seconds=self.created_ahead_seconds,
            settled_seconds=self.settled_seconds,
            rest_lag_ms=self.rest_lag_ms,
            combos=self.combos,
        )
