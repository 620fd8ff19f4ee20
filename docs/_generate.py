"""Pages that are read off the code while the documentation is built, so that they cannot drift from it."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import msgspec
from sphinx.pycode import ModuleAnalyzer

from kalshibook.archive import dedup_metrics
from kalshibook.cli.main import COMMANDS, app
from kalshibook.gather import metrics as gather_metrics
from kalshibook.http import metrics
from kalshibook.settings import PREFIX, Settings

__all__ = ["command_line", "metrics_table", "settings_tables", "write_generated_pages"]


def write_generated_pages(folder: Path) -> None:
    """Write every generated page; an unchanged one keeps its time, so that it is not built again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("command-line.md", command_line()),
        ("metrics.md", metrics_table(metrics)),
        ("gather-metrics.md", metrics_table(gather_metrics)),
        ("dedup-metrics.md", metrics_table(dedup_metrics)),
        ("settings.md", settings_tables()),
    ):
        page = folder / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def settings_tables() -> str:
    """Return one table a section: field, default, meaning."""
    return "\n".join(_sections())


def command_line() -> str:
    """Return the help of every command."""
    context = click.Context(app, info_name="kalshibook")
    parts: list[str] = []
    for name in COMMANDS:
        command = app.get_command(context, name)
        assert command is not None
        parts += _help(name, command, context)
    return "\n".join(parts)


def _help(name: str, command: click.Command, context: click.Context, level: str = "##") -> Iterator[str]:
    shown = click.Context(command, info_name=name, parent=context, max_content_width=96, terminal_width=96)
    yield f"{level} `{name}`\n\n```text\n{command.get_help(shown)}\n```\n"
    if isinstance(command, click.Group):
        for below in command.list_commands(shown):
            found = command.get_command(shown, below)
            assert found is not None
            yield from _help(below, found, shown, f"{level}#")


def metrics_table(module: ModuleType) -> str:
    """Return the table of metrics that stands in the module which renders them."""
    text = module.__doc__ or ""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return "\n".join(rows) + "\n"


def _sections() -> Iterator[str]:
    for section in msgspec.structs.fields(Settings):
        meanings = _field_docs(section.type)
        yield f"## `[{section.name}]`\n"
        yield f"As environment variables: `{PREFIX}{section.name.upper()}_…` with the name in capitals.\n"
        yield "| name | default | meaning |"
        yield "| --- | --- | --- |"
        for field in msgspec.structs.fields(section.type):
            yield f"| `{field.name}` | {_default(field)} | {meanings.get(field.name, '')} |"
        yield ""


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default
    if value is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    if value is None or value in ("", {}, ()):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _field_docs(struct: type) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if base.__module__.startswith("kalshibook"):
            analyzer = ModuleAnalyzer.for_module(base.__module__)
            for (owner, name), lines in analyzer.find_attr_docs().items():
                if owner == base.__name__:
                    # Two backticks are reStructuredText's; a bar would end the cell.
                    found[name] = " ".join(lines).strip().replace("``", "`").replace("|", "\\|")
    return found
