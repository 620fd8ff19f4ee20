"""Times on the command line."""

from datetime import UTC, datetime, timedelta

import click

from kalshibook.errors import WireError
from kalshibook.wire.times import parse_time

__all__ = ["MOMENT", "Moment", "moment_text"]

_DATE_LENGTH = len("2026-11-26")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Moment(click.ParamType[int]):
    """A time as RFC 3339 writes it, or a date, which is its midnight in UTC; becomes microseconds."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        if isinstance(value, int):
            return value
        text = str(value)
        try:
            return parse_time(f"{text}T00:00:00Z" if len(text) == _DATE_LENGTH else text)
        except WireError as error:
            self.fail(error.reason, param, ctx)


MOMENT = Moment()


def moment_text(time_us: int) -> str:
    """Write microseconds as RFC 3339, in UTC."""
    moment = _EPOCH + timedelta(microseconds=time_us)
    return moment.isoformat(timespec="microseconds" if time_us % 1_000 else "milliseconds")[:-6] + "Z"
