"""Settings of the gatherer."""

from typing import Any, Final, Literal, NamedTuple

import msgspec

from kalshibook.errors import SettingsError
from kalshibook.feeds.options import is_secret

__all__ = ["Endpoints", "GatherOptions"]


class Endpoints(NamedTuple):
    """Where an exchange is reached."""

    rest_url: str
    """Base of the REST addresses, without a slash at its end."""
    stream_url: str


# Kalshi's API reference, "environments" (2026); production ends in .com, demo in .co. A key belongs to one.
_EXCHANGES: Final = {
    "prod": Endpoints(
        "https://external-api.kalshi.com/trade-api/v2", "wss://external-api-ws.kalshi.com/trade-api/ws/v2"
    ),
    "demo": Endpoints(
        "https://external-api.demo.kalshi.co/trade-api/v2",
        "wss://external-api-ws.demo.kalshi.co/trade-api/ws/v2",
    ),
}

_RANGES: Final[dict[str, tuple[float, float]]] = {
    "audit_window_s": (0.1, 600),
    "backoff_first_s": (0.001, 60),
    "backoff_limit_s": (0.001, 3_600),
    "closed_seconds": (0, 86_400),
    "book_connections": (1, 1_000),
    "command_timeout_s": (0.1, 600),
    "commands_in_flight": (1, 1_000),
    "heartbeat_ms": (50, 60_000),
    "http_port": (0, 65_535),
    "lifecycle_connections": (0, 4),
    "markets_per_command": (1, 100_000),
    "markets_per_connection": (1, 500_000),
    "max_markets": (1, 16_000_000),
    "missing_retry_s": (0.1, 86_400),
    "page_markets": (1, 1_000),
    "poll_seconds": (0, 86_400),
    "poll_share": (0.01, 1),
    # A read costs ten; with less than that saved up none would ever be sent.
    "read_budget": (10, 1_000_000),
    "reconcile_minutes": (0.01, 10_080),
    "max_connections": (1, 1_000),
    "max_frame_bytes": (65_536, 1_073_741_824),
    "peer_silence_ms": (100, 600_000),
    "ping_interval_s": (0.1, 600),
    "queue_frames": (1, 10_000_000),
    "refresh_minutes": (0, 10_080),
    "rest_attempts": (1, 100),
    "rest_connections": (1, 1_000),
    "rest_timeout_ms": (100, 600_000),
    "silence_s": (0.1, 3_600),
    "snapshot_burst": (1, 10_000_000),
    "snapshots_per_second": (1, 1_000_000),
    "stop_timeout_s": (0.1, 600),
    "trade_connections": (0, 1),
}


class GatherOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    What `kalshibook gather` gathers, from which exchange, and at which pace.

    >>> GatherOptions(environment="demo").endpoints().rest_url
    'https://external-api.demo.kalshi.co/trade-api/v2'
    """

    source: str = "gatherer"
    """This gatherer's name in envelopes, gaps and rows; each of several gatherers needs its own."""

    # The exchange.

    environment: Literal["prod", "demo", "custom"] = "prod"
    """Which exchange: Kalshi's own, its demo, or the one at `rest_url` and `stream_url` (``custom``)."""

    rest_url: str = ""
    """With ``custom``: the base of the REST addresses, up to and with ``/trade-api/v2``."""

    stream_url: str = ""
    """With ``custom``: the WebSocket's address, such as ``ws://127.0.0.1:8081/trade-api/ws/v2``."""

    key_id: str = ""
    """Id of the API key. Without one only REST works: the exchange wants every WebSocket signed."""

    private_key: str = ""
    """The private key as PEM text, best from the environment; line ends may be written ``\\n``."""

    private_key_file: str = ""
    """A file with the private key as PEM text, instead of `private_key`."""

    # REST.

    read_budget: int = 200
    """Tokens a second that reads may spend, ten each; by the exchange's tiers 200 (Basic) to 10,000."""

    rest_attempts: int = 6
    """How often a REST request is tried before the failure is told."""

    rest_timeout_ms: int = 10_000
    """How long one attempt may take."""

    rest_connections: int = 8
    """REST requests under way at once."""

    # Sockets.

    backoff_first_s: float = 0.5
    """A lost connection is tried again after up to so long, at random; each failure doubles this bound."""

    backoff_limit_s: float = 30.0
    """The longest that this bound grows to."""

    book_connections: int = 4
    """Over how many connections order books are spread at least; more are opened when these are full."""

    command_timeout_s: float = 10.0
    """How long the exchange may take to answer a command, and to open a socket."""

    commands_in_flight: int = 4
    """How many commands of one connection wait for their answer at once."""

    lifecycle_connections: int = 2
    """How many connections follow the lives of markets, each of all; what comes twice is published once."""

    markets_per_command: int = 1_000
    """How many markets a command names at most; lowered when the exchange refuses it."""

    markets_per_connection: int = 7_500
    """How many order books a connection follows at most; lowered when the exchange refuses them."""

    max_connections: int = 190
    """How many connections may be open for order books; Kalshi allows 200 per user (2025)."""

    max_frame_bytes: int = 16_777_216
    """The longest frame that is read; a longer one ends its connection."""

    missing_retry_s: float = 60.0
    """How often a market is asked for again that the exchange does not answer for."""

    ping_interval_s: float = 10.0
    """How often a connection is pinged; it is given up when the answer takes as long."""

    refresh_minutes: float = 30.0
    """Each book is asked for and published again so often, spread evenly; 0 asks for none."""

    silence_s: float = 15.0
    """A connection on which nothing came for so long is asked something, and given up without an answer."""

    snapshot_burst: int = 20_000
    """How many snapshots may be asked for at once, over all connections."""

    snapshots_per_second: int = 5_000
    """How many snapshots may be asked for in the long run."""

    trade_connections: int = 1
    """How many connections follow `ticker` and `trade` of all markets: 1, or 0 for none."""

    # Publishing.

    gap_topic: str = "market-data-gaps"
    """The topic of the gap ledger, compacted; empty writes none."""

    heartbeat_ms: int = 1_000
    """How often each partition is told that this gatherer is alive."""

    own_books: bool = False
    """Whether it keeps a whole `BookStore` itself, for a program that embeds it; the audit has its own."""

    peer_silence_ms: int = 10_000
    """
    How long another gatherer may say nothing before its markets are asked for; then again a few times, for
    stores that take it for dead later.
    """

    peers: bool = True
    """Whether it watches other gatherers on the topic, and asks for snapshots of what they have lost."""

    queue_frames: int = 50_000
    """How many frames wait for Kafka before sockets are no longer read."""

    stop_timeout_s: float = 15.0
    """How long a stop waits for Kafka to take the rest; what it has not taken then is told as lost."""

    suppress_repeats: bool = False
    """Whether a refresh that repeats the last published snapshot of a quiet market is left out."""

    # Which markets.

    series: tuple[str, ...] = ()
    """Series whose markets are gathered; with `events`, `tickers` and `prefixes` empty too, all are."""

    events: tuple[str, ...] = ()
    """Events whose markets are gathered."""

    tickers: tuple[str, ...] = ()
    """Markets that are gathered."""

    prefixes: tuple[str, ...] = ()
    """Beginnings of tickers of markets that are gathered; all markets are listed to find them."""

    statuses: tuple[Literal["unopened", "open", "paused"], ...] = ("unopened", "open", "paused")
    """States in which a market is taken in; it is then gathered until it is over."""

    combos: bool = True
    """Whether combinations (``KXMVE…``) are gathered."""

    max_markets: int = 2_000_000
    """Markets at most, a quarter of a kilobyte each; more are refused and counted."""

    closed_seconds: int = 600
    """How long a market is still gathered after its close: its book drains, and it may open again."""

    # How they are found.

    page_markets: int = 1_000
    """Markets per page of the lists, at most 1,000."""

    reconcile_minutes: float = 10.0
    """How often the lists are gone through again, for what no message told."""

    state_file: str | None = None
    """File that remembers where the lists were left, so that an interrupted sync goes on from there."""

    # Books over REST.

    poll_seconds: int = 60
    """How often each active market's book is asked for over REST, if the budget allows; 0 for never."""

    poll_share: float = 0.5
    """The share of `read_budget` that these calls may take, up to 1."""

    audit: bool = True
    """Whether such books are compared with our own, which costs half a kilobyte a market."""

    audit_window_s: float = 20.0
    """How old a book over REST may be, caches included, when it is compared with our own."""

    # Its own HTTP.

    http_host: str = "127.0.0.1"
    """Address at which health, metrics, gaps and incidents are served; ``0.0.0.0`` for all."""

    http_port: int = 8010
    """Port for that; 0 takes a free one."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name, (least, most) in _RANGES.items():
            found = getattr(self, name)
            if not least <= found <= most:
                raise SettingsError(f"gather.{name} is {found}; it is {least:,} to {most:,}")
        if not self.statuses:
            raise SettingsError("gather.statuses is empty; then no market would be gathered")
        if not self.source.strip():
            raise SettingsError("gather.source is empty; books and gaps are kept apart by it")
        self._check_addresses()
        self._check_key()

    def _check_key(self) -> None:
        if self.private_key and self.private_key_file:
            raise SettingsError("gather.private_key and gather.private_key_file are both set; choose one")
        has_key = bool(self.private_key or self.private_key_file)
        if has_key and not self.key_id:
            raise SettingsError("gather.key_id is empty, but there is a private key; a key needs both")
        if self.key_id and not has_key:
            raise SettingsError(
                "gather.key_id is set without its private key; set gather.private_key_file, or "
                "gather.private_key by the environment"
            )

    def _check_addresses(self) -> None:
        for name, schemes in (("rest_url", ("http://", "https://")), ("stream_url", ("ws://", "wss://"))):
            url: str = getattr(self, name)
            if self.environment != "custom":
                if url:
                    raise SettingsError(
                        f"gather.{name} is for gather.environment 'custom', which is {self.environment!r}"
                    )
            elif not url.startswith(schemes):
                raise SettingsError(
                    f"gather.{name} is {url!r}; with gather.environment 'custom' it begins with "
                    f"{' or '.join(schemes)}"
                )

    def endpoints(self) -> Endpoints:
        """Return where the exchange is reached."""
        if self.environment == "custom":
            return Endpoints(self.rest_url.rstrip("/"), self.stream_url)
        return _EXCHANGES[self.environment]

    # A struct's own representations would put a private key into every log line that shows settings.
    def __repr__(self) -> str:
        return f"GatherOptions({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        values = msgspec.structs.asdict(self)
        return [(name, "***" if value and is_secret(name) else value) for name, value in values.items()]
