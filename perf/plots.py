"""Plots as inline SVG that takes its colours from the page, so that it is right in light and dark."""

import io
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from perf.result import Series

__all__ = ["COLOURS", "plots"]

COLOURS: Final = 6
"""How many colours for lines a page must define: `--line-0` and so on."""

# Stand-ins that no palette contains; they are replaced by the page's variables.
_INK, _GRID = "#010203", "#040506"
_LINES: Final = tuple(f"#0a0b{number:02x}" for number in range(COLOURS))
_MARKERS: Final = "osD^vP"

_PLAIN: Final = "{x:,.7g}"

_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kalshibook",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def plots(series: Sequence[Series]) -> list[tuple[str, str]]:
    """Return title and SVG of each plot, in the order of their first series."""
    order = list(dict.fromkeys(line.plot for line in series))
    by_plot = sorted(series, key=lambda line: order.index(line.plot))
    return [(title, _svg(list(lines))) for title, lines in groupby(by_plot, key=lambda line: line.plot)]


def _svg(lines: Sequence[Series]) -> str:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        for number, line in enumerate(lines):
            axes.plot(
                line.x,
                line.y,
                label=line.name,
                color=_LINES[number % COLOURS],
                marker=_MARKERS[number % len(_MARKERS)] if len(line.x) <= 20 else "",
                markersize=5,
                linewidth=1.8,
            )
        first = lines[0]
        axes.set_xlabel(first.x_label)
        axes.set_ylabel(first.y_label)
        if first.log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(_PLAIN)
        if first.log_y:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(_PLAIN)
        else:
            axes.set_ylim(bottom=0)
        if len(lines) > 1:
            axes.legend()
        target = io.StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themed(target.getvalue())


def _themed(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    for stand_in, name in ((_INK, "ink"), (_GRID, "grid"), *((c, f"line-{n}") for n, c in enumerate(_LINES))):
        svg = svg.replace(stand_in, f"var(--{name})")
    # Fixed sizes would not shrink with the page.
    return re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", svg, count=1).replace(
        "<svg", '<svg role="img"', 1
    )
