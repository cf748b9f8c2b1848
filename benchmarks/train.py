"""Samples a second of both training stages at full size, within 24 GiB of one GPU.

    PYTHONPATH=scripts python benchmarks/train.py --folder /tmp/mgm --out train.json

The peers are the predecessor's own setting (one sample a micro-batch, logits of all
positions in float32, checkpointing everywhere, nothing compiled) and the same with four
samples. All modes run in turns within one process, on one model with random weights.
A step is one micro-batch, forward and backward; an optimizer update comes every
128 samples and is left out. The last row has no cap on memory.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from train_parts import (
    batch_of,
    build,
    flops_of,
    loss_agreement,
    matmul_peak,
    measure,
    our_loss,
    plain_loss,
    set_plain,
)

from recap.train.execution import Execution, set_execution

GIB = 1 << 30
PEERS: dict[str, int] = {"predecessor: 1 sample": 1, "plain: 4 samples": 4}


def main() -> None:
    """Measure both stages at both lengths."""
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--folder", type=Path, required=True, help="for the model's parts")
    cli.add_argument("--out", type=Path, required=True, help="figures as JSON")
    cli.add_argument("--stages", nargs="+", default=["pretrain", "finetune"])
    cli.add_argument("--lengths", nargs="+", type=int, default=[616, 776])
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument("--cap-gib", type=float, default=24.0)
    cli.add_argument("--sizes", nargs="+", type=int, default=[8, 12], help="samples of ours")
    cli.add_argument("--uncapped", type=int, default=32, help="samples of the row without a cap")
    args = cli.parse_args()
    torch.set_float32_matmul_precision("high")
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "matmul peak, TFLOP/s": matmul_peak(),
        "rows": [],
    }
    for stage in args.stages:
        torch.cuda.set_per_process_memory_fraction(1.0)
        model = build(args.folder, stage)
        figures[f"loss, {stage}"] = loss_agreement(model)
        for length in args.lengths:
            figures["rows"] += compare(model, stage, length, args, figures["matmul peak, TFLOP/s"])
        del model
    args.out.write_text(json.dumps(figures, indent=1))
    print(json.dumps({key: value for key, value in figures.items() if key != "rows"}))
    for row in figures["rows"]:
        print("|", " | ".join(str(value) for value in row.values()), "|")


def compare(
    model: Any, stage: str, length: int, args: argparse.Namespace, peak: float
) -> list[dict[str, Any]]:
    """Return one row a mode, medians over the rounds."""
    total = torch.cuda.get_device_properties(0).total_memory
    modes: dict[str, tuple[Any, int, Execution | None, float]] = {
        name: (plain_loss, size, None, args.cap_gib) for name, size in PEERS.items()
    }
    modes["ours, not compiled"] = (our_loss, 8, Execution(8, 0.0, False), args.cap_gib)
    modes["ours, not compiled, checkpointed"] = (
        our_loss, 8, Execution(8, 1.0, False), args.cap_gib
    )  # fmt: skip
    for size in args.sizes:
        modes[f"ours, {size} samples"] = (our_loss, size, Execution(size, 0.0, True), args.cap_gib)
    size = args.uncapped
    modes[f"ours, {size} samples, no cap"] = (our_loss, size, Execution(size, 0.0, True), 1e9)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in modes}
    flops = flops_of(model, length)
    for _ in range(args.rounds):
        for name, (loss, size, execution, cap) in modes.items():
            torch.cuda.set_per_process_memory_fraction(min(1.0, cap * GIB / total))
            if execution is None:
                set_plain(model)
            else:
                set_execution(model, execution)
            try:
                found[name].append(measure(stepper(model, loss, size, length), size))
            except torch.cuda.OutOfMemoryError:
                model.zero_grad()
                torch.cuda.empty_cache()
    rows = []
    for name, results in found.items():
        middle = {
            key: statistics.median(result[key] for result in results)
            for key in (results[0] if results else ())
        }
        if middle:
            middle["share of the matmul peak"] = round(middle["samples_a_second"] * flops / peak, 3)
        rows.append({"stage": stage, "length": length, "mode": name, **(middle or {"": "OOM"})})
    return rows


def stepper(model: Any, loss: Any, size: int, length: int) -> Any:
    """Return a function that runs one micro-batch, forward and backward."""
    batch = batch_of(size, length, 14 if length < 700 else 60)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step() -> None:
        loss(model, batch).backward()
        for parameter in trained:
            parameter.grad = None

    return step


if __name__ == "__main__":
    main()
