"""Cross entropy at supervised positions only.

The logits of a 256,000-word vocabulary dominate memory, and only a small part
of the positions is an answer: the head is applied to those alone, in chunks
that are recomputed in the backward pass.
"""

import torch
from torch import nn
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
        num_items: what to divide by; by default the number of supervised
            positions here. Pass the count of the whole global batch to make the
            gradient independent of the micro-batch size.

    Returns:
        A float32 scalar; zero, with a graph, if nothing is supervised.
    """
    targets = labels[:, 1:]
    chosen = targets != IGNORE_INDEX
    states, wanted = hidden[:, :-1][chosen], targets[chosen]
    total = states.new_zeros((), dtype=torch.float32) + states[:0].float().sum()
    recompute = torch.is_grad_enabled() and states.requires_grad
    for part, truth in zip(
        states.split(POSITIONS_PER_CHUNK), wanted.split(POSITIONS_PER_CHUNK), strict=True
    ):
        if not len(part):
            continue
        if recompute and len(states) > POSITIONS_PER_CHUNK:
            chunk = checkpoint(_summed, part, truth, head, use_reentrant=False)
        else:
            chunk = _summed(part, truth, head)
        total = total + chunk
    count = len(wanted) if num_items is None else num_items
    if not isinstance(count, torch.Tensor):
        count = torch.tensor(float(count), device=total.device)
    return total / count.to(total.device, total.dtype).clamp(min=1)


def _summed(states: torch.Tensor, targets: torch.Tensor, head: nn.Module) -> torch.Tensor:
    return functional.cross_entropy(head(states).float(), targets, reduction="sum")
