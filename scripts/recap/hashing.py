"""Content hashes of files, JSON values and tensors."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_CHUNK = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of key order."""
    return sha256_bytes(_canonical(value))


class ListDigest:
    """The :func:`digest_json` of a list whose elements come one at a time."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256(b"[")
        self._separator = b""

    def add(self, value: Any) -> None:
        """Append an element."""
        self._digest.update(self._separator + _canonical(value))
        self._separator = b","

    def hexdigest(self) -> str:
        """Return the digest of the list so far."""
        closed = self._digest.copy()
        closed.update(b"]")
        return closed.hexdigest()


def _canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8")


def digest_tensors(tensors: "Mapping[str, torch.Tensor]") -> str:
    """Return one SHA-256 over names, dtypes, shapes and bytes, in name order."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def derived_seed(seed: int, *names: str | int) -> int:
    """Return a seed of its own for every use, whatever the order of the uses."""
    text = "\x1f".join(map(str, (seed, *names)))
    return int(sha256_bytes(text.encode())[:15], 16)


def stable_fraction(*parts: str | int) -> float:
    """Return a uniform number in [0, 1) that depends only on ``parts``.

    Used for choices that must be the same whatever the order, the shard count
    or the Python version: sampling by record id, or a question per id.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") / 2**64
