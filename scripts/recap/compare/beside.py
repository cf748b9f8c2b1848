"""The page's figures and tables as files of their own, for papers and spreadsheets."""

import base64
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from ..io import atomic_path
from .canvas import Figure


class _Downloads(HTMLParser):
    """Collects the files that the page's links hold, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        link = dict(attrs)
        name, uri = link.get("download"), link.get("href") or ""
        if tag == "a" and name and uri.startswith("data:"):
            self.files[name] = base64.b64decode(uri.partition(",")[2])


def write_tables(page: str, folder: Path) -> list[str]:
    """Write every table that the page offers as CSV; return the files' names."""
    downloads = _Downloads()
    downloads.feed(page)
    files = {name: data for name, data in downloads.files.items() if name.endswith(".csv")}
    return _write_all(files, folder)


def write_figures(context: Any, folder: Path) -> list[str]:
    """Write every figure of the page as SVG and as PNG; return the files' names.

    Args:
        context: what the templates were given: mappings and lists that hold figures.
        folder: where; files of an earlier page are removed.
    """
    files: dict[str, bytes] = {}
    for figure in find_figures(context):
        files[f"{figure.name}.svg"] = figure.paper_svg
        files[f"{figure.name}.png"] = figure.png
    return _write_all(files, folder)


def find_figures(value: Any) -> list[Figure]:
    """Return the figures in nested mappings and lists, in order."""
    if isinstance(value, Figure):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [figure for item in value for figure in find_figures(item)]
    return []


def _write_all(files: dict[str, bytes], folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.suffix in (".csv", ".svg", ".png"):
            old.unlink()
    for name, data in files.items():
        with atomic_path(folder / Path(name).name) as temporary:
            temporary.write_bytes(data)
    return sorted(files)
