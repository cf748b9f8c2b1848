"""What the ranks of a preflight find together: every node's findings, and a sum over all GPUs."""

import logging
import os
from datetime import timedelta

from .preflight import Finding, node_name

logger = logging.getLogger(__name__)

_PATIENCE = timedelta(minutes=3)


def gather_findings(own: list[Finding], gpus: int) -> dict[str, list[Finding]]:
    """Return what every node's ranks found, the sum over all ranks included.

    Args:
        own: of this rank.
        gpus: on each node; with none the sum is made on the CPU.

    Returns:
        Findings by node, the same on every rank; the sum's where it went wrong.
    """
    node = node_name()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return {node: own}
    import torch
    from torch import distributed

    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_PATIENCE)
    try:
        everyone: list[tuple[str, list[Finding]] | None] = [None] * world
        sound = not any(one.fix for one in own)
        distributed.all_gather_object(everyone, (node, own))
        healthy = torch.tensor([int(sound)])
        distributed.all_reduce(healthy, distributed.ReduceOp.MIN)
        reduced = [_reduce(world, gpus)] if healthy.item() else []
        found: dict[str, list[Finding]] = {}
        for entry in filter(None, everyone):
            rows = found.setdefault(entry[0], [])
            names = {one.name for one in rows}  # free space differs a little between ranks
            rows += [
                one for one in entry[1] if one.name not in names or (one.fix and one not in rows)
            ]
        found.setdefault(node, []).extend(reduced)
        return found
    finally:
        distributed.destroy_process_group()


def _reduce(world: int, gpus: int) -> Finding:
    """Add up the ranks' numbers on their GPUs, 4 MiB at a time."""
    import torch
    from torch import distributed

    rank = distributed.get_rank()
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if gpus else "cpu"
    kind = "NCCL" if gpus else "gloo"
    try:
        if gpus:
            torch.cuda.set_device(device)
        numbers = torch.full((1 << 20,), float(rank), device=device)
        distributed.all_reduce(numbers)
        right = bool((numbers == world * (world - 1) / 2).all())
    except RuntimeError as error:
        fix = "see NCCL_DEBUG=INFO, and NCCL_SOCKET_IFNAME for the network to use"
        return Finding(f"{kind} all-reduce", str(error).splitlines()[0], fix)
    value = f"{world} ranks" if right else f"{world} ranks, wrong sum"
    return Finding(f"{kind} all-reduce", value, "" if right else "a card or link is broken")
