"""Writing the lock sheets: what a row's files are now, to be trusted from then on."""

import fnmatch
import logging
from collections.abc import Mapping
from pathlib import Path

from ..errors import RecapError
from ..io import read_json
from .hub import HubRepository
from .lock import Expected, update_lock
from .provider import SourceError
from .request import FetchRequest, Part, parse_source

logger = logging.getLogger(__name__)


def lock_items(requests: Mapping[str, FetchRequest], root: str | Path, sheet: str | Path) -> None:
    """Write sizes and hashes of whole models or data sets into a lock sheet.

    They come from the manifest of what was fetched; for what was not, from ModelScope's
    listing, which states every file's SHA-256, so that nothing need be downloaded.

    Args:
        requests: what to lock, by name.
        root: folder below which fetched folders lie.
        sheet: the lock sheet.

    Raises:
        RecapError: if neither is to be had; nothing is written then.
    """
    rows: dict[str, dict[str, Expected]] = {}
    for name, request in requests.items():
        manifest = Path(root) / name / "manifest.json"
        fetched = read_json(manifest)["details"]["parts"] if manifest.is_file() else {}
        for part in request.parts:
            rows[part.name] = _from_manifest(fetched.get(part.name)) or _from_hub(part)
    update_lock(sheet, rows)
    for row, files in rows.items():
        logger.info("%s: %d files locked in %s", row, len(files), sheet)


def _from_manifest(record: dict[str, dict[str, dict[str, str]]] | None) -> dict[str, Expected]:
    files = record["files"] if record else {}
    return {name: Expected(int(f["bytes"]), str(f["sha256"])) for name, f in files.items()}


def _from_hub(part: Part) -> dict[str, Expected]:
    reasons = []
    for source in map(parse_source, part.sources):
        if not source.scheme.startswith("modelscope"):
            continue
        try:
            listing = HubRepository(source).listing(part.files, ())
        except SourceError as error:
            reasons.append(f"{source}: {error}")
            continue
        files = {
            name: entry
            for name, entry in listing.items()
            if not part.files or any(fnmatch.fnmatch(name, p) for p in part.files)
        }
        if all(None not in (entry.size, entry.sha256) for entry in files.values()):
            return files
        reasons.append(f"{source}: the hub states no hash for some files")
    raise RecapError(
        f"{part.name} cannot be locked before it is fetched, since no hub states its hashes"
        + "".join(f"; {reason}" for reason in reasons)
        + ": fetch it once (docs/data.md), look at it, then lock it"
    )
