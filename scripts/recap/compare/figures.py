"""The figures of the page: forest plot, training curves, accuracies."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .canvas import BAND, FLOOR, INK, Canvas, Figure, canvas
from .verdicts import interval_text, points

Row = dict[str, Any]
_DASHES = ("-", "--", ":", "-.")
_BUCKETS = 200
_LEGEND = {"frameon": False, "fontsize": 9, "handlelength": 1.6}


def forest_plot(rows: Sequence[Row], colors: dict[str, str], description: str) -> Figure:
    """Return differences in points with intervals, A/A bands and detectable effects.

    Behind the rows of a benchmark lies the interval of its A/A pair and,
    darker, the size of the A/A difference.

    Args:
        rows: ``comparisons`` of the comparison document, A/A pairs included,
            benchmark by benchmark.
        colors: arm to colour.
        description: read to those who cannot see the figure.
    """
    with canvas(5.2, 1.55 + 0.62 * len(rows), "forest", description) as drawing:
        axes = drawing.axes
        bands = _aa_intervals(rows)
        for place, row in enumerate(rows):
            _aa_band(axes, place, bands.get(row["benchmark"]), row["noise_floor"])
        axes.axvline(0, color=INK, lw=1, zorder=1.5)
        for place, row in enumerate(rows):
            _forest_row(drawing, place, row, colors[row["arm"]])
        names = [f"{row['arm']} − {row['reference']}\n{row['benchmark']}" for row in rows]
        _name_rows(axes, names)
        axes.set_xlabel("difference in points (right is better)")
        _forest_legend(axes, has_twin=bool(bands))
    return drawing.figure


def _aa_intervals(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Return what the intervals of a benchmark's A/A pairs cover together."""
    bands: dict[str, tuple[float, float]] = {}
    for row in rows:
        if row["identical_pair"]:
            low, high = row["interval"]
            other = bands.get(row["benchmark"], (low, high))
            bands[row["benchmark"]] = (min(low, other[0]), max(high, other[1]))
    return bands


def _aa_band(axes: Any, place: int, interval: Sequence[float] | None, floor: float | None) -> None:
    if interval is not None:
        low, high = interval
        axes.barh([place], [high - low], left=[low], height=1.0, color=BAND, lw=0, zorder=0.2)
    if floor:
        axes.barh([place], [2 * floor], left=[-floor], height=1.0, color=FLOOR, lw=0, zorder=0.3)


def _forest_row(drawing: Canvas, place: int, row: Row, color: str) -> None:
    axes, effect = drawing.axes, row["minimum_detectable_effect"]
    for end in (-effect, effect):
        axes.plot([end, end], [place - 0.28, place + 0.28], color=INK, lw=1, ls=":")
    bar, point = f"interval-{place}", f"point-{place}"
    axes.plot(row["interval"], [place, place], color=color, lw=3, solid_capstyle="butt", gid=bar)
    marker = "D" if row["identical_pair"] else "o"
    axes.plot([row["difference"]], [place], marker=marker, ms=8, color=color, gid=point)
    text = (
        f"{row['arm']} − {row['reference']} on {row['benchmark']}: "
        f"{points(row['difference'], sign=True)} points, interval "
        f"{interval_text(row['interval'])}, detectable {points(effect)}; {row['verdict']}"
    )
    drawing.titles |= {bar: text, point: text}


def _forest_legend(axes: Any, *, has_twin: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], color=INK, lw=2, marker="o", ms=6, label="difference, interval"),
        Line2D([], [], color=INK, lw=1, ls=":", label="± detectable effect"),
    ]
    if has_twin:
        handles += [
            Line2D([], [], color=INK, lw=2, marker="D", ms=6, label="A/A pair"),
            Patch(color=BAND, label="A/A interval"),
            Patch(color=FLOOR, label="± A/A difference"),
        ]
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=3, **_LEGEND)


def curve_plot(
    curves: Sequence[Row], value: str, label: str, colors: dict[str, str], name: str, text: str
) -> Figure:
    """Return one value over the updates of one stage, a line per arm and seed.

    In the loss, triangles mark spikes. A line ends in a dot if every gate of
    its stage passed, in a cross if one failed, in nothing if none is known.

    Args:
        curves: of one stage, see :func:`recap.compare.telemetry.stage_curves`;
            ``gates_passed`` (true, false or none) is optional.
        value: ``loss``, ``grad_norm`` or ``learning_rate``.
        label: of the vertical axis.
        colors: arm to colour; seeds differ in dashes.
        name: unique on the page.
        text: read to those who cannot see the figure.
    """
    seeds = sorted({curve["seed"] for curve in curves})
    with canvas(5.0, 3.4, name, text) as drawing:
        axes, named = drawing.axes, set()
        for curve in curves:
            dash = _DASHES[seeds.index(curve["seed"]) % len(_DASHES)]
            arm, color = curve["arm"], colors[curve["arm"]]
            steps, values = thinned(curve["step"], curve[value])
            line = {"color": color, "lw": 1.6, "ls": dash, "label": None if arm in named else arm}
            axes.plot(steps, values, **line)
            named.add(arm)
            _mark_curve(axes, curve, value, color)
            drawing.series.append(
                {
                    "label": f"{arm}, seed {curve['seed']}",
                    "color": color,
                    "x": steps,
                    "y": [float(f"{number:.4g}") for number in values],
                }
            )
        every = np.concatenate([curve[value] for curve in curves])
        if every.min() > 0 and every.max() / every.min() > 50:
            axes.set_yscale("log")
        axes.set_xlabel("update")
        axes.set_ylabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(lw=0.6)
        axes.figure.legend(loc="outside lower center", ncols=3, **_LEGEND)
    return drawing.figure


def _mark_curve(axes: Any, curve: Row, value: str, color: str) -> None:
    if value == "loss":
        spikes = np.flatnonzero(curve["spike"])
        if spikes.size:
            steps, heights = np.array(curve["step"])[spikes], np.array(curve["loss"])[spikes]
            axes.plot(steps, heights, "v", ms=8, mfc="none", color=color)
    passed = curve.get("gates_passed")
    if passed is not None or len(curve["step"]) == 1:
        end = "X" if passed is False else "o"
        axes.plot(curve["step"][-1:], curve[value][-1:], end, ms=5, color=color)


def thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[list[int], list[float]]:
    """Return at most a few hundred points of a curve that show what all would.

    Each of 200 equal stretches keeps its lowest and its highest point, the
    curve its first and last, so no spike is lost.
    """
    count = len(steps)
    if count <= 2 * _BUCKETS:
        return list(steps), list(values)
    kept = {0, count - 1}
    for start in range(_BUCKETS):
        low, high = (math.floor(k * count / _BUCKETS) for k in (start, start + 1))
        part = np.asarray(values[low:high])
        kept |= {low + int(part.argmin()), low + int(part.argmax())}
    order = sorted(kept)
    return [steps[i] for i in order], [values[i] for i in order]


def accuracy_plot(
    rows: Sequence[Row],
    controls: Sequence[Row],
    colors: dict[str, str],
    name: str,
    description: str,
) -> Figure:
    """Return accuracy in points of each arm with interval, each seed and each control.

    Args:
        rows: ``arms`` of a benchmark.
        controls: ``controls`` of a benchmark: ``arm``, ``control``, ``accuracy``.
        colors: arm to colour.
        name: unique on the page.
        description: read to those who cannot see the figure.
    """
    kinds = list(dict.fromkeys(row["control"] for row in controls))
    height = 0.9 + 0.5 * len(rows) + 0.35 * bool(kinds)
    with canvas(5.0, height, name, description) as drawing:
        axes = drawing.axes
        for place, row in enumerate(rows):
            color, seeds, bar = colors[row["arm"]], row["seed_accuracy"], f"accuracy-{place}"
            axes.plot(
                row["interval"], [place] * 2, color=color, lw=3, solid_capstyle="butt", gid=bar
            )
            axes.plot([row["accuracy"]], [place], "o", ms=8, color=color)
            if len(seeds) > 1:
                axes.plot(seeds, [place + 0.25] * len(seeds), "|", ms=7, color=INK)
            drawing.titles[bar] = f"{row['arm']}: {points(row['accuracy'])} points"
        places = {row["arm"]: place for place, row in enumerate(rows)}
        for kind, marker in zip(kinds, "sP^vD*", strict=False):
            _controls(drawing, [row for row in controls if row["control"] == kind], places, marker)
        if kinds:
            axes.figure.legend(loc="outside lower center", ncols=3, **_LEGEND)
        _name_rows(axes, [row["arm"] for row in rows])
        axes.set_xlabel("accuracy in points")
    return drawing.figure


def _controls(drawing: Canvas, rows: Sequence[Row], places: dict[str, int], marker: str) -> None:
    """Draw one control of all arms as hollow marks."""
    kind, gid = rows[0]["control"].replace("_", " "), f"control-{rows[0]['control']}"
    where, values = [places[row["arm"]] for row in rows], [row["accuracy"] for row in rows]
    style = {"ms": 7, "mfc": "none", "color": INK, "label": kind, "gid": gid}
    drawing.axes.plot(values, where, marker, **style)
    texts = ", ".join(f"{row['arm']} {points(row['accuracy'])}" for row in rows)
    drawing.titles[gid] = f"{kind}: {texts} points"


def _name_rows(axes: Any, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", lw=0.6)
