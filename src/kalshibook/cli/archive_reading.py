"""`kalshibook archive gaps`, `completeness` and `replay`: what the archive holds, read back."""

from typing import Final

import click
import msgspec
import psycopg
from rich.console import Console
from rich.table import Table

from kalshibook.archive.candles import Kind, candles as candles_of
from kalshibook.archive.completeness import completeness as shares_of
from kalshibook.archive.database import parsed
from kalshibook.archive.reading import open_archive
from kalshibook.archive.reading_database import DatabaseArchive
from kalshibook.archive.reading_parquet import ParquetArchive
from kalshibook.archive.rebuild import book_from
from kalshibook.cli.archive_dedup import production_of
from kalshibook.cli.moments import MOMENT, moment_text
from kalshibook.cli.options import Flag, with_settings
from kalshibook.cli.tables import TopLine, plain_line
from kalshibook.numbers import format_price, format_size
from kalshibook.settings import Loaded
from kalshibook.store import Book, Ladder

__all__ = ["candles", "completeness", "gaps", "replay"]

_ARCHIVE: Final = click.option(
    "--archive",
    "address",
    metavar="ADDRESS",
    help="A database, a folder of Parquet or s3://… to read instead.",
)
_PRODUCTION: Final = Flag("--dsn", "The production database: postgresql://user@host/name.", ["archive.dsn"])
_TICKER: Final = click.option("--ticker", required=True, help="The market.")
_FROM: Final = click.option("--from", "from_us", type=MOMENT, required=True, help="RFC 3339 time, or a date.")
_TO: Final = click.option("--to", "until_us", type=MOMENT, required=True, help="The end, exclusive.")
_WIDTHS: Final = {"1s": 1_000_000, "1m": 60_000_000, "1h": 3_600_000_000}
_JSON: Final = click.option("--json", "as_json", is_flag=True, help="One JSON value.")


@click.command()
@_TICKER
@_FROM
@_TO
@_ARCHIVE
@_JSON
@with_settings(_PRODUCTION)
def gaps(
    loaded: Loaded, *, ticker: str, from_us: int, until_us: int, address: str | None, as_json: bool
) -> None:
    """
    Tell whether a market's book is complete in a stretch of time; the exit code is 0 if it is.

    Complete is what at least one gatherer watched without a gap.
    """
    with _opened(loaded, address) as archive:
        lost = archive.coverage(ticker, from_us, until_us).lost(from_us, until_us)
    if as_json:
        found = [
            {"from": moment_text(p.from_us), "to": moment_text(p.until_us), "reason": p.reason} for p in lost
        ]
        click.echo(msgspec.json.encode({"ticker": ticker, "complete": not lost, "lost": found}))
    elif not lost:
        click.echo(f"{ticker} is complete from {moment_text(from_us)} to {moment_text(until_us)}")
    for part in () if as_json else lost:
        click.echo(f"{moment_text(part.from_us)} to {moment_text(part.until_us)}: {part.reason}")
    if lost:
        raise click.exceptions.Exit(1)


@click.command()
@_FROM
@_TO
@click.option("--ticker", help="Of this market only.")
@click.option("--by-market", is_flag=True, help="Tell markets apart.")
@_JSON
@with_settings(_PRODUCTION)
def completeness(
    loaded: Loaded, *, from_us: int, until_us: int, ticker: str | None, by_market: bool, as_json: bool
) -> None:
    """Print which share of the changes that are known each gatherer saw, hour by hour."""
    with psycopg.connect(parsed(production_of(loaded.settings))) as connection:
        shares = shares_of(connection, from_us, until_us, ticker=ticker, by_market=by_market)
    if as_json:
        values = [
            {"ticker": s.ticker or None, "hour": moment_text(s.hour_us), "events": s.events, "seen": s.seen}
            for s in shares
        ]
        click.echo(msgspec.json.encode(values))
        return
    sources = sorted({source for share in shares for source in share.seen})
    table = Table("hour", *(("market",) if by_market or ticker else ()), "changes", *sources)
    for share in shares:
        parts = [f"{share.share(source):.2%}" for source in sources]
        market = (share.ticker,) if by_market or ticker else ()
        table.add_row(moment_text(share.hour_us)[:16], *market, f"{share.events:,}", *parts)
    Console().print(table)


@click.command()
@_TICKER
@click.option("--at", "at_us", type=MOMENT, required=True, help="RFC 3339 time, by the exchange's clock.")
@_ARCHIVE
@_JSON
@with_settings(_PRODUCTION)
def replay(loaded: Loaded, *, ticker: str, at_us: int, address: str | None, as_json: bool) -> None:
    """
    Print a market's book as it was at a time, from a database or from Parquet.

    `kalshibook replay` plays a whole stretch of time.
    """
    with _opened(loaded, address) as archive:
        book = book_from(archive, ticker, at_us)
    if as_json:
        click.echo(
            msgspec.json.encode(
                {
                    "ticker": ticker,
                    "at": moment_text(at_us),
                    "condition": book.condition.value,
                    "reason": book.stale_reason,
                    "yes": _levels(book.yes),
                    "no": _levels(book.no),
                }
            )
        )
    else:
        _print(book)


@click.command()
@_TICKER
@_FROM
@_TO
@click.option(
    "--width", type=click.Choice(list(_WIDTHS)), default="1m", show_default=True, help="Of a candle."
)
@click.option(
    "--of", "kind", type=click.Choice(["trade", "mid"]), default="trade", show_default=True, help="What."
)
@_ARCHIVE
@_JSON
@with_settings(_PRODUCTION)
def candles(
    loaded: Loaded,
    *,
    ticker: str,
    from_us: int,
    until_us: int,
    width: str,
    kind: Kind,
    address: str | None,
    as_json: bool,
) -> None:
    """
    Print a market's candles, from every trade or from every change of its book.

    Values are YES prices in $0.0001; of the mid they are twice that, so that they stay integers.
    """
    with _opened(loaded, address) as archive:
        found = candles_of(archive, kind, ticker, from_us, until_us, _WIDTHS[width])
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for one in found:
        values = " ".join(f"{value:>6}" for value in (one.open, one.high, one.low, one.close))
        click.echo(f"{moment_text(one.at_us)[:19]}  {values}  {format_size(one.volume):>14}  {one.count:>6}")


def _opened(loaded: Loaded, address: str | None) -> DatabaseArchive | ParquetArchive:
    if address is None:
        return DatabaseArchive(production_of(loaded.settings))
    return open_archive(address, dict(loaded.settings.export.s3_credentials))


def _levels(ladder: Ladder) -> list[tuple[str, str]]:
    return [(format_price(level.price), format_size(level.size)) for level in ladder]


def _print(book: Book) -> None:
    click.echo(plain_line(TopLine.of(book, book.stale_reason or "")))
    for side, ladder in (("yes", book.yes), ("no", book.no)):
        for price, size in _levels(ladder):
            click.echo(f"{side:4}{price:>8}{size:>16}")
