"""The loss over a 256,000-word vocabulary: ours, Liger Kernel's and the plain one.

    PYTHONPATH=scripts python benchmarks/train_loss.py --out loss.json

States of some positions go in, their gradient comes out; the head is frozen. Liger Kernel is
left out where it is not installed.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from recap.mgm.loss import loss_of_states

GIB = 1 << 30


def main() -> None:
    """Measure a few numbers of positions."""
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--out", type=Path, required=True, help="figures as JSON")
    cli.add_argument("--positions", nargs="+", type=int, default=[112, 512, 2048])
    args = cli.parse_args()
    head = torch.nn.Linear(2048, 256_000, bias=False, device="cuda", dtype=torch.bfloat16)
    head.requires_grad_(False)
    rows = []
    for count in args.positions:
        states = torch.randn(count, 2048, device="cuda", dtype=torch.bfloat16)
        targets = torch.randint(0, 256_000, (count,), device="cuda")
        for name, loss in losses(head).items():
            row = {"positions": count, "loss": name, **measure(loss, states, targets)}
            rows.append(row)
            print("|", " | ".join(str(value) for value in row.values()), "|")
    args.out.write_text(json.dumps({"device": torch.cuda.get_device_name(), "rows": rows}))


def losses(head: torch.nn.Linear) -> dict[str, Callable[..., torch.Tensor]]:
    """Return the losses by name, each of states and targets."""
    found: dict[str, Callable[..., torch.Tensor]] = {
        "plain": lambda s, t: functional.cross_entropy(head(s).float(), t),
        "ours": lambda s, t: loss_of_states(s, t, head),
    }
    try:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction
    except ImportError:
        return found
    apply = LigerFusedLinearCrossEntropyFunction.apply
    found["Liger Kernel"] = lambda s, t: first(apply(s, head.weight, t))
    return found


def first(result: Any) -> torch.Tensor:
    """Return the loss among what Liger returns."""
    return result[0] if isinstance(result, tuple) else result


def measure(
    loss: Callable[..., torch.Tensor], states: torch.Tensor, targets: torch.Tensor
) -> dict[str, float]:
    """Return value, milliseconds and the memory that comes on top of the inputs."""
    states = states.detach().requires_grad_()
    loss(states, targets).backward()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start, rounds = time.perf_counter(), 20
    for _ in range(rounds):
        value = loss(states, targets)
        value.backward()
    torch.cuda.synchronize()
    return {
        "value": round(float(value), 4),
        "ms": round((time.perf_counter() - start) / rounds * 1000, 2),
        "gib": round((torch.cuda.max_memory_allocated() - before) / GIB, 2),
    }


if __name__ == "__main__":
    main()
