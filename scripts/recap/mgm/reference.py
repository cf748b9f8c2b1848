"""Independent checks of merged weights, tensor by tensor in float64."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from .lora import Update, row_blocks
from .merger import AdapterMerger
from .names import HEAD_NAME
from .tensors import TensorSource, is_finite

# float32 sum of W + s B A: one rounding for the product's accumulation, one for the sum
_FLOAT32_EPS = torch.finfo(torch.float32).eps
_NORM_STEPS = 64  # a row's norm in float32, the division and the product


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
    merger: AdapterMerger, merged: Mapping[str, TensorSource], *, tied: bool
) -> list[dict[str, Any]]:
    """Return the tensors of a merged checkpoint that are not what base and adapter say.

    A tensor without adapter must equal the rounded original bit for bit. A
    merged one may differ from the updated weight, computed in float64, by half
    a rounding step of the type, plus what float32 sums can lose.

    Args:
        merger: base, adapter and type.
        merged: the checkpoint's tensors.
        tied: whether the head is the embedding, and may be left out.

    Returns:
        One entry ``{"module", "reason", "loadable"}`` a wrong tensor, in the order of
        execution; one that is absent, surplus, of another shape or not finite cannot
        be loaded.
    """
    wrong = []
    sources = {
        name: source
        for name, source in merger.base.items()
        if name in merged or not (tied and name == HEAD_NAME)
    }
    names = set(sources) | {f"model.{name}" for name in merger.projector}
    for name in sorted(names | set(merged), key=execution_rank):
        module = name.removesuffix(".weight")
        if name not in merged or name not in names:
            problem = f"{'surplus in' if name in merged else 'missing from'} the merged checkpoint"
            wrong.append({"module": module, "reason": problem, "loadable": False})
            continue
        found = merged[name].load()
        base = sources[name].load() if name in sources else merger.projector[name[len("model.") :]]
        reason = _difference(merger, name, base, found)
        if reason is not None:
            loadable = found.shape == base.shape and is_finite(found)
            wrong.append({"module": module, "reason": reason, "loadable": loadable})
    return wrong


def _difference(
    merger: AdapterMerger, name: str, base: torch.Tensor, found: torch.Tensor
) -> str | None:
    if found.dtype != merger.dtype or found.shape != base.shape:
        return f"is {found.dtype} {tuple(found.shape)}, expected {merger.dtype} {tuple(base.shape)}"
    if not is_finite(found):
        return "holds NaN or infinite values"
    update = merger.update(name)
    if update is None:
        if torch.equal(found, base.to(merger.dtype)):
            return None
        return f"differs from the original by {float((found - base).abs().max()):.3g}"
    blocks = [_excess(base, found, update, rows) for rows in row_blocks(base)]
    excess = torch.stack(blocks).max()
    if bool(excess <= 1):
        return None
    return f"is {float(excess):.3g} times the rounding step away from base plus adapter"


def _excess(base: torch.Tensor, found: torch.Tensor, update: Update, rows: slice) -> torch.Tensor:
    """Return the largest difference in a few rows, as a share of what is allowed."""
    magnitude = None if update.magnitude is None else update.magnitude[rows]
    exact, doubt = _exact(base[rows], replace(update, b=update.b[rows], magnitude=magnitude))
    kind = torch.finfo(found.dtype)
    half_step = 0.5 * kind.eps * exact.abs()
    smallest = kind.smallest_normal * kind.eps
    difference = (found[rows].double() - exact).abs()
    return (difference / (1.01 * half_step + doubt + smallest)).max()


def _exact(base: torch.Tensor, update: Update) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the updated weight in float64, and what computing it in float32 can lose."""
    a, b = update.a.double(), update.b.double()
    exact = base.double() + update.scale * (b @ a)
    doubt = base.double().abs() + abs(update.scale) * (b.abs() @ a.abs())
    doubt *= a.shape[0] * _FLOAT32_EPS
    if update.magnitude is None:
        return exact, doubt
    norm = exact.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    factor = update.magnitude.double().unsqueeze(1) / norm
    return exact * factor, (doubt + _NORM_STEPS * _FLOAT32_EPS * exact.abs()) * factor.abs()
