"""Samples a second of both training stages at full size, within 24 GiB of one GPU.

    PYTHONPATH=scripts python benchmarks/train.py --folder /tmp/mgm --out train.json

The peers are the predecessor's own setting (one sample a micro-batch, logits of all
positions in float32, checkpointing everywhere, nothing compiled) and the same with four
samples. All modes run in turns within one process, on one model with random weights.
A step is one micro-batch, forward and backward; an optimizer update comes every
128 samples and is left out.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from train_parts import batch_of, build, loss_agreement, measure, our_loss, plain_loss, set_mode

GIB = 1 << 30
MODES: dict[str, dict[str, Any]] = {
    "predecessor: 1 sample": {"loss": plain_loss, "size": 1, "compiled": False, "ckpt": True},
    "plain: 4 samples": {"loss": plain_loss, "size": 4, "compiled": False, "ckpt": True},
    "ours, eager": {"loss": our_loss, "size": 8, "compiled": False, "ckpt": False},
    "ours": {"loss": our_loss, "size": 8, "compiled": True, "ckpt": False},
}


def main() -> None:
    """Measure both stages at both lengths."""
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--folder", type=Path, required=True, help="for the model's parts")
    cli.add_argument("--out", type=Path, required=True, help="figures as JSON")
    cli.add_argument("--stages", nargs="+", default=["pretrain", "finetune"])
    cli.add_argument("--lengths", nargs="+", type=int, default=[616, 776])
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument("--cap-gib", type=float, default=24.0)
    cli.add_argument("--sizes", nargs="+", type=int, default=[8], help="samples of ours")
    args = cli.parse_args()
    torch.set_float32_matmul_precision("high")
    total = torch.cuda.get_device_properties(0).total_memory
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "rows": [],
    }
    for stage in args.stages:
        torch.cuda.set_per_process_memory_fraction(1.0)
        model = build(args.folder, stage)
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.cap_gib * GIB / total))
        figures[f"loss, {stage}"] = loss_agreement(model)
        for length in args.lengths:
            figures["rows"] += compare(model, stage, length, args)
        del model
    args.out.write_text(json.dumps(figures, indent=1))
    print(json.dumps({key: value for key, value in figures.items() if key != "rows"}))
    for row in figures["rows"]:
        print("|", " | ".join(str(value) for value in row.values()), "|")


def compare(model: Any, stage: str, length: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row a mode, medians over the rounds."""
    modes = dict(MODES)
    for size in args.sizes:
        modes[f"ours, {size} samples"] = {**MODES["ours"], "size": size}
    del modes["ours"]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in modes}
    for _ in range(args.rounds):
        for name, mode in modes.items():
            set_mode(model, compiled=mode["compiled"], checkpointing=mode["ckpt"])
            try:
                found[name].append(measure(stepper(model, mode, length), mode["size"]))
            except torch.cuda.OutOfMemoryError:
                model.zero_grad()
                torch.cuda.empty_cache()
    rows = []
    for name, results in found.items():
        middle = {
            key: statistics.median(result[key] for result in results)
            for key in (results[0] if results else ())
        }
        rows.append({"stage": stage, "length": length, "mode": name, **(middle or {"": "OOM"})})
    return rows


def stepper(model: Any, mode: dict[str, Any], length: int) -> Any:
    """Return a function that runs one micro-batch, forward and backward."""
    batch = batch_of(mode["size"], length, 14 if length < 700 else 60)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step() -> None:
        mode["loss"](model, batch).backward()
        for parameter in trained:
            parameter.grad = None

    return step


if __name__ == "__main__":
    main()
