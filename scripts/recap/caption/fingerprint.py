"""What a caption depends on besides its image: weights, prompt, decoding."""

from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import digest_json, sha256_file
from ..io import read_json, write_json
from ..settings import CaptionSettings
from ..versions import STAGE_VERSIONS
from .memory import resolve_batch_size

_SUFFIXES = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")
_NOT_THE_MODEL = ("manifest.json",)


def describe_captioner(
    model: str | Path, settings: CaptionSettings, cache: str | Path
) -> dict[str, Any]:
    """Return everything that makes one captioner differ from another.

    The batch size is part of it below float32 only: there the size of a batch
    changes the rounding, and with it some captions. What does not bear on a
    caption, such as the sampling of candidates there are none of, is left out.

    Args:
        model: folder of the captioner.
        settings: prompt, decoding and dtype.
        cache: folder that remembers digests of unchanged model files.
    """
    decoding = settings.model_dump(exclude={"batch_size", "memory_gib"})
    if settings.dtype != "float32":
        decoding["batch_size"] = resolve_batch_size(model, settings)
    if settings.candidates == 1:
        for name in ("temperature", "top_k", "seed"):
            del decoding[name]
    return {
        "model_sha256": model_digest(model, cache),
        "decoding": decoding,
        "version": STAGE_VERSIONS["caption"],
    }


def captioner_fingerprint(description: dict[str, Any]) -> str:
    """Return the hexadecimal SHA-256 that names a captioner's part of the store."""
    return digest_json(description)


def model_digest(model: str | Path, cache: str | Path) -> str:
    """Return one SHA-256 over the names and contents of a model folder's files.

    Hashing gigabytes for every shard would take longer than many a shard, so
    the result is kept under ``cache`` for as long as no file changes its size
    or modification time.

    Raises:
        RecapError: if the folder holds no weights.
    """
    folder = Path(model)
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _SUFFIXES and path.is_file() and not path.name.endswith(_NOT_THE_MODEL)
    )
    if not any(path.suffix in (".safetensors", ".bin") for path in files):
        raise RecapError(f"{folder} holds no model weights; fetch the captioner first")
    listing = [
        [path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns]
        for path in files
    ]
    remembered = Path(cache) / f"{digest_json([str(folder.resolve()), listing])}.json"
    if remembered.is_file():
        return str(read_json(remembered)["model_sha256"])
    digests = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
    digest = digest_json(digests)
    write_json(remembered, {"model_sha256": digest, "files": digests})
    return digest
