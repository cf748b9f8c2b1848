"""Cross entropy at supervised positions only.

The logits of a 256,000-word vocabulary dominate memory, and only a small part
of the positions is an answer: the head is applied to those alone, in chunks, and
for a frozen head the gradient is made in the same pass, so that no chunk's logits
outlive it (the idea of Liger Kernel's fused linear cross entropy, Hsu et al. 2024).
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .conversation import IGNORE_INDEX

POSITIONS_PER_CHUNK = 256


def supervised_loss(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    head: nn.Module,
    num_items: torch.Tensor | int | float | None = None,
) -> torch.Tensor:
    """Return the summed cross entropy over supervised positions, divided by a count.

    Args:
        hidden: (B, L, width), the decoder's output.
        labels: (B, L), -100 where nothing is trained; position t + 1 is
            predicted at t.
        head: from width to vocabulary.
        num_items: see :func:`loss_of_states`.

    Returns:
        A float32 scalar; zero, with a graph, if nothing is supervised.
    """
    targets = labels[:, 1:]
    chosen = targets != IGNORE_INDEX
    return loss_of_states(hidden[:, :-1][chosen], targets[chosen], head, num_items)


def loss_of_states(
    states: torch.Tensor,
    targets: torch.Tensor,
    head: nn.Module,
    num_items: torch.Tensor | int | float | None = None,
) -> torch.Tensor:
    """Return the summed cross entropy of some states, divided by a count.

    Args:
        states: (K, width), the decoder's output where something is predicted.
        targets: (K,), token ids.
        head: from width to vocabulary.
        num_items: what to divide by; by default K. Pass the count of the whole
            global batch to make the gradient independent of the micro-batch size.

    Returns:
        A float32 scalar; zero, with a graph, for K = 0.
    """
    total = states.new_zeros((), dtype=torch.float32) + states[:0].float().sum()
    if len(states):
        total = total + _summed(states, targets, head)
    count = len(targets) if num_items is None else num_items
    if isinstance(count, torch.Tensor):
        return total / count.to(total.device, total.dtype).clamp(min=1)
    return total / max(float(count), 1.0)


def _summed(states: torch.Tensor, targets: torch.Tensor, head: Any) -> torch.Tensor:
    if not (torch.is_grad_enabled() and states.requires_grad):
        parts = zip(
            states.split(POSITIONS_PER_CHUNK), targets.split(POSITIONS_PER_CHUNK), strict=True
        )
        return torch.stack([_entropy(part, truth, head) for part, truth in parts]).sum()
    if type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad:
        return _FusedCrossEntropy.apply(states, targets, head.weight)
    sums = [
        checkpoint(_entropy, part, truth, head, use_reentrant=False)
        for part, truth in zip(
            states.split(POSITIONS_PER_CHUNK), targets.split(POSITIONS_PER_CHUNK), strict=True
        )
    ]
    return torch.stack(sums).sum()


def _entropy(states: torch.Tensor, targets: torch.Tensor, head: nn.Module) -> torch.Tensor:
    return functional.cross_entropy(head(states).float(), targets, reduction="sum")


class _FusedCrossEntropy(torch.autograd.Function):
    """Loss and gradient of the states in one pass over the logits of a frozen head."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Return the summed cross entropy, float32."""
        total = states.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(states)
        for start in range(0, len(states), POSITIONS_PER_CHUNK):
            part = slice(start, start + POSITIONS_PER_CHUNK)
            logs = functional.linear(states[part], weight).float().log_softmax(dim=-1)
            truth = targets[part].unsqueeze(-1)
            total -= logs.gather(-1, truth).sum()
            slope = logs.exp_().scatter_add_(
                -1, truth, torch.full_like(truth, -1, dtype=logs.dtype)
            )
            gradient[part] = slope.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Scale the stored gradient."""
        (gradient,) = ctx.saved_tensors
        return (gradient * outer).to(gradient.dtype), None, None
