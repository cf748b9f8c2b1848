"""Bringing models and data in: from ModelScope, or from a folder filled by hand."""

import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import RecapError
from .hashing import sha256_file
from .io import atomic_path
from .manifest import write_manifest

logger = logging.getLogger(__name__)

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


def fetch_model(model_id: str, revision: str, out: str | Path) -> None:
    """Fetch a snapshot with ``modelscope`` and write the manifest last.

    Files already complete are kept, so an interrupted download goes on. With
    ``MODELSCOPE_OFFLINE=1`` only ModelScope's local cache is read.

    Raises:
        RecapError: if the snapshot cannot be had.
    """
    from modelscope import snapshot_download

    _clear_other_snapshot(Path(out), f"{model_id}@{revision}\n")
    offline = os.environ.get("MODELSCOPE_OFFLINE") == "1"
    problem: object = "no such snapshot in the local cache"
    try:
        snapshot_download(model_id, revision=revision, local_dir=str(out), local_files_only=offline)
        complete = any(Path(out).glob("*config.json"))
    except Exception as error:  # modelscope raises many unrelated types
        complete, problem = False, error
    if not complete:
        raise RecapError(
            f"cannot fetch {model_id} at {revision} from ModelScope ({problem}); on a machine "
            "without network, copy the folder here and set the row's source to `local`"
        )
    describe_model(
        out,
        Path(out) / MANIFEST,
        details={"source": "modelscope", "model_id": model_id, "revision": revision},
    )


def _clear_other_snapshot(folder: Path, wanted: str) -> None:
    """Empty a folder that holds another model or revision, so that files never mix."""
    marker = folder / ".snapshot"
    if marker.is_file() and marker.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.write_text(wanted, encoding="utf-8")


def describe_model(folder: str | Path, manifest: str | Path, details: Mapping[str, Any]) -> None:
    """Write a manifest with the SHA-256 of every file of a model folder.

    Raises:
        RecapError: if the folder holds no ``config.json`` or no weights.
    """
    started = time.time()
    root = Path(folder)
    files = {str(path.relative_to(root)): path for path in model_files(root)}
    if not any(name.endswith(("config.json",)) for name in files):
        raise RecapError(f"{root} holds no config.json; is it a model folder?")
    if not any(name.endswith((".safetensors", ".bin")) for name in files):
        raise RecapError(f"{root} holds no .safetensors or .bin weights")
    write_manifest(
        manifest,
        stage="models",
        inputs={},
        outputs=files,
        settings={},
        counts={"files": len(files)},
        started=started,
        details=details,
    )


def import_file(data_root: str | Path, path: str, out: str | Path) -> None:
    """Copy a file that was placed by hand into the pipeline's own folder.

    Raises:
        RecapError: if it is not there, saying where to place it.
    """
    source = Path(data_root) / path
    if not source.is_file():
        raise RecapError(
            f"{source} does not exist. This file cannot be downloaded automatically: place it "
            "there (docs/data.md says where it comes from), or set `data_root` to its folder"
        )
    with atomic_path(out) as temporary:
        shutil.copyfile(source, temporary)
    logger.info("%s: %d bytes, sha256 %s", path, Path(out).stat().st_size, sha256_file(out))
