"""Fetching a model or a data set as a whole: under its final name it is complete, or not there.

Everything is downloaded into a hidden folder beside the target, ``.<name>.download``, which
stays when the process is killed, so that the next attempt goes on. The target appears by a
rename when every file is there and verified.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import digest_json
from ..io import read_json, write_json
from ..manifest import write_manifest
from ..mgm.folders import replaced_folder
from .collect import MIRROR_OF, FetchOptions, collect
from .files import MANIFEST, model_files, require_model
from .lock import Expected, compare, report_unlocked
from .request import FetchRequest, Part, parse_source

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def fetch_item(request: FetchRequest, out: str | Path, options: FetchOptions) -> None:
    """Fetch all parts of a request into a folder, with a manifest.

    A folder that holds the same request's files already is verified again instead.

    Raises:
        RecapError: if a part cannot be had, or a model's files are not a model's.
    """
    place = Path(out)
    with _staging(place) as staging:
        records = _kept(request, place, options)
        if records is not None:
            _write_manifest(request, place, records)
            return
        records = {part.name: _ensure(part, staging, options) for part in request.parts}
        whole = staging / "whole"
        if request.kind == "model":
            require_model(request.name, [path.name for path in model_files(whole)])
        _write_manifest(request, whole, records)
        # Before the rename: killed in between, the next run finds both halves.
        write_json(_record_path(place), {"request": _key(request), "parts": records})
        with replaced_folder(place) as partial:
            partial.rmdir()
            whole.rename(partial)
        shutil.rmtree(staging)


@contextmanager
def _staging(place: Path) -> Iterator[Path]:
    """Yield the hidden folder of downloads beside a target, which no other process may use."""
    staging = place.with_name(f".{place.name}.download")
    staging.mkdir(parents=True, exist_ok=True)
    handle = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield staging
    except BlockingIOError as error:
        raise RecapError(
            f"another process is fetching {place}; wait for it, or end it, then run this again"
        ) from error
    finally:
        os.close(handle)
        if staging.is_dir() and not any(staging.iterdir()):
            staging.rmdir()


def _ensure(part: Part, staging: Path, options: FetchOptions) -> Record:
    """Put one part into the folder being filled, unless an earlier attempt did."""
    remembered = staging / "records" / f"{part.name}.json"
    target = staging / "whole" / part.target
    if remembered.is_file() and target.exists():
        record: Record = read_json(remembered)
        if record.pop("part") == _part_key(part, options):
            return record
    shutil.rmtree(target, ignore_errors=True)
    target.unlink(missing_ok=True)
    parts = staging / "parts" / part.name
    collected = collect(part, parts, options)
    target.parent.mkdir(parents=True, exist_ok=True)
    collected.payload.rename(target)
    record = {"source": collected.source, "files": collected.files}
    if collected.unpacked_files is not None:
        record["unpacked_files"] = collected.unpacked_files
    write_json(remembered, {"part": _part_key(part, options), **record})
    shutil.rmtree(parts)
    return record


def _part_key(part: Part, options: FetchOptions) -> str:
    locked = options.lock.get(part.name, {})
    return digest_json([part.model_dump(), {n: [e.size, e.sha256] for n, e in locked.items()}])


def _key(request: FetchRequest, *, sources: bool = False) -> str:
    parts = [part.model_dump(exclude=None if sources else {"sources"}) for part in request.parts]
    return digest_json([request.name, request.kind, parts])


def _record_path(place: Path) -> Path:
    return place.with_name(f".{place.name}.fetched.json")


def _kept(request: FetchRequest, place: Path, options: FetchOptions) -> dict[str, Record] | None:
    """Return the records of what is there already, if it is whole and what is asked for."""
    if not _record_path(place).is_file():
        return None
    document = read_json(_record_path(place))
    # Records of earlier versions hold the sources in their key as well.
    if document["request"] not in (_key(request), _key(request, sources=True)):
        return None
    parts: dict[str, Record] = document["parts"]
    for part in request.parts:
        problem = _problem(part, place / part.target, parts[part.name], options)
        if problem:
            logger.warning("%s: %s; fetching it again", place, problem)
            return None
    logger.info("%s holds the files already; verified again", place)
    return parts


def _problem(part: Part, target: Path, record: Record, options: FetchOptions) -> str:
    """Return what is wrong with a part that was fetched before; mark what the lock confirms."""
    source = record["source"].removeprefix(MIRROR_OF)
    if source not in {str(parse_source(text)) for text in part.sources}:
        return f"its row names {source} no longer"
    locked = options.lock.get(part.name, {})
    for name, file in record["files"].items():
        entry = locked.get(name)
        if entry is not None and (entry.size, entry.sha256) != (file["bytes"], file["sha256"]):
            return f"{name} is not what {entry.by} lists"
        file["verified"] = entry is not None
    report_unlocked(part.name, set(record["files"]) - set(locked), options.lock_sheet)
    if "unpacked_files" in record:
        count = sum(1 for path in target.rglob("*") if path.is_file())
        if count != record["unpacked_files"]:
            return f"{target} holds {count} files, expected {record['unpacked_files']}"
        return ""
    for name, file in record["files"].items():
        found, problem = compare(target if part.is_file else target / name, Expected())
        if problem or (found.size, found.sha256) != (file["bytes"], file["sha256"]):
            return f"{name} {problem or 'has changed'}"
    return ""


def _write_manifest(request: FetchRequest, folder: Path, records: dict[str, Record]) -> None:
    """Describe a filled folder; ``details.verified`` says whether the lock covers all of it."""
    if request.kind == "model":
        files = {path.relative_to(folder).as_posix(): path for path in model_files(folder)}
    else:
        files = {part.target: folder / part.target for part in request.parts if part.is_file}
    parts = {
        name: {
            **record,
            "unverified": [
                file for file, facts in record["files"].items() if not facts["verified"]
            ],
        }
        for name, record in records.items()
    }
    write_manifest(
        folder / MANIFEST,
        stage="models",
        inputs={},
        outputs=files,
        settings={},
        counts={"files": sum(len(record["files"]) for record in records.values())},
        started=None,
        details={
            "verified": not any(part["unverified"] for part in parts.values()),
            "parts": parts,
        },
        root=folder,
    )
