"""What of a model is trained in a stage, and in which type."""

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import RecapError


def set_trainable(model: Any, stage: str, projectors: Sequence[str]) -> None:
    """Freeze what a stage does not train and hold the rest in float32.

    Args:
        model: an MGM model, changed in place.
        stage: ``pretrain`` or ``finetune``.
        projectors: names of the modules that both stages train.

    Raises:
        RecapError: for another stage.
    """
    if stage not in ("pretrain", "finetune"):
        raise RecapError(f"unknown training stage {stage!r}")
    model.requires_grad_(False)
    for name in projectors:
        getattr(model, name).float().requires_grad_(True)
    if stage == "finetune":
        named = list(model.language_model.named_parameters())
        adapter = [parameter for name, parameter in named if "lora_" in name]
        for parameter in adapter or [parameter for _, parameter in named]:
            parameter.requires_grad_(True)
        for parameter in adapter:
            parameter.data = parameter.data.float()


def connect_unused(model: Any, projectors: Sequence[str]) -> torch.Tensor | float:
    """Return zero, tied to trained vision weights that a text-only batch leaves out."""
    if not (model.training and torch.is_grad_enabled()):
        return 0.0
    modules = (getattr(model, name) for name in projectors)
    weights = [p for module in modules for p in module.parameters() if p.requires_grad]
    if not weights:
        return 0.0
    return torch.stack([weight.flatten()[0] * 0.0 for weight in weights]).sum()
