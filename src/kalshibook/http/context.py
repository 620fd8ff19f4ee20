"""What every endpoint is given: the store, the settings, and what else it reports on."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import final

import msgspec
from quart import Response

from kalshibook.errors import NotReady
from kalshibook.http.errors import ApiError
from kalshibook.http.fragments import Fragments
from kalshibook.http.health import FeedReport
from kalshibook.http.options import HttpOptions
from kalshibook.http.traffic import Traffic
from kalshibook.store import BookStore, Cut, require_offsets

__all__ = ["Context", "choose_cut", "json_response", "page_limit", "require_caught_up"]


@final
class Context:
    """
    One application's surroundings.

    Args:
        store: what is read.
        options: limits.
        feeds: called for the health of each feed.
        stream_statistics: called for the counts of a stream server beside this one.
        now_us: the clock, microseconds since the epoch.
    """

    def __init__(
        self,
        store: BookStore,
        options: HttpOptions,
        *,
        feeds: Sequence[Callable[[], FeedReport]],
        stream_statistics: Callable[[], Mapping[str, int]] | None,
        now_us: Callable[[], int],
    ) -> None:
        self.store = store
        self.options = options
        self.fragments = Fragments(options.cached_fragments)
        self.traffic = Traffic()
        self.now_us = now_us
        self._feeds = tuple(feeds)
        self._stream_statistics = stream_statistics
        self._started = time.monotonic_ns()

    def feeds(self) -> list[FeedReport]:
        """Return what each feed says about itself now."""
        return [feed() for feed in self._feeds]

    def stream(self) -> dict[str, int]:
        """Return the counts of the stream server, empty when there is none."""
        return {} if self._stream_statistics is None else dict(self._stream_statistics())

    def uptime_ms(self) -> int:
        """Return how long this application has existed, in milliseconds."""
        return (time.monotonic_ns() - self._started) // 1_000_000


def choose_cut(
    store: BookStore, *, as_of: int | None, version: int | None, min_offset: Mapping[int, int] | None
) -> Cut:
    """
    Return the version of the store that a request asks for.

    Args:
        store: what is read.
        as_of: Unix ms; the newest version of that millisecond or before.
        version: exactly that one.
        min_offset: offsets that must be consumed in it, by partition.

    Raises:
        ApiError: 400, both `as_of` and `version` are given.
        VersionGone: it is not kept.
        NotReady: an offset is not reached in it.
    """
    if as_of is not None and version is not None:
        message = "'as_of' and 'version' are both given; one names the version to read"
        raise ApiError(400, "bad_request", message, {"as_of": as_of, "version": version})
    if version is not None:
        cut = store.at(version)
    elif as_of is not None:
        # To the end of that millisecond, so that an answer's own `as_of` leads back to it.
        cut = store.as_of(as_of * 1_000 + 999)
    else:
        cut = store.cut()
    require_offsets(cut, min_offset)
    return cut


def require_caught_up(cut: Cut, ticker: str | None = None) -> None:
    """
    Insist that nothing newer waits at the feed's source: else no bound on freshness can be kept.

    Raises:
        NotReady: with the reason.
    """
    if cut.behind is not None:
        raise NotReady(f"the books may be behind the exchange: {cut.behind}; ask again", ticker=ticker)


def page_limit(context: Context, limit: int | None, default: int = 100) -> int:
    """
    Return how many rows a page may have.

    Raises:
        ApiError: 400, more is asked than the server allows.
    """
    most = context.options.max_page
    if limit is None:
        return min(default, most)
    if limit > most:
        message = f"parameter 'limit' is {limit}; a page has at most {most} rows, follow its cursor"
        raise ApiError(400, "bad_request", message, {"parameter": "limit", "limit": most})
    return limit


def json_response(answer: msgspec.Struct, status: int = 200) -> Response:
    """Return a struct as a JSON answer."""
    return Response(msgspec.json.encode(answer), status, content_type="application/json")
