"""The pages that a browser opens: live state at ``/``, the description of the API at ``/docs``."""

from importlib.resources import files
from typing import Final

from quart import Blueprint, Response
from quart_schema import hide

__all__ = ["pages_blueprint"]

# Nothing is loaded from elsewhere, so the pages work on a machine without internet, and a market's
# title could not run a script even if it were ever put in as HTML.
_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'"
)


def pages_blueprint() -> Blueprint:
    """Return the pages."""
    blueprint = Blueprint("pages", __name__)
    folder = files("kalshibook.http")
    live, docs = (folder.joinpath(name).read_bytes() for name in ("live.html", "docs.html"))

    @blueprint.get("/")
    @hide
    async def index() -> Response:
        """Live state."""
        return _page(live)

    @blueprint.get("/docs")
    @hide
    async def description() -> Response:
        """The API, read from ``/openapi.json``."""
        return _page(docs)

    return blueprint


def _page(html: bytes) -> Response:
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
    return Response(html, 200, headers, content_type="text/html; charset=utf-8")
