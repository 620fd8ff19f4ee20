"""Writes what was found: results.json for programs, report.md for reading, report.html to look at."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from perf.plots import plots
from perf.result import Goal, ScenarioResult, Table

__all__ = ["figure", "write_report"]

_TEMPLATE: Final = Path(__file__).with_name("report_template.html")


def write_report(
    folder: Path, results: Sequence[ScenarioResult], facts: Mapping[str, str], *, quick: bool
) -> None:
    """
    Write all three files.

    Args:
        folder: where; it exists.
        results: in the order of the report.
        facts: of the machine.
        quick: whether the numbers are those of a smoke test.
    """
    content = {"facts": facts, "quick": quick, "results": results}
    (folder / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(content)))
    (folder / "report.md").write_text(_markdown(results, facts, quick=quick))
    (folder / "report.html").write_text(_page(results, facts, quick=quick))


def figure(value: float | str) -> str:
    """Write a number with three significant digits, and thousands apart; text as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    if abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:.{digits}f}"


def _summary(results: Iterable[ScenarioResult]) -> list[tuple[str, Goal]]:
    return [(result.name, goal) for result in results for goal in result.goals]


def _verdict(goal: Goal) -> str:
    return "met" if goal.met else "missed"


def _measurements(result: ScenarioResult) -> Table | None:
    if not result.measurements:
        return None
    rows = tuple((item.name, item.value, item.unit, item.conditions) for item in result.measurements)
    return Table("", ("what", "value", "unit", "on"), rows)


def _tables(result: ScenarioResult) -> list[Table]:
    first = _measurements(result)
    return [*([first] if first else []), *result.tables]


def _failures(results: Sequence[ScenarioResult]) -> list[tuple[str, str]]:
    """Return what was not correct, by scenario: it stands before all numbers."""
    return [
        (result.name, f"{check.text} {check.detail}".rstrip())
        for result in results
        for check in result.checks
        if not check.passed
    ]


# Markdown


def _markdown(results: Sequence[ScenarioResult], facts: Mapping[str, str], *, quick: bool) -> str:
    parts = ["# Load tests", ""]
    if quick:
        parts += ["**A quick run: it shows that everything works; its numbers are rough.**", ""]
    failures = _failures(results)
    if failures:
        parts += ["## Failed checks", "", *(f"* **{name}**: {text}" for name, text in failures), ""]
    parts += [_markdown_rows(("fact", "value"), facts.items()), ""]
    goals = [
        (
            name,
            goal.text,
            f"{figure(goal.value)} {goal.unit}",
            "met" if goal.met else f"**missed** {goal.reason}",
        )
        for name, goal in _summary(results)
    ]
    if goals:
        parts += ["## Goals", "", _markdown_rows(("scenario", "goal", "measured", ""), goals), ""]
    for result in results:
        parts += [f"## {result.name}", "", f"{result.title} ({result.seconds:.0f} s)", ""]
        if result.conditions:
            parts += [*(f"* {line}" for line in result.conditions), ""]
        parts += [
            f"* {'ok' if check.passed else '**FAILED**'}: {check.text} {check.detail}".rstrip()
            for check in result.checks
        ]
        parts += [""] if result.checks else []
        for table in _tables(result):
            parts += [*([f"**{table.title}**", ""] if table.title else [])]
            parts += [_markdown_rows(table.columns, table.rows), ""]
        parts += [*result.notes, ""] if result.notes else []
    return "\n".join(parts)


def _markdown_rows(columns: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> str:
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(figure(cell).replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


# HTML


def _page(results: Sequence[ScenarioResult], facts: Mapping[str, str], *, quick: bool) -> str:
    goals = "".join(
        f'<tr class="{_verdict(goal)}"><td>{_link(name)}</td><td>{html.escape(goal.text)}</td>'
        f'<td class="number">{figure(goal.value)} {html.escape(goal.unit)}</td>'
        f"<td><b>{_verdict(goal)}</b> {html.escape('' if goal.met else goal.reason)}</td></tr>"
        for name, goal in _summary(results)
    )
    failures = "".join(
        f'<li class="missed">{_link(name)}: {html.escape(text)}</li>' for name, text in _failures(results)
    )
    body = [
        "<h1>Load tests</h1>",
        f"<h2>Failed checks</h2><ul>{failures}</ul>" if failures else "",
        '<p class="missed"><b>A quick run: its numbers are rough.</b></p>' if quick else "",
        _html_table(Table("", ("fact", "value"), tuple(facts.items()))),
        f"<h2>Goals</h2><table><tr><th>scenario<th>goal<th>measured<th></tr>{goals}</table>" if goals else "",
        *map(_section, results),
    ]
    return _TEMPLATE.read_text().replace("<!-- report -->", "\n".join(body))


def _link(name: str) -> str:
    return f'<a href="#{name}">{name}</a>'


def _section(result: ScenarioResult) -> str:
    items = [f"<li>{html.escape(line)}</li>" for line in result.conditions]
    items += [
        f'<li class="{"met" if check.passed else "missed"}"><b>{"ok" if check.passed else "FAILED"}</b>: '
        f"{html.escape(f'{check.text} {check.detail}')}</li>"
        for check in result.checks
    ]
    drawn = "".join(
        f"<figure><figcaption>{html.escape(title)}</figcaption>{svg}</figure>"
        for title, svg in plots(result.series)
    )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in result.notes)
    tables = "".join(map(_html_table, _tables(result)))
    return (
        f'<section id="{result.name}"><h2>{result.name}</h2>'
        f"<p>{html.escape(result.title)} <small>{result.seconds:.0f} s</small></p>"
        f'<ul>{"".join(items)}</ul><div class="plots">{drawn}</div>{tables}{notes}</section>'
    )


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    title = f"<caption>{html.escape(table.title)}</caption>" if table.title else ""
    return f"<table>{title}<tr>{head}</tr>{rows}</table>"


def _cell(value: str | float) -> str:
    kind = "" if isinstance(value, str) else ' class="number"'
    return f"<td{kind}>{html.escape(figure(value))}</td>"
