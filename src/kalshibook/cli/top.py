"""`kalshibook top`: the best prices of some markets, once."""

from collections.abc import Mapping, Sequence
from typing import Final

import click
import httpx
import msgspec
from rich.console import Console

from kalshibook.cli.client import rest_url
from kalshibook.cli.options import with_settings
from kalshibook.cli.tables import TopLine, plain_line, tops_table
from kalshibook.http.answers import TickTopRow, TopsAnswer
from kalshibook.settings import Loaded

__all__ = ["age_text", "top"]

_TIMEOUT_S: Final = 10.0


@click.command()
@click.argument("tickers", nargs=-1, metavar="[TICKER]...")
@click.option("--prefix", help="Markets whose ticker begins so.")
@click.option("--event", help="Markets of an event, by its ticker.")
@click.option("--series", help="Markets of a series, by its ticker.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Markets at most.")
@click.option("--url", help="The server's REST address; from the settings unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's answer as it came.")
@with_settings()
def top(
    loaded: Loaded,
    *,
    tickers: Sequence[str],
    prefix: str | None,
    event: str | None,
    series: str | None,
    limit: int,
    url: str | None,
    as_json: bool,
) -> None:
    """
    Print the best prices of the named markets, or of the first ones that a filter finds.

    All prices are from one version of the store. The exit code is 1 when a named market is unknown.
    """
    filters = {"prefix": prefix, "event": event, "series": series}
    given = {name: value for name, value in filters.items() if value is not None}
    if len(given) + bool(tickers) > 1:
        raise click.UsageError("give tickers, or one of --prefix, --event and --series")
    base = url or rest_url(loaded.settings)
    answer = _ask(base, tickers, given or {"prefix": ""}, limit, numbers="dollars" if as_json else "ticks")
    if as_json:
        click.echo(answer)
        return
    try:
        content = msgspec.json.decode(answer, type=TopsAnswer)
        lines = [_line(msgspec.convert(row, TickTopRow), content.now_ms) for row in content.markets]
    except msgspec.DecodeError as error:
        raise click.ClickException(f"{base} is no kalshibook, or another version of it: {error}") from None
    _show(content, lines)
    if content.missing:
        raise click.ClickException(f"unknown market: {', '.join(content.missing)}")


def _ask(base: str, tickers: Sequence[str], filters: Mapping[str, str], limit: int, numbers: str) -> str:
    try:
        with httpx.Client(base_url=base, timeout=_TIMEOUT_S) as client:
            if tickers:
                response = client.post("/v1/tops", json={"tickers": list(tickers), "numbers": numbers})
            else:
                response = client.get("/v1/tops", params={**filters, "limit": limit, "numbers": numbers})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise click.ClickException(f"no server answers at {base}: {error}") from None
    if response.status_code != httpx.codes.OK:
        raise click.ClickException(f"{base} answered {response.status_code}: {_message(response)}")
    return response.text


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase


def _show(content: TopsAnswer, lines: Sequence[TopLine]) -> None:
    console = Console()
    if not console.is_terminal:
        for line in lines:
            click.echo(plain_line(line))
        return
    if not lines:
        console.print("no market found")
    else:
        console.print(tops_table(lines, "age", console.width))
    notes = [f"version {content.version}"]
    if content.cursor:
        notes.append("there are more: --limit, or name them")
    if content.behind:
        notes.append(f"behind: {content.behind}")
    console.print("; ".join(notes), style="dim", highlight=False, markup=False, soft_wrap=True)


def _line(row: TickTopRow, now_ms: int) -> TopLine:
    age = "" if row.updated_ms is None else age_text(now_ms - row.updated_ms)
    return TopLine(
        row.ticker,
        row.yes_bid,
        row.yes_bid_size,
        row.yes_ask,
        row.yes_ask_size,
        row.condition,
        row.status,
        row.stale_reason or age,
    )


def age_text(milliseconds: int) -> str:
    """Write an age: ``0.3 s``, ``41 s``, ``12 min``, ``5 h``, ``3 d``."""
    seconds = max(milliseconds, 0) / 1_000
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
