"""Places that hold files already: a mirror, ModelScope's cache, a folder, data put by hand."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from .lock import Expected
from .provider import SourceError
from .request import Source


class FolderPlace:
    """Files in a folder of this machine, or one single file."""

    def __init__(self, place: Path, name: str) -> None:
        """Name a place.

        Args:
            place: the folder or file.
            name: what messages call it.

        Raises:
            SourceError: if it does not exist.
        """
        if not place.exists():
            raise SourceError(f"{place} does not exist")
        self._place = place
        self._name = name

    def __str__(self) -> str:
        return self._name

    def listing(self, patterns: Iterable[str], locked: Iterable[str]) -> dict[str, Expected]:
        """Return the files with their sizes; hidden ones are left out."""
        if self._place.is_file():
            return {self._place.name: Expected(self._place.stat().st_size, by=self._name)}
        files = (path for path in sorted(self._place.rglob("*")) if path.is_file())
        names = {path.relative_to(self._place): path for path in files}
        return {
            name.as_posix(): Expected(path.stat().st_size, by=self._name)
            for name, path in names.items()
            if not any(part.startswith(".") for part in name.parts)
        }

    def provide(self, names: Iterable[str], folder: Path) -> None:
        """Link files into a folder, or copy them where a link is impossible."""
        for name in names:
            origin = self._place if self._place.is_file() else self._place / name
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            _link_or_copy(origin.resolve(), target)


def _link_or_copy(origin: Path, target: Path) -> None:
    try:
        os.link(origin, target)
    except OSError:
        # Another file system, or one without links. A copy cut short must not look whole.
        partial = target.with_name(f"{target.name}.incomplete")
        shutil.copyfile(origin, partial)
        partial.replace(target)


def mirror_place(mirror: Path, source: Source) -> Path:
    """Return where a mirror holds a source.

    ``<mirror>/<namespace>/<name>/<revision>`` or, where only one revision is kept,
    ``<mirror>/<namespace>/<name>``; ``<mirror>/<host>/<path>`` for an address.

    Raises:
        SourceError: if the mirror does not have it.
    """
    if source.scheme == "url":
        parts = urlsplit(source.location)
        place = mirror / parts.netloc / parts.path.strip("/")
        if place.exists():
            return place
        raise SourceError(f"the mirror has no {place}")
    place = mirror / source.location
    if (place / source.revision).is_dir():
        return place / source.revision
    if place.is_dir() and any(path.is_file() for path in place.iterdir()):
        return place
    if place.is_dir():
        there = ", ".join(sorted(path.name for path in place.iterdir())) or "nothing"
        raise SourceError(f"the mirror's {place} has no revision {source.revision}; there: {there}")
    raise SourceError(f"the mirror has no {place}")
