"""MkDocs hooks: what pages link to outside ``docs/`` is part of the site, at a place of its own.

So one link serves the repository and the site. The configuration reference has a place in the
navigation; other pages and files are below ``repository/``, as they are in the repository.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")
_PLACES = {"config/README.md": "configuration.md"}
_SOURCES = {place: source for source, place in _PLACES.items()}


def on_files(files: Files, config: Any) -> Files:
    """Add what is linked outside ``docs/``, and what that links to."""
    waiting = [_source(file.src_uri) for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        source = waiting.pop()
        content = (ROOT / source).read_bytes()
        if not source.startswith("docs/"):
            files.append(File.generated(config, _place(source), content=content))
        if source.endswith(".md"):
            linked = set(_linked(source, content.decode())) - seen
            seen |= linked
            waiting += sorted(target for target in linked if not target.startswith("docs/"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between their places on the site."""
    source = _source(page.file.src_uri)

    def replace(match: re.Match[str]) -> str:
        opening, link, closing = match.groups()
        target = _target(source, link)
        if not (ROOT / target).is_file():
            return match.group()  # MkDocs says that it leads nowhere
        here = posixpath.dirname(page.file.src_uri) or "."
        return f"{opening}{posixpath.relpath(_place(target), here)}{closing}"

    return _LINK.sub(replace, markdown)


def _linked(source: str, text: str) -> list[str]:
    targets = [_target(source, link) for _, link, _ in _LINK.findall(text)]
    return [target for target in targets if (ROOT / target).is_file()]


def _target(source: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _place(source: str) -> str:
    """Return where a file of the repository is on the site."""
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    return _PLACES.get(source, f"repository/{source}")


def _source(place: str) -> str:
    """Return which file of the repository is at this place of the site."""
    if place in _SOURCES:
        return _SOURCES[place]
    return place.removeprefix("repository/") if place.startswith("repository/") else f"docs/{place}"
