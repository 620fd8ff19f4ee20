"""Settings of the WebSocket server."""

from typing import Final, Literal

import msgspec

from kalshibook.errors import SettingsError

__all__ = ["StreamOptions"]

_LEAST: Final = {
    "max_connections": 1,
    "handshake_timeout_s": 0.001,
    "send_timeout_s": 0.001,
    "drain_timeout_s": 0.001,
    "close_timeout_s": 0.001,
    "stop_timeout_s": 0.001,
    "ping_interval_s": 0.001,
    "pong_timeout_s": 0.001,
    "max_message_bytes": 1_024,
    "write_bytes": 1,
    "gather_ms": 0,
    "gather_behind_ms": 0,
    "change_capacity": 1,
    "change_batches": 1,
    "max_subscriptions": 1,
    "max_markets": 1,
    "max_prefixes": 0,
    "max_ticker_length": 1,
    "commands_per_second": 1,
    "subscription_commands_per_second": 1,
    "depth_backlog": 1,
    "notice_backlog": 1,
    "reply_backlog_bytes": 1,
    "snapshot_cache_bytes": 0,
}


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where the WebSocket server listens, what a client may ask for, and how much may wait for it."""

    host: str = "127.0.0.1"
    """Address to listen on; ``0.0.0.0`` for all."""

    port: int = 8001
    """Port to listen on; 0 takes a free one."""

    path: str = "/trade-api/ws/v2"
    """Path of the handshake; any other is answered with 404."""

    origins: tuple[str, ...] = ()
    """
    Origins of pages that may connect, such as ``https://example.org``; ``*`` allows any.

    Pages from the server's own host may always; a client that names no origin is no browser.
    """

    max_connections: int = 10_000
    """Clients at once; one more is answered with 503."""

    handshake_timeout_s: float = 5.0
    """For the handshake request to arrive."""

    send_timeout_s: float = 5.0
    """For a client to take one write; then it is cut."""

    drain_timeout_s: float = 30.0
    """How long a client may keep us waiting until it has all; one that only ever takes a part is cut."""

    close_timeout_s: float = 1.0
    """For a client to answer a close frame, and once more for it to hang up."""

    stop_timeout_s: float = 0.5
    """For all clients to be told that the server stops; those that do not listen are then dropped."""

    ping_interval_s: float = 10.0
    """From the handshake to the first ping, and from a pong to the next; its payload is ``heartbeat``."""

    pong_timeout_s: float = 20.0
    """For a pong to arrive; then the client is cut."""

    max_message_bytes: int = 1_048_576
    """Longest message that is read; a longer one closes with 1009."""

    write_bytes: int = 65_536
    """About how much goes out in one write, in bytes: up to twice that, and a single frame may be longer."""

    gather_ms: float = 5.0
    """
    Pause after a round of writes, in milliseconds; 0 for none.

    A change that finds the server at rest goes out at once; those that follow gather for so long and
    share a write, which costs several times what they do.
    """

    gather_behind_ms: float = 1_000.0
    """
    The same while the store is behind its feed, until it has caught up: changes are then folded to one a
    market, because states of the past are of little use and sending them all would make it last longer.
    """

    change_capacity: int = 65_536
    """Changes of the store that wait one by one; beyond it they are folded by market."""

    change_batches: int = 16
    """Batches of changes that wait between the store and the clients."""

    max_subscriptions: int = 6
    """Subscriptions of a connection, at most one a channel; one more is answered with error 26."""

    max_markets: int = 10_000
    """Markets that a subscription names; more are answered with error 26."""

    max_prefixes: int = 100
    """Prefixes that a subscription names; more are answered with error 26."""

    max_ticker_length: int = 200
    """Characters of a ticker or a prefix; a longer one is answered with error 11."""

    commands_per_second: int = 10_000
    """Commands of a connection; more are answered with error 27."""

    subscription_commands_per_second: int = 1_000
    """Commands that name one subscription; more are answered with error 27."""

    depth_backlog: int = 1_000
    """Deltas that wait in an ``orderbook_delta`` subscription; beyond it `depth_overflow` rules."""

    depth_overflow: Literal["snapshot", "error"] = "snapshot"
    """Replace deltas that do not fit by fresh snapshots, or end the subscription with error 25."""

    notice_backlog: int = 10_000
    """Frames that wait in a trade or lifecycle subscription; beyond it it ends with error 25."""

    reply_backlog_bytes: int = 4_194_304
    """Replies that wait for a client, in bytes; one that commands without reading is closed with 1008."""

    use_yes_price: bool = False
    """Scale of NO levels where a client does not say; true is the YES scale, as Kalshi announced."""

    snapshot_cache_bytes: int = 33_554_432
    """Encoded snapshots kept for reuse, in bytes."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not 0 <= self.port <= 65_535:
            raise SettingsError(f"stream.port is {self.port}; it is 0 to 65535")
        if not self.path.startswith("/"):
            raise SettingsError(f"stream.path is {self.path!r}; it begins with '/'")
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:  # so written, it refuses "not a number" too
                raise SettingsError(f"stream.{name} is {getattr(self, name)}; it must be at least {least}")
