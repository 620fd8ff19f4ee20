"""Logs of the server's process: the library's `logging` records, rendered by structlog."""

import logging
import sys
from typing import Any

import structlog

from kalshibook.settings import LogOptions

__all__ = ["configure_logs"]


class _StandardError(logging.StreamHandler[Any]):
    """Writes to what `sys.stderr` is at the moment: a progress bar takes its place while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)


def configure_logs(options: LogOptions) -> None:
    """
    Send all logs of this process to standard error, for people on a terminal, else as JSON lines.

    The library logs with the standard library, so that an embedding program decides; here, the
    program is ours. A record that is filtered out costs no rendering.
    """
    as_json = options.format == "json" or (options.format == "auto" and not sys.stderr.isatty())
    steps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)]
    )
    handler = _StandardError()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=steps,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *steps,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(options.level.upper())
