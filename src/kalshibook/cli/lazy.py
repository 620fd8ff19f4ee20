"""Groups of commands that are imported when they are called: `top` does not pay for what `serve` needs."""

import importlib
from collections.abc import Mapping
from typing import ClassVar

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """
    A group that imports a subcommand when it is called.

    Attributes:
        lazy_commands: by name, ``module:function`` and the line of help, in the order of use.
        extra: what to install where a command's library is missing.
    """

    lazy_commands: ClassVar[Mapping[str, tuple[str, str]]] = {}
    extra: ClassVar[str] = "cli"

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of use."""
        return list(self.lazy_commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import a subcommand, or say which extra it needs."""
        if cmd_name not in self.lazy_commands:
            return None
        module, _, name = self.lazy_commands[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("kalshibook"):
                raise
            raise click.ClickException(
                f"{cmd_name} needs {error.name}, which is not installed;"
                f" pip install 'kalshibook-live[{self.extra}]', or '.[{self.extra}]' in a checkout"
            ) from None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy_commands.items()])
