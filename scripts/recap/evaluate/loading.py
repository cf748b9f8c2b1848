"""Loading what answers questions: a checkpoint, or a base with one adapter or several."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecapError
from ..settings import Dtype

if TYPE_CHECKING:
    from ..mgm.modeling import MGMForCausalLM
    from ..mgm.parts import ModelParts
    from ..mgm.processing import ImagePreprocessor
    from ..mgm.variants import AdapterVariants


@dataclass(frozen=True)
class LoadedModel:
    """A model with what belongs to it.

    Attributes:
        model: in evaluation mode, on its device.
        tokenizer: its own.
        variants: the adapters it can answer with; None for a merged checkpoint.
    """

    model: "MGMForCausalLM"
    tokenizer: Any
    variants: "AdapterVariants | None" = None


def load_merged(checkpoint: Path, dtype: Dtype) -> LoadedModel:
    """Load a full checkpoint onto the GPU if there is one, else onto the CPU.

    Raises:
        RecapError: see :func:`recap.mgm.checkpoint.load_checkpoint`.
    """
    from ..mgm.checkpoint import load_checkpoint

    model, tokenizer = load_checkpoint(checkpoint, dtype=dtype, device=_device())
    return LoadedModel(model.eval(), tokenizer)


def load_adapters(parts: "ModelParts", adapters: Sequence[Path], dtype: Dtype) -> LoadedModel:
    """Load a base with adapters that were trained on it, unmerged.

    Args:
        parts: folders of the base.
        adapters: folders of the adapters, at least one.
        dtype: type to compute in.

    Raises:
        RecapError: if an adapter belongs to another base, or adapters differ in kind or in
            how they were shown pictures.
    """
    import torch

    from ..mgm.adapters import adapter_model_config
    from ..mgm.checkpoint import build_configured, describe_base, load_tokenizer
    from ..mgm.provenance import require_base
    from ..mgm.variants import AdapterVariants

    base = describe_base(parts)
    for folder in adapters:
        require_base(folder, base)
    configs = [adapter_model_config(folder, parts) for folder in adapters]
    for folder, config in zip(adapters, configs, strict=True):
        if config.to_dict() != configs[0].to_dict():
            raise RecapError(
                f"{folder} and {adapters[0]} were trained with other model settings; evaluate "
                "them one after the other"
            )
    model = build_configured(configs[0], parts, dtype=dtype, seed=0)
    variants = AdapterVariants(model, adapters, getattr(torch, dtype))
    variants.to(_device())
    return LoadedModel(model.eval(), load_tokenizer(parts.language_model), variants)


def load_preprocessor(checkpoint: Path, parts: "ModelParts | None") -> "ImagePreprocessor":
    """Return what makes pixels of pictures, for a checkpoint or for adapters of a base.

    Raises:
        RecapError: if its settings cannot be read.
    """
    from ..mgm.processing import ImagePreprocessor

    if parts is None:
        return ImagePreprocessor.from_checkpoint(checkpoint)
    return ImagePreprocessor.from_parts(parts)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
