"""Jinja templates with escaping always on and undefined names refused."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .tables import table
from .verdicts import interval_text, p_text, percent, points

_FOLDER = Path(__file__).parent / "templates"


def environment() -> Environment:
    """Return the environment of the page: every value is escaped for HTML."""
    return _environment(autoescape=True)


def page_script() -> tuple[str, str]:
    """Return the page's script and its hash, the only one its policy lets run."""
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return script, f"sha256-{digest}"


def text_environment() -> Environment:
    """Return the environment of the Markdown files, whose values are numbers and names."""
    return _environment(autoescape=False)


def _environment(*, autoescape: bool) -> Environment:
    result = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=autoescape,  # noqa: S701 (off for Markdown alone)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    result.filters |= {
        "points": points,
        "signed": lambda value: points(value, sign=True),
        "interval": lambda value: "none" if value is None else interval_text(value),
        "plain_interval": lambda value: interval_text(value, sign=False),
        "percent": percent,
        "share": lambda value: f"{100 * value:.1f}%",
        "p": p_text,
        "count": lambda value: f"{value:,}".replace(",", "\u202f"),
        "decimals": lambda value: "–" if value is None else f"{value:.3f}".replace("-", "−"),
        "shown": shown,
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True),
        "hours": hours,
        "energy": energy,
        "clip": clip,
        "plain": plain,
        "breakable": breakable,
        "table": table,
    }
    return result


def shown(value: Any) -> str:
    """Return a value of a table cell; hashes are cut to ten characters."""
    if value is None:
        return "not recorded"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, str) and len(value) == 64:
        return value[:10]
    return str(value)


def plain(value: Any) -> str:
    """Return a protocol's value; switches read yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def breakable(name: str) -> Markup:
    """Return a name, escaped, that may be broken into lines after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def clip(text: str) -> str:
    """Return a text with hashes cut to ten characters."""
    return re.sub(r"\b([0-9a-f]{10})[0-9a-f]{22,}\b", r"\1", text)


def hours(seconds: float) -> str:
    """Return a time as seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def energy(joules: float) -> str:
    """Return an amount of energy in kilojoules or, from a tenth on, in kilowatt hours."""
    if joules < 360_000:
        return f"{joules / 1000:.1f} kJ"
    return f"{joules / 3.6e6:.2f} kWh"
