"""The adapter's forward pass while it is trained, in the type of the activations.

PEFT converts the input of each wrapped layer to the adapter's type. With float32
masters beside bfloat16 activations that keeps a float32 copy, and a dropped-out one,
of every input for the backward pass. Here the small matrices are converted instead:
the same function up to the rounding of products, as in mixed-precision training with
autocast (Micikevicius et al. 2018). Gradients and optimizer stay float32.
"""

from functools import cache
from typing import Any

import torch
from torch.nn import functional


class _LeanForward:
    """Mixed into PEFT's layer classes, before them."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return ``W x + scale * B A dropout(x)``."""
        layer: Any = self
        if not layer.training:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]
        result: torch.Tensor = layer.base_layer(x)
        for name in layer.active_adapters:
            low = functional.linear(layer.lora_dropout[name](x), _as(layer.lora_A[name], x))
            result = (
                result + functional.linear(low, _as(layer.lora_B[name], x)) * (layer.scaling[name])
            )
        return result


def _as(layer: Any, x: torch.Tensor) -> torch.Tensor:
    weight: torch.Tensor = layer.weight
    return weight.to(x.dtype)


@cache
def _lean_class(kind: Any) -> Any:
    return type(f"Lean{kind.__name__}", (_LeanForward, kind), {})


def make_lean(layer: Any) -> None:
    """Let a wrapped layer of PEFT compute in the type of its input while training.

    Variants with a forward pass of their own (DoRA) are left alone.
    """
    if not getattr(layer, "lora_variant", None):
        kind: Any = type(layer)
        layer.__class__ = _lean_class(kind)
