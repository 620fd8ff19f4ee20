"""What several commands share: settings from the command line."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from kalshibook.settings import Argument, load_settings

__all__ = ["Flag", "with_settings"]

Function = Callable[..., Any]


class Flag(NamedTuple):
    """A setting that has an option of its own."""

    option: str
    path: str
    """``section.field``."""
    help: str


def with_settings(*flags: Flag) -> Callable[[Function], Function]:
    """Add `--config`, `--set` and `flags` to a command, which gets the outcome as its `loaded`."""

    def decorate(command: Function) -> Function:
        @functools.wraps(command)
        def run(config: Path | None, assignments: tuple[str, ...], **given: Any) -> Any:
            arguments = [Argument.parse(text) for text in assignments]
            for flag in flags:
                value = given.pop(_parameter(flag))
                if value is not None:
                    arguments.append(Argument(flag.path, value, flag.option))
            return command(loaded=load_settings(config=config, arguments=arguments), **given)

        for flag in reversed(flags):
            run = click.option(flag.option, _parameter(flag), metavar="TEXT", help=flag.help)(run)
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
    return "setting_" + flag.path.replace(".", "_")
