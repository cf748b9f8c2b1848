"""Stage 2 of MGM-7B with LoRA, its frozen base cut over the GPUs of a host, 24 GiB each.

    export PYTHONPATH=scripts
    torchrun --nproc-per-node 2 benchmarks/train_sharded.py --folder /tmp/mgm --out sharded.json

The language model has the size of Llama 2 7B and random bfloat16 weights (12.6 GiB, which
one GPU could not train beside its activations). A step is one pass of every rank, forward and
backward; each rank makes equally many. The first kind of pass that does not fit is the last.
"""

import argparse
import gc
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mgm_lifecycle_parts import write_parts
from train_parts import batch_of, our_loss
from train_qlora import SIZES
from transformers import AutoModelForCausalLM, LlamaConfig

from recap.mgm.configuration import config_from_parts
from recap.mgm.lora import add_lora
from recap.mgm.modeling import MGMForCausalLM
from recap.mgm.parts import ModelParts
from recap.train.execution import Execution, set_execution
from recap.train.sharding import shard_decoder
from recap.train_settings import LoraSettings

GIB = 1 << 30
STEPS = 4
# By the memory they take: share of checkpointed layers, and samples a GPU.
PASSES = ((1.0, 1), (1.0, 4), (1.0, 8), (0.5, 1), (0.0, 1), (0.5, 4), (0.0, 2), (0.0, 4))


def main() -> None:
    """Measure what fits."""
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--folder", type=Path, required=True, help="for the model's parts")
    cli.add_argument("--out", type=Path, required=True, help="figures as JSON")
    cli.add_argument("--size", choices=sorted(SIZES), default="7B")
    cli.add_argument("--length", type=int, default=776)
    cli.add_argument("--cap-gib", type=float, default=24.0)
    args = cli.parse_args()
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    if rank == 0 and not (args.folder / "gemma" / "config.json").is_file():
        args.folder.mkdir(parents=True, exist_ok=True)
        write_parts(args.folder, "full")
        torch.set_default_dtype(torch.float32)
    dist.barrier()
    model = build(args.folder, args.size)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, args.cap_gib * GIB / total))
    shard_decoder(model, device, ranks)
    held = torch.cuda.memory_allocated() / GIB
    rows: list[dict[str, Any]] = []
    for share, samples in PASSES:
        set_execution(model, Execution(samples, share, False))
        found = step(model, samples, args.length, ranks)
        rows.append({"checkpointed": share, "samples a GPU": samples} | found)
        if rank == 0:
            print("|", " | ".join(str(value) for value in rows[-1].values()), "|", flush=True)
        if "reserved, GiB" not in found:
            break  # layers are left gathered
    if rank == 0:
        figures = {
            "devices": [torch.cuda.get_device_name(i) for i in range(ranks)],
            "weights a GPU, GiB": round(held, 2),
            "rows": rows,
        }
        args.out.write_text(json.dumps(figures, indent=1))
        print(json.dumps({k: v for k, v in figures.items() if k != "rows"}))
    dist.destroy_process_group()


def build(folder: Path, size: str) -> MGMForCausalLM:
    """Return the model on the CPU, set up for stage 2; each rank draws the same weights."""
    parts = ModelParts(folder / "gemma", folder / "clip", folder / "convnext", image_size_aux=768)
    config = config_from_parts(parts)
    config.text_config = LlamaConfig(vocab_size=32_000, **SIZES[size])
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):  # drawing seven billion numbers takes a CPU minutes
        language = AutoModelForCausalLM.from_config(config.text_config)
        model = MGMForCausalLM(config, language)
    torch.set_default_dtype(torch.float32)
    model = model.cpu()
    gc.collect()
    torch.cuda.empty_cache()
    add_lora(model, LoraSettings(), seed=2)
    model.set_trainable("finetune")
    return model.train()


def step(model: Any, samples: int, length: int, ranks: int) -> dict[str, Any]:
    """Return what passes of some samples a rank take, or that they do not fit on one of them."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batch = batch_of(samples, length, 60)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    started = 0.0
    for number in range(STEPS + 1):
        if number == 1:
            torch.cuda.synchronize()
            started = time.perf_counter()
        try:
            our_loss(model, batch).backward()
        except torch.cuda.OutOfMemoryError:
            if number:
                raise
            return {"samples/s": "OOM"}
        for parameter in trained:
            parameter.grad = None
    torch.cuda.synchronize()
    return {
        "samples/s": round(STEPS * samples * ranks / (time.perf_counter() - started), 2),
        "reserved, GiB": round(torch.cuda.max_memory_reserved() / GIB, 2),
    }


if __name__ == "__main__":
    main()
