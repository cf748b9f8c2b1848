"""What a folder of weights says of its own origin, and whether its tensors are still those.

A manifest lists, under ``details``, the fingerprints of the base and of the
tokenizer (``base``, or ``base_fingerprints`` of a training stage) and under
``tensors`` the type, shape and SHA-256 of each tensor, by file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import read_json
from . import tensors as files
from .digests import describe_tensor
from .reading import read_mapping

MANIFEST = "manifest.json"
# beside an upstream-form config.json, which has no place for what upstream does not know
SECTION_FILE = "recap_config.json"
SECTION_KEY = "recap"
BASE_PARTS = ("language_model", "clip", "convnext", "tokenizer")

TensorTable = dict[str, dict[str, Any]]


def read_section(folder: str | Path) -> dict[str, Any] | None:
    """Return this library's part of a folder's configuration, or None if it has none."""
    config, beside = Path(folder) / "config.json", Path(folder) / SECTION_FILE
    section = read_mapping(config).get(SECTION_KEY) if config.is_file() else None
    if section is None and beside.is_file():
        section = read_json(beside)
    return section if isinstance(section, dict) else None


def read_details(folder: str | Path) -> dict[str, Any]:
    """Return ``details`` of a manifest or of the one in a folder, empty if there is none."""
    path = Path(folder) if Path(folder).is_file() else Path(folder) / MANIFEST
    document = read_json(path) if path.is_file() else {}
    details = document.get("details") if isinstance(document, dict) else None
    return details if isinstance(details, dict) else {}


def describe_origin(folder: str | Path) -> dict[str, Any] | None:
    """Return stage, seed and settings of a folder's manifest, to be carried on, or None.

    A folder that was itself converted or merged keeps what came before it.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return None
    document = read_mapping(path)
    before = read_details(folder).get("origin")
    kept = {key: document.get(key) for key in ("stage", "seed", "settings")}
    kept["stage"] = read_details(folder).get("stage", kept["stage"])
    return kept | ({"origin": before} if before is not None else {})


def recorded_base(folder: str | Path) -> dict[str, str] | None:
    """Return the fingerprints of base and tokenizer that a folder's weights are bound to."""
    details = read_details(folder)
    found = (
        (read_section(folder) or {}).get("base")
        or details.get("base")
        or details.get("base_fingerprints")
    )
    if not isinstance(found, dict):
        return None
    return {name: str(found[name]) for name in BASE_PARTS if name in found} or None


def require_base(folder: str | Path, actual: Mapping[str, str]) -> None:
    """Refuse weights that were trained on another base or tokenizer.

    A folder that does not say what it was trained on is let through: upstream's
    files never do.

    Args:
        folder: of an adapter or a projector, or its manifest.
        actual: fingerprints of the base at hand.

    Raises:
        RecapError: with both fingerprints of each part that differs.
    """
    recorded = recorded_base(folder) or {}
    wrong = [
        f"{name}: trained on {recorded[name]}, given {actual.get(name)}"
        for name in recorded
        if recorded[name] != actual.get(name)
    ]
    if wrong:
        raise RecapError(
            f"{folder} belongs to another base; pass the folders it was trained on. "
            + "; ".join(wrong)
        )


def tensor_table(path: str | Path) -> TensorTable:
    """Return type, shape and hash of each tensor of one file, in name order."""
    sources = files.open_tensor_file(path)
    return {name: describe_tensor(sources[name].load()) for name in sorted(sources)}


def recorded_table(path: str | Path) -> TensorTable | None:
    """Return what the manifest beside a file says of its tensors, or None."""
    tables = read_details(Path(path).parent).get("tensors")
    found = tables.get(Path(path).name) if isinstance(tables, dict) else None
    return found if isinstance(found, dict) else None


def open_trained_file(path: str | Path) -> dict[str, files.TensorSource]:
    """Open an adapter's or projector's file and hold it against its manifest, if it has one.

    Raises:
        RecapError: if the file is broken, a tensor is empty, or one is not the
            tensor that the manifest lists.
    """
    sources = files.open_tensor_file(path)
    files.require_filled(path, sources)
    table = recorded_table(path)
    if table is not None:
        verify_tensors(path, sources, table)
    return sources


def verify_tensors(
    where: str | Path, sources: Mapping[str, files.TensorSource], table: Mapping[str, Any]
) -> None:
    """Compare each tensor's type, shape and bytes with a table.

    Raises:
        RecapError: naming the first tensor that differs.
    """
    for name in sorted(set(table) | set(sources)):
        if name not in sources or name not in table:
            state = "is missing from the file" if name in table else "is not in its manifest"
            raise RecapError(f"{where}: {name} {state}; restore file and manifest of one save")
        found = describe_tensor(sources[name].load())
        wrong = [key for key in found if found[key] != table[name].get(key)]
        if wrong:
            key = wrong[-1]
            raise RecapError(
                f"{where}: {name} has {key} {found[key]}, its manifest says "
                f"{table[name].get(key)}; the file was changed after it was written: restore "
                "it, or write it again"
            )


def verify_checkpoint(folder: str | Path) -> int:
    """Hold every tensor of a full checkpoint against its manifest.

    Returns:
        How many tensors were compared.

    Raises:
        RecapError: if the manifest lists no tensors, or one differs.
    """
    tables = read_details(folder).get("tensors")
    if not isinstance(tables, dict) or not tables:
        raise RecapError(
            f"{Path(folder) / MANIFEST} lists no tensors, so nothing can be verified; convert or "
            "merge again to get a manifest that does"
        )
    flat = {name: entry for table in tables.values() for name, entry in table.items()}
    verify_tensors(folder, files.open_model_folder(folder), flat)
    return len(flat)


def by_file(table: Mapping[str, Mapping[str, Any]]) -> dict[str, TensorTable]:
    """Arrange what :func:`recap.mgm.tensors.write_sharded` returns by file, for a manifest."""
    arranged: dict[str, TensorTable] = {}
    for name, entry in table.items():
        rest = {key: value for key, value in entry.items() if key != "file"}
        arranged.setdefault(str(entry["file"]), {})[name] = rest
    return arranged
