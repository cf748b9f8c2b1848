"""The manifest beside every result: what it was made from, by what, how much.

Everything outside ``volatile`` is a function of inputs, settings and code, so
two manifests of the same work are equal there. Manifests that are inputs of
rules themselves, those of models and data brought in, have no such part: the
same files, fetched again, are the same bytes to Snakemake.
"""

import platform
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from .hashing import sha256_file
from .io import read_json, write_json
from .versions import STAGE_VERSIONS


@cache
def code_state() -> dict[str, Any]:
    """Return the commit this code is at, and whether the tree has local edits."""
    root = Path(__file__).resolve().parents[2]
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": "unknown", "dirty": None}
    return {"git_commit": commit, "dirty": dirty}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def describe_files(
    files: Mapping[str, str | Path], root: str | Path | None = None
) -> dict[str, dict[str, Any]]:
    """Return path (relative to ``root`` if given), bytes and SHA-256 of each named file."""
    return {
        name: {
            "path": str(Path(path).relative_to(root) if root else path),
            "bytes": Path(path).stat().st_size,
            "sha256": sha256_file(path),
        }
        for name, path in files.items()
    }


def write_manifest(
    path: str | Path,
    *,
    stage: str,
    inputs: Mapping[str, str | Path],
    outputs: Mapping[str, str | Path],
    settings: Mapping[str, Any],
    counts: Mapping[str, int],
    started: float | None,
    seed: int | None = None,
    details: Mapping[str, Any] | None = None,
    root: str | Path | None = None,
) -> None:
    """Write a manifest.

    Args:
        path: where; by custom ``manifest.json`` in the result's folder, or
            ``<result>.manifest.json``.
        stage: a key of ``STAGE_VERSIONS``.
        inputs: name to file; hashed.
        outputs: name to file; hashed, so write them first.
        settings: the resolved settings the result depends on.
        counts: how many records, tensors, questions went in and came out.
        started: ``time.time()`` when the work began; none leaves ``volatile`` out.
        seed: the random seed, where one was used.
        details: further facts, for instance model fingerprints.
        root: folder that the outputs' paths are written relative to, for a result
            that is moved as a whole; by default paths are as given.
    """
    document = {
        "stage": stage,
        "stage_version": STAGE_VERSIONS[stage],
        "seed": seed,
        "settings": dict(settings),
        "counts": dict(counts),
        "inputs": describe_files(inputs),
        "outputs": describe_files(outputs, root),
        "details": dict(details or {}),
    }
    if started is not None:
        document["volatile"] = {
            **code_state(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_seconds": round(time.time() - started, 3),
            "host": platform.node(),
            "python": platform.python_version(),
        }
    write_json(path, document)


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read a manifest written by :func:`write_manifest`."""
    document: dict[str, Any] = read_json(path)
    return document
