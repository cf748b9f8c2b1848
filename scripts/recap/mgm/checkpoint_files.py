"""The tensors of a full checkpoint: opened, freed of what is redundant, and checked."""

from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import RecapError
from . import tensors as files
from .configuration import MGMConfig
from .names import HEAD_NAME, compare_names, expected_shapes

EMBEDDING_NAME = "model.embed_tokens.weight"
# older files hold them; both follow from the configuration
_BUFFERS = ("rotary_emb.inv_freq", "embeddings.position_ids")


def open_checkpoint(folder: str | Path, config: MGMConfig) -> dict[str, files.TensorSource]:
    """Return the tensors of a full checkpoint that ``config`` asks for, read lazily.

    Left out are rotary frequencies and position ids, and a stored head that
    equals the embedding it is tied to.

    Raises:
        RecapError: if a file is broken, a tensor is missing, surplus, empty or of
            another shape, or a stored head differs from the embedding.
    """
    sources = {
        name: source
        for name, source in files.open_model_folder(folder).items()
        if not name.endswith(_BUFFERS)
    }
    files.require_filled(folder, sources)
    if config.text_config.tie_word_embeddings and HEAD_NAME in sources:
        _require_equal_head(folder, sources)
        del sources[HEAD_NAME]
    check_sources(folder, sources, expected_shapes(config))
    return dict(sorted(sources.items()))


def _require_equal_head(folder: str | Path, sources: Mapping[str, files.TensorSource]) -> None:
    embedding = sources.get(EMBEDDING_NAME)
    if embedding is not None and torch.equal(embedding.load(), sources[HEAD_NAME].load()):
        return
    raise RecapError(
        f"{folder}: {HEAD_NAME} differs from {EMBEDDING_NAME}, although the configuration ties "
        "them; remove the head from the file if it is a stale copy, or set tie_word_embeddings "
        "to false if it was trained"
    )


def check_sources(
    where: str | Path,
    sources: Mapping[str, files.TensorSource],
    wanted: Mapping[str, tuple[int, ...]],
) -> None:
    """Compare names and shapes with what a model needs.

    Raises:
        RecapError: naming the first differences.
    """
    difference = compare_names(sources, wanted)
    if difference:
        raise RecapError(
            f"{where}: tensors do not match the configuration: {difference}; copy config.json "
            "and weights of one save"
        )
    for name, shape in wanted.items():
        if sources[name].shape != shape:
            advice = "copy config.json and weights of one save"
            if name in (EMBEDDING_NAME, HEAD_NAME):
                advice = "vocab_size, tokenizer and weights must come from one model"
            raise RecapError(
                f"{where}: {name} has shape {sources[name].shape}, but the configuration asks "
                f"for {shape}; {advice}"
            )


def load_finite(where: str | Path, name: str, source: files.TensorSource) -> torch.Tensor:
    """Return a tensor.

    Raises:
        RecapError: if it holds NaN or infinite values.
    """
    tensor = source.load()
    if not files.is_finite(tensor):
        raise RecapError(
            f"{where}: {name} holds NaN or infinite values; the file is damaged or training "
            "diverged: copy it again, or take an earlier checkpoint"
        )
    return tensor


def require_range(
    where: str | Path, name: str, rounded: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Return a tensor that was finite before it was rounded to ``dtype``.

    Raises:
        RecapError: if it no longer is.
    """
    if not files.is_finite(rounded):
        raise RecapError(
            f"{where}: {name} has values beyond {torch.finfo(dtype).max:g}, the largest that "
            f"{files.dtype_name(dtype)} holds; use bfloat16, which reaches as far as float32"
        )
    return rounded


def cast_finite(
    where: str | Path, name: str, source: files.TensorSource, dtype: torch.dtype
) -> torch.Tensor:
    """Return a tensor in another type.

    Raises:
        RecapError: if it is not finite, before or after.
    """
    return require_range(where, name, load_finite(where, name, source).to(dtype), dtype)
