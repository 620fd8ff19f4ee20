"""Where a running server is, for the commands that ask it."""

from kalshibook.settings import Settings

__all__ = ["rest_url", "stream_url"]

_ANYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - recognised here, not bound


def rest_url(settings: Settings) -> str:
    """Return the base address of the REST server that these settings would start."""
    return f"http://{_reachable(settings.http.host)}:{settings.http.port}"


def stream_url(settings: Settings) -> str:
    """Return the address of the WebSocket server that these settings would start."""
    return f"ws://{_reachable(settings.stream.host)}:{settings.stream.port}{settings.stream.path}"


def _reachable(host: str) -> str:
    if host in _ANYWHERE:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
