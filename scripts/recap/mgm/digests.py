"""Hashes of tensors: of one, for a manifest, and of a whole model, to tell bases apart."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..hashing import digest_json

if TYPE_CHECKING:
    from .tensors import TensorSource

Visitor = Callable[[str, torch.Tensor], None]


def describe_tensor(tensor: torch.Tensor) -> dict[str, Any]:
    """Return type, shape and the SHA-256 of the bytes (little-endian, row-major)."""
    plain = tensor.detach().cpu().contiguous()
    return {
        "dtype": str(plain.dtype).removeprefix("torch."),
        "shape": list(plain.shape),
        "sha256": hashlib.sha256(plain.flatten().view(torch.uint8).numpy().data).hexdigest(),
    }


def fingerprint(sources: "Mapping[str, TensorSource]", visit: Visitor | None = None) -> str:
    """Return one SHA-256 over names, types, shapes and bytes of all tensors.

    Args:
        sources: the tensors; one is in memory at a time.
        visit: is shown each tensor on the way, so that its values need no second reading.
    """
    digests = {}
    for name in sorted(sources):
        tensor = sources[name].load().detach().cpu().contiguous()
        digest = hashlib.sha256(json.dumps([str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        digests[name] = digest.hexdigest()
        if visit is not None:
            visit(name, tensor)
    return digest_json(digests)
