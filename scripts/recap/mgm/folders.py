"""Writing a folder as a whole: it is there with all its files, or as it was before."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import RecapError


@contextmanager
def replaced_folder(target: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; put it in that place on success.

    A folder that is there is moved aside first and deleted last, so that at no
    moment both are gone. What an earlier run left behind is cleared up: if it was
    killed between the two renames, its old folder is put back.

    Args:
        target: where; the caller has made sure that it may be replaced.
    """
    place = Path(target).resolve()
    partial, aside = (place.with_name(f".{place.name}.{end}") for end in ("partial", "replaced"))
    _recover(place, aside)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if place.exists():
            place.rename(aside)
        try:
            partial.rename(place)
        except BaseException:  # Ctrl-C between the two renames among them
            _recover(place, aside)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _recover(place: Path, aside: Path) -> None:
    if aside.exists() and not place.exists():
        aside.rename(place)
    shutil.rmtree(aside, ignore_errors=True)


def refuse_inputs(target: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuse to write where something is read from, or where the shell stands.

    Raises:
        RecapError: if ``target`` is a link, is, holds or lies in one of ``inputs``, or
            is or holds the current folder, which cannot be replaced from within.
    """
    if Path(target).is_symlink():
        raise RecapError(f"{target} is a symbolic link; choose a folder of its own")
    ours = Path(target).resolve()
    for folder in inputs:
        theirs = Path(folder).resolve()
        if ours == theirs or ours in theirs.parents or theirs in ours.parents:
            raise RecapError(
                f"{target} is, holds or lies in the input {folder}; choose another folder"
            )
    here = Path.cwd()
    if ours == here or ours in here.parents:
        raise RecapError(
            f"{target} is or holds the current folder, which cannot be replaced from within; name "
            "a folder below it, or start from another one"
        )
    if Path(target).exists() and not ours.is_dir():
        raise RecapError(f"{target} is a file; choose another folder")
