"""Lengths of rows that a GPU sees."""

import torch

# For each new shape of its inputs cuDNN's attention plans anew, 160 ms a forward and backward pass
# on an H100, which is longer than the rest of the pass takes. With rows of a few lengths it soon
# knows them all.
GPU_MULTIPLE = 16


def length_multiple(device: torch.device) -> int:
    """Return what the lengths of rows should be a multiple of on a device."""
    return GPU_MULTIPLE if device.type == "cuda" else 1


def round_up(length: int, multiple: int) -> int:
    """Return the next multiple that is not below ``length``."""
    return -(-length // multiple) * multiple
