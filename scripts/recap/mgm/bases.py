"""The base a model is put together from: tensors of its three parts, and their fingerprints."""

from collections.abc import Callable
from pathlib import Path

import torch

from . import tensors as files
from .digests import fingerprint
from .names import CLIP_PREFIX, CONVNEXT_PREFIX
from .openclip import open_convnext, weights_file
from .parts import ModelParts
from .tokenizer_files import tokenizer_fingerprint

_CLIP_MODULES = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")


def base_sources(parts: ModelParts) -> dict[str, files.TensorSource]:
    """Return the tensors of all three parts under a full checkpoint's names, read lazily."""
    parts.require()
    # Llama 2's older files hold the rotary frequencies, which follow from the configuration
    sources = {
        name: source
        for name, source in files.open_model_folder(parts.language_model).items()
        if not name.endswith("rotary_emb.inv_freq")
    }
    return sources | open_towers(parts)


def open_towers(parts: ModelParts) -> dict[str, files.TensorSource]:
    """Return the tensors of both towers under a full checkpoint's names, read lazily."""
    sources = {}
    for name, source in files.open_model_folder(parts.clip).items():
        inner = name.removeprefix("clip.").removeprefix("vision_model.")
        if inner.startswith(_CLIP_MODULES) and inner != "embeddings.position_ids":
            sources[CLIP_PREFIX + inner] = source
    aux = open_convnext(parts.convnext)
    return sources | {CONVNEXT_PREFIX + name: source for name, source in aux.items()}


def folder_of(parts: ModelParts, name: str) -> Path:
    """Return the folder that a full checkpoint's tensor comes from, projector left aside."""
    if name.startswith(CLIP_PREFIX):
        return parts.clip
    return parts.convnext if name.startswith(CONVNEXT_PREFIX) else parts.language_model


def describe_base(
    parts: ModelParts, visit: Callable[[str, str, torch.Tensor], None] | None = None
) -> dict[str, str]:
    """Return the fingerprints an adapter is bound to: weights of each part, and tokenizer.

    Args:
        parts: the folders.
        visit: is shown each tensor on the way, with the part's name and its own.
    """
    opened = {
        "language_model": files.open_model_folder(parts.language_model),
        "clip": files.open_model_folder(parts.clip),
        "convnext": files.open_tensor_file(weights_file(parts.convnext)),
    }

    def seen_in(part: str) -> Callable[[str, torch.Tensor], None] | None:
        return None if visit is None else lambda name, tensor: visit(part, name, tensor)

    found = {part: fingerprint(sources, seen_in(part)) for part, sources in opened.items()}
    return found | {"tokenizer": tokenizer_fingerprint(parts.language_model)}
