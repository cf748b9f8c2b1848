"""What answers depend on, as far as it can be known before they are made."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecapError
from ..hashing import digest_json, sha256_file
from ..io import read_json
from ..versions import STAGE_VERSIONS

if TYPE_CHECKING:
    from ..mgm.parts import ModelParts
    from .predict import PredictRequest

_SPEED_ALONE = {"batch_size", "memory_gib", "compile_blocks"}


def identity_of(request: "PredictRequest", pictures: str) -> dict[str, Any]:
    """Return all that an answer depends on.

    Args:
        request: the shard.
        pictures: digest of the pictures it shows; see :meth:`~.images.ImageSource.fingerprint`.

    Returns:
        The parts by name. What is for speed alone is left out: it does not change answers,
        rounding apart, and a shard that ran out of memory shall go on with a smaller batch.
    """
    base = {} if request.parts is None else {"base": _base_fingerprint(request.parts)}
    return base | {
        "checkpoint": checkpoint_fingerprint(request.checkpoint),
        "questions": sha256_file(request.questions),
        "image_root": str(request.image_root) if request.image_root else None,
        "pictures": pictures,
        "protocol": request.protocol.model_dump(),
        "settings": request.settings.model_dump(exclude=_SPEED_ALONE),
        "control": request.control,
        "stage_version": STAGE_VERSIONS["predict"],
    }


@cache
def _base_fingerprint(parts: "ModelParts") -> str:
    from ..mgm.checkpoint import describe_base

    return digest_json(describe_base(parts))


def checkpoint_fingerprint(folder: Path) -> str:
    """Return a digest of a checkpoint's content.

    With a ``manifest.json`` the digests it states are used, after a check of
    the file sizes; without one every file is hashed.

    Raises:
        RecapError: if the folder does not exist, is empty, or disagrees with its manifest.
    """
    if not folder.is_dir():
        raise RecapError(f"checkpoint {folder} is not a folder")
    manifest = folder / "manifest.json"
    if manifest.is_file():
        outputs = read_json(manifest).get("outputs")
        if outputs:
            _check_sizes(folder, outputs)
            return digest_json({name: entry["sha256"] for name, entry in outputs.items()})
    files = sorted(path for path in folder.iterdir() if path.is_file() and path != manifest)
    if not files:
        raise RecapError(f"checkpoint {folder} is empty")
    return digest_json({path.name: sha256_file(path) for path in files})


def _check_sizes(folder: Path, outputs: dict[str, Any]) -> None:
    for entry in outputs.values():
        path = folder / Path(entry["path"]).name
        if path.is_file() and path.stat().st_size != entry["bytes"]:
            raise RecapError(
                f"{path} has {path.stat().st_size} bytes, its manifest says {entry['bytes']}; "
                "the checkpoint was changed or is incomplete"
            )
