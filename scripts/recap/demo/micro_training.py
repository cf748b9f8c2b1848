"""What the trained micro models share: determinism, the learning rate, one update."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .streams import Stream, generator

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

WARMUP_SHARE = 0.05
DECAY_SHARE = 0.35
MAX_GRAD_NORM = 1.0
_LOG_EVERY = 50


@dataclass(frozen=True)
class Place:
    """Where a model is trained.

    Attributes:
        device: of torch, ``cpu`` or ``cuda``. Only the CPU gives the same bytes twice.
        workers: processes that draw pictures and write texts.
    """

    device: str = "cpu"
    workers: int = 1


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Run torch on one thread with fixed seeds, and restore its threads and random state."""
    import torch

    threads = torch.get_num_threads()
    # Of the GPU only, and good enough there: its results differ from run to run anyhow.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    with torch.random.fork_rng():
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def batches(seed: int, count: int, steps: int, size: int) -> np.ndarray:
    """Return (steps, size) indices below ``count``: shuffled passes, one after the other."""
    passes = -(-steps * size // count)
    shuffled = [generator(seed, Stream.MICRO_ORDER, n).permutation(count) for n in range(passes)]
    order = np.concatenate([np.empty(0, dtype=np.int64), *shuffled])
    return order[: steps * size].reshape(steps, size)


def rate_at(step: int, steps: int, peak: float) -> float:
    """Return the learning rate of update ``step``: up, level, and down to zero, all linear."""
    warmup = max(1, round(steps * WARMUP_SHARE))
    return peak * min(1.0, (step + 1) / warmup, (steps - step) / (steps * DECAY_SHARE))


def train(
    model: Any,
    loss_at: "Callable[[int], torch.Tensor]",
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.01,
    name: str = "model",
) -> list[float]:
    """Minimise ``loss_at(step)`` by AdamW; return the loss of every update.

    Norms and biases are not decayed. Leaves the model in eval mode.
    """
    import torch

    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    losses: list[torch.Tensor] = []
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, learning_rate)
        loss = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        losses.append(loss.detach())
        if step % _LOG_EVERY == 0 or step == steps - 1:
            logger.info("%s: update %d of %d, loss %.4f", name, step + 1, steps, losses[-1])
    model.eval()
    return [float(loss) for loss in losses]


def count_parameters(model: Any) -> int:
    """Return the number of a model's parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
