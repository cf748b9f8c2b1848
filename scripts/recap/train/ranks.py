"""What all ranks of a run must decide alike, so that none waits for another for ever."""

import torch
from accelerate import PartialState
from accelerate.utils import gather


def highest(level: int) -> int:
    """Return the highest level that any rank names; every rank must ask."""
    state = PartialState()
    if state.num_processes == 1:
        return level
    return int(gather(torch.tensor([level], device=state.device)).max())


def agreed(wish: bool) -> bool:
    """Return whether any rank wishes so; every rank must ask."""
    return bool(highest(int(wish)))
