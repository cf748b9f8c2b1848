"""Independent checks of merged weights, tensor by tensor in float64."""

from collections.abc import Mapping
from typing import Any

import torch

from .merge import AdapterMerger
from .names import HEAD_NAME
from .tensors import TensorSource

# float32 sum of W + s B A: one rounding for the product's accumulation, one for the sum
_FLOAT32_EPS = torch.finfo(torch.float32).eps


def execution_rank(name: str) -> tuple[Any, ...]:
    """Return a key that sorts tensors in the order a forward pass first uses them."""
    order = (
        "model.vision_tower.",
        "model.vision_tower_aux.",
        "model.vlm_uni_",
        "model.mm_projector.",
        "model.embed_tokens.",
        "model.layers.",
        "model.norm.",
    )
    group = next((i for i, prefix in enumerate(order) if name.startswith(prefix)), len(order))
    numbers = tuple(int(part) if part.isdigit() else -1 for part in name.split("."))
    inner = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
    place = next((i for i, word in enumerate(inner) if word in name), -1)
    return (group, numbers, place, name)


def compare_weights(
    merger: AdapterMerger, merged: Mapping[str, TensorSource]
) -> list[dict[str, Any]]:
    """Return the tensors of a merged checkpoint that are not what base and adapter say.

    A tensor without adapter must equal the rounded original bit for bit. A
    merged one may differ from ``W + s B A``, computed in float64, by half a
    rounding step of the type, plus what a float32 sum can lose.

    Args:
        merger: base, adapter and type.
        merged: the checkpoint's tensors.

    Returns:
        One entry ``{"module", "reason"}`` a wrong tensor, in the order of execution.
    """
    wrong = []
    sources = {
        name: source for name, source in merger.base.items() if name in merged or name != HEAD_NAME
    }
    names = set(sources) | {f"model.{name}" for name in merger.projector}
    for name in sorted(names, key=execution_rank):
        if name not in merged:
            wrong.append({"module": name, "reason": "missing from the merged checkpoint"})
            continue
        found = merged[name].load()
        base = sources[name].load() if name in sources else merger.projector[name[len("model.") :]]
        reason = _difference(merger, name, base, found)
        if reason is not None:
            wrong.append({"module": name.removesuffix(".weight"), "reason": reason})
    return wrong


def _difference(
    merger: AdapterMerger, name: str, base: torch.Tensor, found: torch.Tensor
) -> str | None:
    if found.dtype != merger.dtype or found.shape != base.shape:
        return f"is {found.dtype} {tuple(found.shape)}, expected {merger.dtype} {tuple(base.shape)}"
    factors = merger.factors(name)
    if factors is None:
        if torch.equal(found, base.to(merger.dtype)):
            return None
        return f"differs from the original by {float((found - base).abs().max()):.3g}"
    a, b = (factor.double() for factor in factors)
    exact = base.double() + merger.scale * (b @ a)
    magnitude = base.double().abs() + abs(merger.scale) * (b.abs() @ a.abs())
    half_step = 0.5 * torch.finfo(merger.dtype).eps * exact.abs()
    smallest = torch.finfo(merger.dtype).smallest_normal * torch.finfo(merger.dtype).eps
    allowed = 1.01 * half_step + a.shape[0] * _FLOAT32_EPS * magnitude + smallest
    excess = ((found.double() - exact).abs() / allowed).max()
    if bool(excess <= 1):
        return None
    return f"is {float(excess):.3g} times the rounding step away from W + (alpha / r) B A"
