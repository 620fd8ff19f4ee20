"""What several commands share: settings from the command line."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from kalshibook.settings import Argument, load_settings

__all__ = ["BROKER_FLAGS", "SERVER_FLAGS", "Flag", "with_settings"]

Function = Callable[..., Any]


class Flag(NamedTuple):
    """A setting that has an option of its own, or several that share one."""

    option: str
    help: str
    paths: Sequence[str]
    """Each ``section.field``."""


BROKER_FLAGS: Final = (
    Flag("--bootstrap-servers", "Kafka brokers, host:port, comma-separated.", ["kafka.bootstrap_servers"]),
    Flag("--topic", "The topic of envelopes.", ["kafka.topic"]),
)
SERVER_FLAGS: Final = (
    Flag("--host", "Address to listen on; 0.0.0.0 for all.", ["http.host", "stream.host"]),
    Flag("--port", "Port of REST; 0 takes a free one.", ["http.port"]),
    Flag("--stream-port", "Port of the WebSocket; 0 takes a free one.", ["stream.port"]),
    Flag("--log-level", "debug, info, warning or error.", ["log.level"]),
)


def with_settings(*flags: Flag) -> Callable[[Function], Function]:
    """Add `--config`, `--set` and `flags` to a command, which gets the outcome as its `loaded`."""

    def decorate(command: Function) -> Function:
        @functools.wraps(command)
        def run(config: Path | None, assignments: tuple[str, ...], **given: Any) -> Any:
            arguments = [Argument.parse(text) for text in assignments]
            for flag in flags:
                value = given.pop(_parameter(flag))
                if value is not None:
                    arguments += (Argument(path, value, flag.option) for path in flag.paths)
            return command(loaded=load_settings(config=config, arguments=arguments), **given)

        for flag in reversed(flags):
            metavar = flag.paths[0].rpartition(".")[2].upper()
            run = click.option(flag.option, _parameter(flag), metavar=metavar, help=flag.help)(run)
        run = click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="SECTION.FIELD=VALUE",
            help="Any other setting; may be repeated.",
        )(run)
        return click.option(
            "--config",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Settings file (TOML); ./kalshibook.toml unless given.",
        )(run)

    return decorate


def _parameter(flag: Flag) -> str:
    return "setting_" + flag.option.strip("-").replace("-", "_")
