"""Bringing in one part from the first of its sources that can give it, verified."""

import fnmatch
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import RecapError
from ..hashing import digest_json
from .archive import unpack
from .hub import HubRepository, cached_snapshot
from .lock import Expected, Lock, compare, report_unlocked
from .places import FolderPlace, mirror_place
from .provider import Provider, SourceError
from .request import Part, Source, parse_source
from .web import WebPlace

logger = logging.getLogger(__name__)

MIRROR_OF = "the mirror of "
_ATTEMPTS = 2
_REMOTE = ("modelscope", "modelscope-dataset", "url")


@dataclass(frozen=True)
class FetchOptions:
    """What holds for every part.

    Attributes:
        data_root: folder of data placed by hand.
        lock: sizes and hashes that files must have.
        lock_sheet: where the lock was read, for messages.
        mirror: folder that holds copies of remote sources, looked at before these.
        offline: whether the network is out of bounds.
    """

    data_root: Path
    lock: Lock
    lock_sheet: str
    mirror: Path | None = None
    offline: bool = False


@dataclass(frozen=True)
class Collected:
    """A part's files, complete and verified as far as hashes are known.

    Attributes:
        payload: the file or folder that is wanted.
        source: where it came from.
        files: name of what was fetched to ``bytes``, ``sha256`` and ``verified`` (by the
            lock sheet).
        unpacked_files: how many files an archive held; none if there was none to unpack.
    """

    payload: Path
    source: str
    files: dict[str, dict[str, Any]]
    unpacked_files: int | None = None


def collect(part: Part, staging: Path, options: FetchOptions) -> Collected:
    """Bring a part's files into a folder below ``staging``, trying its sources in turn.

    What an earlier attempt left there is continued.

    Raises:
        RecapError: with the reason why each source failed.
    """
    reasons: list[str] = []
    for name, opened in _providers(part, options):
        folder = staging / digest_json(name)[:12]
        try:
            files = _collect_from(opened(), part, folder, options)
            collected = _finish(part, folder, name, files)
        except SourceError as error:
            reasons.append(f"{name}: {error}")
            logger.warning("%s: not from %s: %s", part.name, name, error)
            continue
        logger.info("%s: %d files from %s", part.name, len(files), name)
        return collected
    listed = "".join(f"\n  - {reason}" for reason in reasons)
    raise RecapError(
        f"cannot fetch {part.name}. Tried in turn:{listed}\n"
        "Place the files where the first line says, or give the row another source; "
        "docs/data.md says how"
    )


def _providers(part: Part, options: FetchOptions) -> Iterator[tuple[str, Callable[[], Provider]]]:
    """Yield name and opener of each place to look at, the mirror before what it mirrors."""
    for source in map(parse_source, part.sources):
        mirror = options.mirror
        if mirror is not None and source.scheme in _REMOTE:
            name = f"{MIRROR_OF}{source}"
            yield name, partial(_open_mirror, mirror, source)
        yield str(source), partial(_open, source, options)


def _open_mirror(mirror: Path, source: Source) -> Provider:
    return FolderPlace(mirror_place(mirror, source), f"{MIRROR_OF}{source}")


def _open(source: Source, options: FetchOptions) -> Provider:
    if source.scheme == "path":
        return FolderPlace(Path(source.location), str(source))
    if source.scheme == "manual":
        return FolderPlace(options.data_root / source.location, str(source))
    if source.scheme == "url":
        if options.offline:
            raise SourceError("offline, and an address needs the network")
        return WebPlace(source.location)
    if options.offline:
        return FolderPlace(cached_snapshot(source), f"ModelScope's cache of {source}")
    return HubRepository(source)


def _collect_from(
    provider: Provider, part: Part, folder: Path, options: FetchOptions
) -> dict[str, dict[str, Any]]:
    """Bring in the files of one source, verified.

    Raises:
        SourceError: if a file is missing or is not what it must be.
    """
    locked = options.lock.get(part.name, {})
    listing = provider.listing(part.files, locked)
    if part.unpack and len(listing) > 1:
        # Unpacked already, so that the archive's hash says nothing about these files.
        locked = {}
    wanted = _wanted(listing, part, locked)
    expected = {name: locked.get(name, listing[name]) for name in wanted}
    found = _provide_verified(provider, part.name, expected, folder)
    _remove_others(folder, set(wanted))
    report_unlocked(part.name, [name for name in wanted if name not in locked], options.lock_sheet)
    return {
        name: {"bytes": file.size, "sha256": file.sha256, "verified": name in locked}
        for name, file in sorted(found.items())
    }


def _finish(part: Part, folder: Path, source: str, files: dict[str, dict[str, Any]]) -> Collected:
    """Unpack what is an archive, and say what of the files is wanted."""
    only = folder / next(iter(files))
    if part.is_file:
        return Collected(only, source, files)
    if not part.unpack or len(files) > 1:
        return Collected(folder, source, files)
    payload = folder.with_name(f"{folder.name}.unpacked")
    shutil.rmtree(payload, ignore_errors=True)
    try:
        return Collected(payload, source, files, unpack(only, payload))
    except RecapError as error:
        shutil.rmtree(folder)
        raise SourceError(str(error)) from error


def _provide_verified(
    provider: Provider, row: str, expected: dict[str, Expected], folder: Path
) -> dict[str, Expected]:
    """Bring files into a folder and measure them; fetch what is wrong once more."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Expected] = {}
    for attempt in range(1, _ATTEMPTS + 1):
        missing = [name for name in expected if name not in found]
        provider.provide(missing, folder)
        problems = []
        for name in missing:
            measured, problem = compare(folder / name, expected[name])
            if problem:
                problems.append(f"{name} {problem}")
                (folder / name).unlink(missing_ok=True)
            else:
                found[name] = measured
        if not problems:
            break
        if attempt == _ATTEMPTS:
            raise SourceError("fetched twice, and " + "; ".join(problems))
        logger.warning("%s: %s; fetching it once more", row, "; ".join(problems))
    return found


def _wanted(listing: dict[str, Expected], part: Part, locked: dict[str, Expected]) -> list[str]:
    """Return the files to fetch, after comparing the listing with the lock sheet."""
    for name, entry in locked.items():
        if name not in listing:
            raise SourceError(f"it lacks {name}, which {entry.by} lists")
        stated = listing[name]
        for what, is_, must in (
            ("bytes", stated.size, entry.size),
            ("sha256", stated.sha256, entry.sha256),
        ):
            if None not in (is_, must) and is_ != must:
                raise SourceError(
                    f"{name} has {what} {is_} by {stated.by}, expected {must} by {entry.by}; the "
                    "revision holds other files now: name the commit you want, or lock it anew"
                )
    for name in listing:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise SourceError(f"it lists {name}, which leaves the folder")
    names = [
        name
        for name in listing
        if name in locked or not part.files or any(fnmatch.fnmatch(name, p) for p in part.files)
    ]
    if not names:
        raise SourceError(f"no file matches {', '.join(part.files)}")
    if part.is_file and len(names) != 1:
        raise SourceError(f"one file is wanted, but there are {len(names)}")
    return names


def _remove_others(folder: Path, wanted: set[str]) -> None:
    """Delete what an earlier attempt left behind and the source no longer has."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
