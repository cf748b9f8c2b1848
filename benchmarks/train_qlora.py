"""Stage 2 of MGM-7B and MGM-13B with QLoRA within 24 GiB of one GPU.

    PYTHONPATH=scripts python benchmarks/train_qlora.py --folder /tmp/mgm --out qlora.json

The frozen Llama 2 is held in 4-bit NF4 by bitsandbytes; weights are random, which changes
neither time nor memory. A step is one micro-batch, forward and backward.
"""

import argparse
import gc
import json
from pathlib import Path
from typing import Any

import torch
from mgm_lifecycle_parts import write_parts
from train_parts import batch_of, measure, our_loss
from transformers import AutoModelForCausalLM, LlamaConfig

from recap.mgm.configuration import config_from_parts
from recap.mgm.lora import add_lora
from recap.mgm.modeling import MGMForCausalLM
from recap.mgm.parts import ModelParts
from recap.mgm.quantize import quantize_language_model
from recap.train.execution import Execution, set_execution
from recap.train_settings import LoraSettings

GIB = 1 << 30
SIZES: dict[str, dict[str, int]] = {
    "7B": {"hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
           "num_attention_heads": 32},
    "13B": {"hidden_size": 5120, "intermediate_size": 13_824, "num_hidden_layers": 40,
            "num_attention_heads": 40},
}  # fmt: skip
MODES = {
    "not compiled": (1.0, False),
    "compiled, all layers checkpointed": (1.0, True),
    "compiled, half of the layers checkpointed": (0.5, True),
    "compiled": (0.0, True),
}


def main() -> None:
    """Measure both sizes."""
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--folder", type=Path, required=True, help="for the model's parts")
    cli.add_argument("--out", type=Path, required=True, help="figures as JSON")
    cli.add_argument("--sizes", nargs="+", default=list(SIZES))
    cli.add_argument("--length", type=int, default=776)
    cli.add_argument("--samples", nargs="+", type=int, default=[1, 4, 8])
    cli.add_argument("--cap-gib", type=float, default=24.0)
    args = cli.parse_args()
    torch.set_float32_matmul_precision("high")
    rows: list[dict[str, Any]] = []
    total = torch.cuda.get_device_properties(0).total_memory
    for size in args.sizes:
        torch.cuda.set_per_process_memory_fraction(1.0)
        model = build(args.folder, size)
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.cap_gib * GIB / total))
        for mode, (share, compiled) in MODES.items():
            for samples in args.samples:
                set_execution(model, Execution(samples, share, compiled))
                rows.append({"model": size, "mode": mode, "samples": samples} | step(
                    model, samples, args.length
                ))  # fmt: skip
                print("|", " | ".join(str(value) for value in rows[-1].values()), "|", flush=True)
        del model
    device = torch.cuda.get_device_name()
    args.out.write_text(json.dumps({"device": device, "rows": rows}, indent=1))


def build(folder: Path, size: str) -> MGMForCausalLM:
    """Return the model on the GPU, its language model in 4 bits, set up for stage 2."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "gemma" / "config.json").is_file():
        write_parts(folder, "full")
    parts = ModelParts(folder / "gemma", folder / "clip", folder / "convnext", image_size_aux=768)
    config = config_from_parts(parts)
    config.text_config = LlamaConfig(vocab_size=32_000, **SIZES[size])
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        language = AutoModelForCausalLM.from_config(config.text_config)
        model = MGMForCausalLM(config, language)
    torch.set_default_dtype(torch.float32)
    quantize_language_model(model, torch.bfloat16)
    add_lora(model, LoraSettings(), seed=2)
    model.set_trainable("finetune")
    return model.cuda().train()


def step(model: Any, samples: int, length: int) -> dict[str, Any]:
    """Return what passes of some samples take, or that they do not fit."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batch = batch_of(samples, length, 60)

    def once() -> None:
        our_loss(model, batch).backward()
        for parameter in trained:
            parameter.grad = None

    try:
        return measure(once, samples)
    except torch.cuda.OutOfMemoryError:
        model.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
        return {"": "OOM"}


if __name__ == "__main__":
    main()
