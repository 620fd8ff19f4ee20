"""The entry point: finds the subcommand, and turns what went wrong into one line."""

import errno
import sys
from collections.abc import Iterator
from typing import Any, Final

from kalshibook import __version__
from kalshibook.errors import KalshiBookError

try:
    import click

    from kalshibook.cli.lazy import LazyGroup
except ModuleNotFoundError:  # the core comes without a command line, but its script is installed
    sys.exit(
        "kalshibook: the command line is not installed;"
        " pip install 'kalshibook-live[cli]', or '.[cli]' in a checkout"
    )

__all__ = ["Application", "app", "main"]

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C where there was nothing to finish, as shells have it."""

COMMANDS: Final = {
    "demo": ("kalshibook.cli.demo:demo", "Try it: an exchange, a gatherer, a broker, a server."),
    "serve": ("kalshibook.cli.serve:serve", "Serve the books of a Kafka topic."),
    "gather": ("kalshibook.cli.gather:gather", "Gather from the exchange into Kafka."),
    "snapshots": ("kalshibook.cli.snapshots:snapshots", "Save the books of a Kafka topic for warm starts."),
    "replay": ("kalshibook.cli.replay:replay", "Play recordings into Kafka."),
    "simulate": (
        "kalshibook.cli.simulate:simulate",
        "A local Kalshi to develop against, with faults on demand.",
    ),
    "archive": ("kalshibook.cli.archive:archive", "Keep what the gatherers saw."),
    "top": ("kalshibook.cli.top:top", "Print the best prices, once."),
    "watch": ("kalshibook.cli.watch:watch", "Follow the best prices as they change."),
    "settings": ("kalshibook.cli.settings:settings", "Print every setting and where it comes from."),
}
"""Name, where it is, and its line of help."""


class Application(LazyGroup):
    """All commands; what went wrong becomes one line and an exit code."""

    lazy_commands = COMMANDS

    def main(self, *arguments: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run, print a failure as one line and end the process: 0, 1 for a failure, 2 for a wrong command."""
        run: Any = super().main  # its overloads know nothing of arguments that are passed on
        if not standalone_mode:
            return run(*arguments, standalone_mode=False, **extra)
        try:
            sys.exit(run(*arguments, standalone_mode=False, **extra))
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "kalshibook"
            click.echo(f"{command}: {error.format_message()} (see {command} --help)", err=True)
            sys.exit(error.exit_code)
        except click.ClickException as error:
            click.echo(f"kalshibook: {error.format_message()}", err=True)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(INTERRUPTED)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; whatever the user can do something about becomes one line."""
        try:
            return super().invoke(ctx)
        except KalshiBookError as error:
            raise click.ClickException(_with_flags(str(error))) from error
        except BaseExceptionGroup as group:
            raise _first_expected(group) from group
        except OSError as error:
            if error.errno not in _EXPECTED:
                raise
            raise click.ClickException(str(error)) from error


_EXPECTED: Final = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.ENOENT)


def _first_expected(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Find, in what a nursery raised, the one error that the user can act on; a bug keeps its traceback."""
    for leaf in _leaves(group):
        if isinstance(leaf, click.ClickException):
            return leaf
        if isinstance(leaf, KalshiBookError) or (isinstance(leaf, OSError) and leaf.errno in _EXPECTED):
            return click.ClickException(_with_flags(str(leaf)))
    return group


_PORTS: Final = {"http.port": "--port", "stream.port": "--stream-port"}


def _with_flags(text: str) -> str:
    # The library names the setting; whoever typed a command wants what can be typed.
    for setting, flag in _PORTS.items():
        text = text.replace(f"choose another {setting} ", f"choose another {flag} ")
    return text


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


@click.group(
    cls=Application, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="kalshibook", message="%(prog)s %(version)s")
@click.pass_context
def app(context: click.Context) -> None:
    """
    Every order book of the Kalshi exchange, in memory, always consistent, never locked.

    Start with `kalshibook demo`: it needs no account, no broker and no settings.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Run the command line and end the process."""
    app.main(prog_name="kalshibook")
