"""Where do two models begin to differ?"""

from collections.abc import Callable
from typing import Any

import torch

from .modeling import MGMForCausalLM
from .names import to_disk_name


def record_outputs(
    model: MGMForCausalLM, run: Callable[[MGMForCausalLM], Any]
) -> dict[str, torch.Tensor]:
    """Return the first output of every module that has weights, in the order they finish."""
    outputs: dict[str, torch.Tensor] = {}
    handles = []

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if isinstance(value, torch.Tensor) and name not in outputs:
                outputs[name] = value.detach().float().cpu()

        return hook

    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            handles.append(module.register_forward_hook(keep(to_disk_name(name))))
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def first_divergence(
    ours: MGMForCausalLM,
    theirs: MGMForCausalLM,
    run: Callable[[MGMForCausalLM], Any],
    tolerance: float,
) -> str | None:
    """Return the first module, in order of execution, whose outputs differ.

    Args:
        ours: one model.
        theirs: a model of the same structure.
        run: what to do with each.
        tolerance: largest difference, as a share of the module's largest output.
    """
    expected = record_outputs(theirs, run)
    found = record_outputs(ours, run)
    for name, value in expected.items():
        other = found.get(name)
        if other is None or other.shape != value.shape:
            return name
        scale = value.abs().max().clamp(min=1e-30)
        if not bool((other - value).abs().max() <= tolerance * scale):
            return name
    return None
