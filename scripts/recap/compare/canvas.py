"""Drawing figures as inline SVG: same bytes for same numbers, light and dark.

Text and axes take the page's text colour: they are drawn in a marker colour
that is replaced by ``currentColor``. No date is written and identifiers are
hashed with a fixed salt, then prefixed so that several figures share a page.
A second copy in fixed colours is what a reader downloads, as SVG or as PNG.
"""

import base64
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

INK, GRID, BAND, FLOOR = "#010203", "#040506", "#070809", "#0a0b0c"
_ON_PAGE = {INK: "currentColor", GRID: "var(--grid)", BAND: "var(--band)", FLOOR: "var(--floor)"}
_ON_PAPER = {INK: "#1d2125", GRID: "#d9dce1", BAND: "#e3e6ea", FLOOR: "#c3c9d1"}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "recap",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}
_POINTS_AN_INCH = 72
_PNG_DPI = 200
_COLORED = (
    *("color", "facecolor", "edgecolor"),
    *("markerfacecolor", "markeredgecolor"),
)


@dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Attributes:
        name: unique on the page; also the name of the downloaded file.
        svg: an SVG element for the page.
        download: the same figure in fixed colours, as a data URI.
        png: the same at 200 dots an inch.
        hover: JSON that the page's script shows values from, or empty.
    """

    name: str
    svg: str
    download: str
    png: bytes = field(repr=False)
    hover: str = ""

    @property
    def paper_svg(self) -> bytes:
        """Return the SVG file of ``download``."""
        return base64.b64decode(self.download.partition(",")[2])


@dataclass
class Canvas:
    """Axes to draw on.

    Attributes:
        axes: of matplotlib.
        name: of the figure.
        description: read to those who cannot see it.
        titles: tooltip of each artist, by the ``gid`` it was drawn with.
        series: lines whose values are shown on hover: ``label``, ``color``, ``x``, ``y``.
        figure: the result, once the drawing is done.
    """

    axes: Any
    name: str
    description: str
    titles: dict[str, str] = field(default_factory=dict)
    series: list[dict[str, Any]] = field(default_factory=list)
    figure: Figure = field(init=False)


@contextmanager
def canvas(width: float, height: float, name: str, description: str) -> Iterator[Canvas]:
    """Yield a canvas of ``width`` x ``height`` inches; fill in its figure at the end."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Drawing

    with mpl.rc_context(_STYLE):
        drawing = Drawing(figsize=(width, height))
        axes = drawing.add_subplot()
        axes.set_axisbelow(True)
        drawing.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        result = Canvas(axes, name, description)
        yield result
        buffer = io.StringIO()
        drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        picture = _png(drawing)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    result.figure = Figure(name, _inline(text, result), _download(text), picture, _hover(result))


def _png(drawing: Any) -> bytes:
    """Return the figure as PNG, marker colours replaced by those for paper."""
    from matplotlib.colors import to_hex

    for artist in drawing.findobj():
        for part in _COLORED:
            value = getattr(artist, f"get_{part}", lambda: None)()
            if value is None or (isinstance(value, str) and value in ("none", "auto")):
                continue
            color = _ON_PAPER.get(to_hex(value)) if _is_one_color(value) else None
            if color is not None:
                getattr(artist, f"set_{part}")(color)
    buffer = io.BytesIO()
    options = {"dpi": _PNG_DPI, "facecolor": "white", "metadata": {"Software": None}}
    drawing.savefig(buffer, format="png", **options)
    return buffer.getvalue()


def _is_one_color(value: Any) -> bool:
    from matplotlib.colors import is_color_like

    return bool(is_color_like(value))


def _recolor(text: str, colors: dict[str, str]) -> str:
    for marker, color in colors.items():
        text = text.replace(marker, color)
    return text


def _inline(text: str, source: Canvas) -> str:
    """Return an SVG element for the page: its own identifiers, colours, descriptions."""
    from markupsafe import escape

    text = _recolor(text, _ON_PAGE)
    for gid, title in source.titles.items():
        text = text.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{escape(title)}</title>')
    text = re.sub(r'\bid="', f'id="{source.name}-', text)
    text = text.replace("url(#", f"url(#{source.name}-")
    text = text.replace('href="#', f'href="#{source.name}-')
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    head = f'<svg role="img" aria-label="{escape(source.description)}"'
    return re.sub(r"^<svg", lambda _: head, text, count=1)


def _download(text: str) -> str:
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    text = re.sub(r"(<svg[^>]*>)", lambda m: m[1] + paper, _recolor(text, _ON_PAPER), count=1)
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode("ascii")


def _hover(source: Canvas) -> str:
    """Return where the axes lie in the SVG, their limits, and the series."""
    if not source.series:
        return ""
    axes = source.axes
    width, height = axes.figure.get_size_inches() * _POINTS_AN_INCH
    box = axes.get_position()
    document = {
        "box": [
            round(v, 2)
            for v in (box.x0 * width, (1 - box.y1) * height, box.x1 * width, (1 - box.y0) * height)
        ],
        "x": _limits(axes.get_xlim()),
        "y": _limits(axes.get_ylim()),
        "label": axes.get_xlabel(),
        "log": axes.get_yscale() == "log",
        "series": source.series,
    }
    return json.dumps(document, separators=(",", ":"))


def _limits(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
