"""Build, save, check, merge and gate a full-size MGM-2B with random weights.

Shows that the LoRA life-cycle works at full size, and what it costs: wall time,
peak resident memory and peak GPU memory of each command. Random weights say
nothing about answers; sizes, names, sums and speed are the real ones.

    python benchmarks/mgm_lifecycle.py --folder /tmp/mgm --out lifecycle.json
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run every step and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder, 40 GB")
    parser.add_argument("--out", type=Path, required=True, help="figures as JSON")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16"])
    parser.add_argument("--step", choices=["parts", "adapter"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        {"parts": write_parts, "adapter": write_adapter}[args.step](args.folder)
        return
    rows = [measure("build parts", own("parts", args.folder))]
    rows.append(measure("build and save adapter", own("adapter", args.folder)))
    base = base_flags(args.folder)
    adapter = str(args.folder / "adapter")
    rows.append(measure("check_lora_model", script("check_lora_model", adapter, *base)))
    for dtype in args.dtypes:
        merged = str(args.folder / f"merged-{dtype}")
        settings = ("--settings", json.dumps({"dtype": dtype}))
        out = ("--output-path", merged)
        merge = script("merge_lora_weights", "--lora-path", adapter, *base, *out, *settings)
        rows.append(measure(f"merge_lora_weights {dtype}", merge))
        gate = script(
            "check_parity",
            *("--merged", merged, "--adapter", adapter, *base, *settings),
            *("--images-root", str(args.folder / "images")),
            *("--questions", str(args.folder / "questions.jsonl")),
            *("--out", str(args.folder / f"parity-{dtype}.json")),
        )
        rows.append(measure(f"check_parity {dtype}", gate))
        report = json.loads((args.folder / f"parity-{dtype}.json").read_text())
        rows[-1]["passed"] = report["passed"]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    versions = {"torch": torch.__version__, "python": sys.version.split()[0]}
    args.out.write_text(json.dumps({"device": device, **versions, "rows": rows}, indent=2))


def own(step: str, folder: Path) -> list[str]:
    """Return this script's command for one step, run as a process of its own."""
    return [sys.executable, __file__, "--folder", str(folder), "--out", "-", "--step", step]


def script(name: str, *arguments: str) -> list[str]:
    """Return the command of an entry script."""
    return [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments]


def base_flags(folder: Path) -> list[str]:
    """Return the flags that name the base's parts."""
    names = {"--language-model": "gemma", "--clip": "clip", "--convnext": "convnext"}
    return [part for flag, name in names.items() for part in (flag, str(folder / name))]


def measure(label: str, command: list[str]) -> dict[str, object]:
    """Run a command; return its wall time and peak memory, and print them."""
    peak, stop = [0], threading.Event()
    watcher = threading.Thread(target=watch_gpu, args=(peak, stop))
    watcher.start()
    started = time.perf_counter()
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT / 'scripts'}:{os.environ.get('PYTHONPATH', '')}"
    }
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    stop.set()
    watcher.join()
    row = {
        "step": label,
        "exit_code": os.waitstatus_to_exitcode(status),
        "seconds": round(seconds, 1),
        "peak_rss_gib": round(usage.ru_maxrss / 2**20, 2),
        "peak_gpu_gib": round(peak[0] / 1024, 2),
    }
    print(row, flush=True)
    if row["exit_code"]:
        raise SystemExit(f"{label} failed")
    return row


def watch_gpu(peak: list[int], stop: threading.Event) -> None:
    """Keep the highest GPU memory in use, in MiB, as the driver reports it."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    while not stop.wait(0.25):
        result = subprocess.run(query, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            peak[0] = max(peak[0], int(result.stdout.split()[0]))


def write_parts(folder: Path) -> None:
    """Write Gemma-2B, CLIP ViT-L/14-336 and ConvNeXt-L folders, pictures and questions."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, GemmaConfig, GemmaForCausalLM

    from recap.io import write_json, write_jsonl
    from recap.mgm.convnext import ConvNextTower
    from recap.mgm.micro import write_micro_tokenizer
    from recap.mgm.openclip import save_openclip_convnext
    from recap.mgm.processing import ImagePreprocessor

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    gemma_config = GemmaConfig(
        vocab_size=256_000,
        hidden_size=2048,
        intermediate_size=16_384,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        gemma = GemmaForCausalLM(gemma_config)
        clip_config = CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        )
        clip = CLIPVisionModel(clip_config)
        tower = ConvNextTower([3, 3, 27, 3], [192, 384, 768, 1536])
    gemma.save_pretrained(folder / "gemma")
    write_micro_tokenizer(folder / "gemma")
    clip.save_pretrained(folder / "clip")
    write_json(folder / "clip" / "preprocessor_config.json", ImagePreprocessor(336).as_dict())
    save_openclip_convnext(tower.cpu(), folder / "convnext")
    (folder / "images").mkdir(exist_ok=True)
    noise = np.random.default_rng(0)
    for index in range(4):
        pixels = noise.integers(0, 256, (480, 640, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.jpg")
    text = "What is this?\nAnswer the question using a single word or phrase."
    rows = [{"question_id": str(i), "image": f"{i}.jpg", "text": text} for i in range(4)]
    write_jsonl(folder / "questions.jsonl", rows)


def write_adapter(folder: Path) -> None:
    """Write a rank-16 adapter whose B is not zero, with projector and configuration."""
    from recap.mgm.adapters import save_adapter
    from recap.mgm.checkpoint import build_model, describe_base
    from recap.mgm.lora import adapter_state, add_lora
    from recap.mgm.parts import ModelParts
    from recap.settings import LoraSettings

    parts = ModelParts(folder / "gemma", folder / "clip", folder / "convnext")
    model = build_model(parts, dtype="bfloat16", seed=1, image_aspect_ratio="pad")
    add_lora(model, LoraSettings(), seed=2)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, tensor in adapter_state(model).items():
            if "lora_B" in name:
                tensor.normal_(0, 0.01)
    save_adapter(model, folder / "adapter", base=describe_base(parts))


if __name__ == "__main__":
    main()
