"""Figures as inline SVG: same bytes for same numbers, readable in light and dark.

Text and axes take the page's text colour: they are drawn in a marker colour
that is replaced by ``currentColor``. No date is written and identifiers are
hashed with a fixed salt, then prefixed so that several figures share a page.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = dict[str, Any]
_INK, _GRID, _BAND = "#010203", "#040506", "#070809"
_VARIABLES = {_INK: "currentColor", _GRID: "var(--grid)", _BAND: "var(--band)"}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "recap",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}
_DASHES = ("-", "--", ":", "-.")


@dataclass
class _Canvas:
    """Axes to draw on and, once the drawing is done, the SVG."""

    axes: Any
    svg: str = ""


def forest_plot(rows: Sequence[Row], colors: dict[str, str], description: str) -> str:
    """Return differences in points with intervals, A/A band and detectable effects.

    Args:
        rows: ``comparisons`` of the comparison document, A/A pairs included.
        colors: arm to colour.
        description: read to those who cannot see the figure.
    """
    with _canvas(4.6, 1.0 + 0.62 * len(rows), "forest", description) as canvas:
        axes = canvas.axes
        axes.axvline(0, color=_INK, lw=1, zorder=1.5)
        for place, row in enumerate(rows):
            _forest_row(axes, place, row, colors[row["arm"]])
        _name_rows(axes, [f"{row['arm']}\n{row['benchmark']}" for row in rows])
        axes.set_xlabel("difference in points (right is better)")
    return canvas.svg


def _forest_row(axes: Any, place: float, row: Row, color: str) -> None:
    effect, floor = row["minimum_detectable_effect"], row["noise_floor"]
    if floor:
        axes.barh([place], [2 * floor], left=[-floor], height=0.9, color=_BAND, lw=0)
    for end in (-effect, effect):
        axes.plot([end, end], [place - 0.28, place + 0.28], color=_INK, lw=1, ls=":")
    axes.plot(row["interval"], [place, place], color=color, lw=3, solid_capstyle="butt")
    marker = "D" if row["identical_pair"] else "o"
    axes.plot([row["difference"]], [place], marker=marker, ms=8, color=color)


def curve_plot(
    curves: Sequence[Row], value: str, label: str, colors: dict[str, str], name: str, text: str
) -> str:
    """Return one value over the updates of one stage, a line per arm and seed.

    Args:
        curves: of one stage, see :func:`recap.compare.telemetry.stage_curves`.
        value: ``loss``, ``grad_norm`` or ``learning_rate``.
        label: of the vertical axis.
        colors: arm to colour; seeds differ in dashes.
        name: unique on the page.
        text: read to those who cannot see the figure.
    """
    seeds = sorted({curve["seed"] for curve in curves})
    with _canvas(5.0, 3.1, name, text) as canvas:
        axes, named = canvas.axes, set()
        for curve in curves:
            dash = _DASHES[seeds.index(curve["seed"]) % len(_DASHES)]
            arm = curve["arm"]
            marker = "o" if len(curve["step"]) == 1 else ""
            line = {"color": colors[arm], "lw": 1.6, "ls": dash, "marker": marker}
            axes.plot(curve["step"], curve[value], label=None if arm in named else arm, **line)
            named.add(arm)
        values = np.concatenate([curve[value] for curve in curves])
        if values.min() > 0 and values.max() / values.min() > 50:
            axes.set_yscale("log")
        axes.set_xlabel("update")
        axes.set_ylabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(lw=0.6)
        axes.legend(frameon=False)
    return canvas.svg


def accuracy_plot(rows: Sequence[Row], colors: dict[str, str], name: str, description: str) -> str:
    """Return accuracy in points of each arm with interval, and each seed as a mark."""
    with _canvas(5.0, 0.9 + 0.5 * len(rows), name, description) as canvas:
        axes = canvas.axes
        for place, row in enumerate(rows):
            color, seeds = colors[row["arm"]], row["seed_accuracy"]
            axes.plot(row["interval"], [place, place], color=color, lw=3, solid_capstyle="butt")
            axes.plot([row["accuracy"]], [place], "o", ms=8, color=color)
            if len(seeds) > 1:
                axes.plot(seeds, [place + 0.25] * len(seeds), "|", ms=7, color=_INK)
        _name_rows(axes, [row["arm"] for row in rows])
        axes.set_xlabel("accuracy in points")
    return canvas.svg


def _name_rows(axes: Any, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", lw=0.6)


@contextmanager
def _canvas(width: float, height: float, name: str, description: str) -> Iterator[_Canvas]:
    """Yield a canvas of ``width`` x ``height`` inches; fill in its SVG at the end."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        canvas = _Canvas(axes)
        yield canvas
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    canvas.svg = _inline(buffer.getvalue(), name, description)


def _inline(text: str, name: str, description: str) -> str:
    """Return an SVG element for the page: its own identifiers, colours, description."""
    from markupsafe import escape

    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    head = f'<svg role="img" aria-label="{escape(description)}"'
    return re.sub(r"^<svg", lambda _: head, text, count=1)
