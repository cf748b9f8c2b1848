"""Files that are here already: describing a model folder, copying a file placed by hand."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import atomic_path
from ..manifest import write_manifest
from .lock import compare, read_lock, report_unlocked

MANIFEST = "manifest.json"


def model_files(folder: str | Path) -> list[Path]:
    """Return the files a model consists of, sorted: no hidden file, manifest or ``.md`` page."""
    return sorted(
        path
        for path in Path(folder).rglob("*")
        if path.is_file()
        and path.name != MANIFEST
        and path.suffix != ".md"
        and not path.name.startswith(".")
    )


def require_model(folder: str | Path, files: Iterable[str]) -> None:
    """Make sure that a folder's files can be a model.

    Raises:
        RecapError: if there is no ``config.json`` or no weights among them.
    """
    names = list(files)
    if not any(name.endswith("config.json") for name in names):
        raise RecapError(f"{folder} holds no config.json; is it a model folder?")
    if not any(name.endswith((".safetensors", ".bin")) for name in names):
        raise RecapError(f"{folder} holds no .safetensors or .bin weights")


def describe_model(
    folder: str | Path, manifest: str | Path, name: str, lock_sheet: str | Path | None
) -> None:
    """Write a manifest with the SHA-256 of every file of a model folder.

    Args:
        folder: where the model is.
        manifest: the manifest to write.
        name: the model's row.
        lock_sheet: what its files must be; none for a model that is part of the code, whose
            files the commit pins.

    Raises:
        RecapError: if it is no model folder, or a file is not what the lock sheet says.
    """
    root = Path(folder)
    files = {str(path.relative_to(root)): path for path in model_files(root)}
    require_model(root, files)
    details: dict[str, Any] = {"source": "code" if lock_sheet is None else f"path:{folder}"}
    if lock_sheet is not None:
        details |= _verify(name, files, lock_sheet)
    write_manifest(
        manifest,
        stage="models",
        inputs={},
        outputs=files,
        settings={},
        counts={"files": len(files)},
        started=None,
        details=details,
    )


def _verify(row: str, files: Mapping[str, Path], lock_sheet: str | Path) -> dict[str, Any]:
    """Compare files with their lines of a lock sheet; return what a manifest says about it."""
    locked = read_lock(lock_sheet).get(row, {})
    for name, expected in locked.items():
        problem = compare(files.get(name, Path(name)), expected)[1]
        if problem:
            raise RecapError(
                f"{row}: {name} {problem}; put the right file there, or lock the row anew"
            )
    unverified = sorted(set(files) - set(locked))
    report_unlocked(row, unverified, lock_sheet)
    return {"verified": not unverified, "unverified": unverified}


def import_file(
    folder: str | Path,
    path: str,
    out: str | Path,
    manifest: str | Path,
    lock_sheet: str | Path | None,
) -> None:
    """Copy a file that was placed by hand, or fetched, into the pipeline's own folder.

    Args:
        folder: folder of what is placed by hand, or of what was fetched.
        path: the file, relative to it; its first folder is its row of the lock sheet.
        out: where the pipeline reads it.
        manifest: the manifest to write.
        lock_sheet: what the file must be; none if fetching it has verified that.

    Raises:
        RecapError: if it is not there, saying where to place it, or is not what it must be.
    """
    source = Path(folder) / path
    if not source.is_file():
        raise RecapError(
            f"{source} does not exist. This file cannot be downloaded automatically: place it "
            "there (docs/data.md says where it comes from), or set `data_root` to its folder"
        )
    row, _, name = path.partition("/")
    details: dict[str, Any] = {"source": str(source)}
    if lock_sheet is not None:
        details |= _verify_one(row, name, source, lock_sheet)
    with atomic_path(out) as temporary:
        shutil.copyfile(source, temporary)
    write_manifest(
        manifest,
        stage="models",
        inputs={},
        outputs={name: out},
        settings={},
        counts={"files": 1},
        started=None,
        details=details,
    )


def _verify_one(row: str, name: str, path: Path, lock_sheet: str | Path) -> dict[str, Any]:
    expected = read_lock(lock_sheet).get(row, {}).get(name)
    if expected is None:
        report_unlocked(row, [name], lock_sheet)
        return {"verified": False, "unverified": [name]}
    problem = compare(path, expected)[1]
    if problem:
        raise RecapError(f"{path} {problem}; put the right file there, or lock the row anew")
    return {"verified": True, "unverified": []}
