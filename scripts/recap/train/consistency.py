"""Does the loss change as its gradient says? A check of the forward and backward pass."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from .gates import CONSISTENCY_BOUNDS

# Shares of the loss a probing step is meant to change. Small steps are exact in float32; larger
# ones stand out of bfloat16's rounding, above all where weights lie on bfloat16's grid.
PROBED_SHARES = (0.003, 0.01, 0.03, 0.001, 0.1)


def slope_ratio(
    parameters: Sequence[nn.Parameter],
    compute_loss: Callable[[], torch.Tensor],
    seed: int,
    anywhere: Callable[[bool], bool] = bool,
) -> float:
    """Return how well the loss's value follows its gradient: measured / predicted slope.

    The central difference ``(L(p + e g/|g|) - L(p - e g/|g|)) / 2e`` is compared
    with ``|g|`` for a few sizes of e, up to the first that agrees. Parameters and
    RNG are as before afterwards; every evaluation sees the same dropout mask.

    Args:
        parameters: the trained ones.
        compute_loss: runs the forward pass on a fixed batch.
        seed: of the dropout masks.
        anywhere: whether something holds on any rank, where ranks must compute equally many
            losses; by default this one decides alone.

    Returns:
        The ratio closest to 1, or NaN if loss or gradient is not finite or the gradient is zero.
    """
    devices = sorted({p.device for p in parameters if p.device.type == "cuda"}, key=str)
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        loss = compute_loss()
        gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
        moved = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        value = float(loss.detach())
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for _, g in moved))
        if anywhere(not (math.isfinite(value) and math.isfinite(norm) and norm > 0 and value)):
            return float("nan")
        best = float("nan")
        for share in PROBED_SHARES:
            ratio = _measure(moved, compute_loss, seed, norm, share * abs(value) / norm)
            if math.isnan(best) or _distance(ratio) < _distance(best):
                best = ratio
            if not anywhere(not CONSISTENCY_BOUNDS[0] <= best <= CONSISTENCY_BOUNDS[1]):
                break
    return best


def farthest_ratio(ratios: Sequence[float]) -> float:
    """Return the ratio that is the farthest from 1; NaN is farther than any number."""
    return max(ratios, key=_distance)


def _measure(
    moved: Sequence[tuple[nn.Parameter, torch.Tensor]],
    compute_loss: Callable[[], torch.Tensor],
    seed: int,
    norm: float,
    step: float,
) -> float:
    kept = [p.detach().clone() for p, _ in moved]
    sides = []
    with torch.no_grad():
        try:
            for sign in (1.0, -1.0):
                for (parameter, gradient), value in zip(moved, kept, strict=True):
                    parameter.copy_(value + (sign * step / norm) * gradient)
                torch.manual_seed(seed)
                sides.append(float(compute_loss()))
        finally:
            for (parameter, _), value in zip(moved, kept, strict=True):
                parameter.copy_(value)
    return (sides[0] - sides[1]) / (2.0 * step * norm)


def _distance(ratio: float) -> float:
    return abs(math.log(ratio)) if math.isfinite(ratio) and ratio > 0 else math.inf
