"""What every kind of source offers: a listing, and the files themselves."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from .lock import Expected


class SourceError(Exception):
    """A source cannot give what is wanted; another one may."""


class Provider(Protocol):
    """One source, opened."""

    def listing(self, patterns: Iterable[str], locked: Iterable[str]) -> dict[str, Expected]:
        """Return the files it has, with size and hash where it knows them.

        Args:
            patterns: the files wanted, for a source that cannot list its own.
            locked: names of the lock sheet, for the same.
        """

    def provide(self, names: Iterable[str], folder: Path) -> None:
        """Bring files into a folder, going on with what an earlier attempt left there."""
