"""What the exchange says of itself over REST: whether it is open, when, and why it refuses."""

from typing import Any, Final

import msgspec

from kalshibook.errors import WireError
from kalshibook.wire.frames import UNREADABLE
from kalshibook.wire.rest.messages import RefusalMessage, ScheduleMessage, StatusMessage
from kalshibook.wire.rest.pieces import decode_answer, read_optional_time
from kalshibook.wire.rest.values import (
    ExchangeSchedule,
    ExchangeStatus,
    MaintenanceWindow,
    Refusal,
    ShardStatus,
    TradingHours,
)
from kalshibook.wire.times import parse_time

__all__ = ["read_exchange_schedule", "read_exchange_status", "read_refusal"]

_status: Final = msgspec.json.Decoder(StatusMessage)
_schedule: Final = msgspec.json.Decoder(ScheduleMessage)
_refusal: Final = msgspec.json.Decoder(RefusalMessage)

_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_REFUSAL_LIMIT: Final = 300


def read_exchange_status(data: bytes) -> ExchangeStatus:
    """
    Read whether the exchange is open; answers with status 500, 503 and 504 carry it too.

    Raises:
        WireError: it cannot be read.
    """
    message = decode_answer(_status, data, "$")
    shards = [
        ShardStatus(one.exchange_index, one.description or "", one.exchange_active, one.trading_active)
        for one in message.exchange_index_statuses or ()
    ]
    return ExchangeStatus(
        message.exchange_active,
        message.trading_active,
        read_optional_time(message.exchange_estimated_resume_time, "$.exchange_estimated_resume_time"),
        tuple(shards),
    )


def read_exchange_schedule(data: bytes) -> ExchangeSchedule:
    """
    Read hours and maintenance.

    Raises:
        WireError: it cannot be read.
    """
    schedule = decode_answer(_schedule, data, "$").schedule
    hours = [
        _read_hours(block, f"$.schedule.standard_hours[{index}]")
        for index, block in enumerate(schedule.standard_hours or ())
    ]
    at = "$.schedule.maintenance_windows"
    windows = [
        MaintenanceWindow(
            parse_time(one.start_datetime, f"{at}[{index}].start_datetime"),
            parse_time(one.end_datetime, f"{at}[{index}].end_datetime"),
        )
        for index, one in enumerate(schedule.maintenance_windows or ())
    ]
    return ExchangeSchedule(tuple(hours), tuple(windows))


def read_refusal(data: bytes) -> Refusal:
    """Read an error's body; whatever it is, it becomes words."""
    try:
        message = _refusal.decode(data)
        if isinstance(message.error, dict):
            message = msgspec.convert(message.error, RefusalMessage)
    except UNREADABLE:
        return Refusal("", _cut(data.decode(errors="replace").strip()))
    details = message.details
    if details is not None and not isinstance(details, str):
        details = msgspec.json.encode(details).decode()
    return Refusal(
        "" if message.code is None else _cut(str(message.code)),
        _cut(message.message or (message.error if isinstance(message.error, str) else "")),
        _cut(details or ""),
    )


def _read_hours(block: dict[str, Any], path: str) -> TradingHours:
    sessions: list[tuple[str, str, str]] = []
    for day in _WEEKDAYS:
        for index, session in enumerate(block.get(day) or ()):
            try:
                sessions.append((day, str(session["open_time"]), str(session["close_time"])))
            except (KeyError, TypeError):
                reason = f"{session!r} has no open_time and close_time"
                raise WireError(f"{path}.{day}[{index}]", reason) from None
    start, end = block.get("start_time"), block.get("end_time")
    return TradingHours(
        read_optional_time(start, f"{path}.start_time"),
        read_optional_time(end, f"{path}.end_time"),
        tuple(sessions),
    )


def _cut(text: str) -> str:
    return text[:_REFUSAL_LIMIT]
