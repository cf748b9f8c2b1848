"""Where models and data came from, and whether the lock sheets confirm them."""

from typing import Any

from ..manifest import read_manifest
from .inputs import FileInputs


def origin(entry: FileInputs) -> dict[str, Any]:
    """Return a row of the provenance: source, number of files, and what verified them."""
    manifest = read_manifest(entry.manifest)
    details = manifest["details"]
    part = details.get("parts", {}).get(entry.name, details)
    count = len(part["files"]) if "files" in part else manifest["counts"]["files"]
    return {
        "name": entry.name,
        "licence": entry.licence,
        "source": part["source"],
        "files": count,
        "verified": _verdict(part, count),
    }


def _verdict(part: dict[str, Any], count: int) -> str:
    if part["source"] == "code":
        return "part of this code"
    missing = len(part["unverified"])
    if not missing:
        return "by the lock sheet"
    return f"NO: {missing} of {count} files have no line in the lock sheet"
