"""Building, saving and loading models, projectors and adapters in upstream's files."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import RecapError
from ..io import atomic_path, write_json
from . import tensors as files
from .adapters import (
    load_adapter,
    load_projector,
    projector_state,
    read_projector,
    save_adapter,
    save_projector,
)
from .bases import base_sources, describe_base, open_towers
from .checkpoint_files import cast_finite, check_sources, open_checkpoint
from .configuration import MGMConfig, config_from_disk, config_from_parts, config_to_disk
from .loading import assemble
from .modeling import MGMForCausalLM
from .names import checkpoint_state
from .parts import ModelParts
from .processing import ImagePreprocessor
from .provenance import TensorTable, by_file, verify_checkpoint
from .tokenizer_files import load_tokenizer, require_own_tokenizer, tokenizer_fingerprint
from .upstream import MIN_SHARDS, write_upstream_side_files
from .upstream_rules import UpstreamTowers

__all__ = [
    "base_sources",
    "build_configured",
    "build_model",
    "check_sources",
    "describe_base",
    "load_adapter",
    "load_checkpoint",
    "load_projector",
    "load_tokenizer",
    "open_towers",
    "projector_state",
    "read_projector",
    "require_own_tokenizer",
    "save_adapter",
    "save_checkpoint",
    "save_projector",
    "tokenizer_fingerprint",
    "write_checkpoint_files",
    "write_side_files",
]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


def build_model(
    parts: ModelParts,
    *,
    dtype: str,
    seed: int,
    projector: Path | None = None,
    image_aspect_ratio: str = "square",
    max_length: int = 2048,
    drop_path: float = 0.0,
) -> MGMForCausalLM:
    """Put a model together from its parts.

    Args:
        parts: the folders.
        dtype: type of the language model and the towers. Projector and mining
            stay in float32, so that a file passes through unchanged.
        seed: of a fresh projector.
        projector: file of a trained projector and mining, instead.
        image_aspect_ratio: ``square`` (stage 1) or ``pad`` (stage 2).
        max_length: longest sequence, image tokens included.
        drop_path: stochastic depth of the auxiliary tower in training mode.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        RecapError: if a folder or file is missing, broken or does not fit.
    """
    config = config_from_parts(
        parts,
        image_aspect_ratio=image_aspect_ratio,
        tokenizer_model_max_length=max_length,
        drop_path=drop_path,
    )
    model = build_configured(config, parts, dtype=dtype, seed=seed)
    if projector is not None:
        load_projector(model, projector)
    return model


def build_configured(
    config: MGMConfig, parts: ModelParts, *, dtype: str, seed: int
) -> MGMForCausalLM:
    """Put a model together from its parts under a configuration that is given.

    Args:
        config: the configuration.
        parts: the folders.
        dtype: see :func:`build_model`.
        seed: of a fresh projector.

    Raises:
        RecapError: if a file is missing, broken or does not fit.
    """
    state = {name: source.load() for name, source in base_sources(parts).items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return assemble(config, state, files.torch_dtype(dtype))


def save_checkpoint(
    model: MGMForCausalLM,
    tokenizer: Any,
    out_dir: str | Path,
    *,
    dtype: str,
    max_shard_size: str = "5GB",
) -> None:
    """Write a full checkpoint: sharded safetensors with index, configuration, tokenizer.

    No manifest is written: what the model was made from is known to the caller alone.
    Until one is written beside it, nothing binds the folder: loading it does not compare
    the tokenizer with the one trained with, and ``verify`` refuses it.

    Raises:
        RecapError: if a value is not finite, or not in the type asked for.
    """
    kind, state = files.torch_dtype(dtype), files.as_sources(checkpoint_state(model))
    ready = {name: cast_finite(out_dir, name, source, kind) for name, source in state.items()}
    write_checkpoint_files(
        files.as_sources(ready),
        model.config,
        Path(tokenizer.name_or_path),
        Path(out_dir),
        dtype=dtype,
        max_shard_size=max_shard_size,
    )


def write_checkpoint_files(
    sources: Mapping[str, files.TensorSource],
    config: Any,
    tokenizer_dir: Path,
    out: Path,
    *,
    dtype: str,
    max_shard_size: str,
    towers: UpstreamTowers | None = None,
) -> dict[str, TensorTable]:
    """Write a full checkpoint without its manifest.

    Args:
        sources: its tensors, in the order they are to be distributed.
        config: its configuration.
        tokenizer_dir: folder whose tokenizer is copied.
        out: where.
        dtype: written as ``torch_dtype``.
        max_shard_size: such as ``5GB``.
        towers: write upstream's form, with these paths of the towers.

    Returns:
        Type, shape and hash of each tensor, by file.
    """
    # first: what cannot be written is refused before any weight is computed
    if towers is None:
        write_side_files(config, tokenizer_dir, out, dtype)
    else:
        write_upstream_side_files(config, tokenizer_dir, out, dtype, towers)
    shards = 1 if towers is None else MIN_SHARDS
    return by_file(files.write_sharded(sources, out, max_shard_size, min_shards=shards))


def write_side_files(config: Any, tokenizer_dir: Path, out: Path, dtype: str) -> None:
    """Write configuration and preprocessor, and copy the tokenizer's files unchanged."""
    write_json(out / "config.json", config_to_disk(config, dtype))
    preprocessor = ImagePreprocessor.from_settings(config.preprocessor)
    write_json(out / "preprocessor_config.json", preprocessor.as_dict())
    names = [name for name in TOKENIZER_FILES if (tokenizer_dir / name).is_file()]
    if not {"tokenizer.json", "tokenizer.model"} & set(names):
        raise RecapError(f"{tokenizer_dir} holds no tokenizer files to copy")
    for name in names:
        with atomic_path(out / name) as temporary:
            shutil.copyfile(tokenizer_dir / name, temporary)


def load_checkpoint(
    path: str | Path,
    *,
    dtype: str,
    device: str = "cpu",
    clip: str | Path | None = None,
    convnext: str | Path | None = None,
    verify: bool = False,
) -> tuple[MGMForCausalLM, Any]:
    """Load a full checkpoint and its tokenizer from one folder.

    Args:
        path: the folder.
        dtype: type to compute in; weights are cast.
        device: where to put the model.
        clip: folder of the CLIP tower, for a checkpoint that upstream wrote.
        convnext: folder of the ConvNeXt tower, for the same.
        verify: whether to hold each tensor against the manifest's hashes first.

    Returns:
        Model in evaluation mode, and tokenizer.

    Raises:
        RecapError: if tensors are missing, surplus, of another shape or not
            finite, a file is broken, or the tokenizer is not the model's.
    """
    config = config_from_disk(path, clip=clip, convnext=convnext)
    sources = open_checkpoint(path, config)
    tokenizer = load_tokenizer(path)
    require_own_tokenizer(path, tokenizer, config.vocab_size)
    if verify:
        verify_checkpoint(path)
    kind = files.torch_dtype(dtype)
    state = {name: cast_finite(path, name, source, kind) for name, source in sources.items()}
    model = assemble(config, state, kind)
    return model.to(device), tokenizer  # type: ignore[arg-type]
