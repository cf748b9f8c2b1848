"""The funnel of an arm as a figure for a page or a paper."""

from pathlib import Path
from typing import Any

from ..io import atomic_path, read_json
from .canvas import INK, canvas

_KEPT, _LOST = "#3b75af", "#c8693f"
_INCHES = (8.2, 0.34, 1.0)  # width; height of a row; height of what is not rows


def draw_funnel(funnel: str | Path, *, svg: str | Path, png: str | Path) -> None:
    """Draw what is left after each step, and what each step took.

    Args:
        funnel: ``funnel.json`` of an arm.
        svg: the figure as SVG.
        png: the same at 200 dots an inch.
    """
    document = read_json(funnel)
    stages = document["stages"]
    width, row, rest = _INCHES
    with canvas(width, rest + row * len(stages), "funnel", _text(document)) as drawing:
        axes = drawing.axes
        for place, stage in enumerate(stages):
            _draw_stage(axes, place, stage)
        axes.set_yticks(range(len(stages)), [_name(stage) for stage in stages])
        axes.set_ylim(len(stages) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.45 * max(1, *(stage["records_in"] for stage in stages)))
        axes.locator_params(axis="x", nbins=4, integer=True)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(labelsize=9)
        axes.set_xlabel("records")
        axes.set_title(f"{document['arm']}: kept (blue), dropped (orange)", fontsize=11, loc="left")
    for path, content in ((svg, drawing.figure.paper_svg), (png, drawing.figure.png)):
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)


def _draw_stage(axes: Any, place: int, stage: dict[str, Any]) -> None:
    kept, lost = stage["records_out"], stage["rejected"]
    axes.barh([place], [kept], height=0.72, color=_KEPT, lw=0)
    axes.barh([place], [lost], left=[kept], height=0.72, color=_LOST, lw=0)
    share = lost / stage["records_in"] if stage["records_in"] else 0.0
    text = f" {kept:,}" + (f"  (−{lost:,}, {share:.1%})" if lost else "")
    axes.text(kept + lost, place, text, va="center", fontsize=9, color=INK)


def _name(stage: dict[str, Any]) -> str:
    operator = stage["operator"]
    return operator.replace("_", " ") if operator else stage["stage"]


def _text(document: dict[str, Any]) -> str:
    steps = ", ".join(f"{_name(stage)} {stage['records_out']}" for stage in document["stages"])
    return f"Records of arm {document['arm']} left after each step: {steps}"
