"""Settings of the REST server."""

from typing import Final

import msgspec

from kalshibook.errors import SettingsError

__all__ = ["HttpOptions"]

_LEAST: Final = {
    "max_tickers": 1,
    "max_levels": 1,
    "max_page": 1,
    "max_body_bytes": 1_024,
    "max_head_bytes": 65_536,
    "stuck_client_ms": 100,
    "keep_alive_ms": 100,
    "drain_ms": 0,
    "cached_fragments": 1_000,
}


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where the REST server listens, what a request may ask for, and when the service is called ready."""

    host: str = "127.0.0.1"
    """Address to listen on; ``0.0.0.0`` for all."""

    port: int = 8000
    """Port to listen on; 0 takes a free one."""

    max_tickers: int = 10_000
    """Tickers in one bulk request; more are answered with status 413."""

    max_levels: int = 200_000
    """Markets times ``depth`` in one bulk request; more are answered with status 413."""

    max_page: int = 1_000
    """Largest ``limit`` of a paged list."""

    max_body_bytes: int = 4_194_304
    """Size of a request's body, in bytes; more is answered with status 413."""

    max_head_bytes: int = 131_072
    """Size of a request's line and headers, in bytes; about 3,000 tickers fit a URL. More by POST."""

    stuck_client_ms: int = 10_000
    """
    How long a client may take to send a request's body, and how long it may take nothing of its answer.

    The first is answered with status 408, the second with a disconnection (on Linux).
    """

    keep_alive_ms: int = 75_000
    """How long an idle connection is kept open."""

    drain_ms: int = 500
    """How long a stop waits for answers under way; connections that remain are then cut."""

    stale_share_limit: float = 0.1
    """Largest share of stale books, 0 to 1, with which ``/readyz`` is green."""

    serve_stale: bool = False
    """
    Serve books in doubt, and of a store that is behind the exchange, in Kalshi's shape too.

    Kalshi's shape has no word for doubt, so by default such a book is refused with status 503. With
    this it is served, marked by the header ``X-Kalshibook-Condition: stale``.
    """

    cached_fragments: int = 200_000
    """Encoded markets kept for reuse, up to 10 levels deep; 0.5 to 1.5 kB each."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not 0 <= self.port <= 65_535:
            raise SettingsError(f"http.port is {self.port}; it is 0 to 65535")
        if not 0 <= self.stale_share_limit <= 1:
            raise SettingsError(
                f"http.stale_share_limit is {self.stale_share_limit}; it is a share from 0 to 1"
            )
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise SettingsError(f"http.{name} is {getattr(self, name)}; it must be at least {least}")
