"""What the ranks of a run tell each other, and decide alike so that none waits for ever."""

import time
from collections.abc import Iterable, Sequence

import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import distributed

from ..hashing import derived_seed


def highest(level: int) -> int:
    """Return the highest level that any rank names; every rank must ask."""
    state = PartialState()
    if state.num_processes == 1:
        return level
    return int(gather(torch.tensor([level], device=state.device)).max())


def agreed(wish: bool) -> bool:
    """Return whether any rank wishes so; every rank must ask."""
    return bool(highest(int(wish)))


def add_over_ranks(tensors: Sequence[torch.Tensor]) -> float:
    """Add up float32 tensors over all ranks, in place and in one message.

    Returns:
        The seconds until the sum was there, waiting for slower ranks included.
    """
    device = tensors[0].device
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    finish(device)
    started = time.perf_counter()
    distributed.all_reduce(joined)
    finish(device)
    seconds = time.perf_counter() - started
    for tensor, part in zip(tensors, joined.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
    return seconds


def equal_over_ranks(tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether all ranks hold the same float32 tensors, by sums over their bits."""
    sums = torch.stack([tensor.detach().view(torch.int32).sum() for tensor in tensors])
    found = [torch.empty_like(sums) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, sums)
    return all(torch.equal(found[0], other) for other in found[1:])


def rank_seed(seed: int, rank: int, update: int) -> int:
    """Return what a rank draws its dropout masks from, none being another's.

    Args:
        seed: of the run, which rank zero starts from as it is.
        rank: number of the rank.
        update: made before.
    """
    return derived_seed(seed, rank, update) if rank or update else seed


def finish(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
