"""Parts and adapter with random weights, for ``mgm_lifecycle.py``.

PYTHONPATH=scripts python benchmarks/mgm_lifecycle_parts.py parts --folder /tmp/mgm
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

PICTURES = 4
SCALES: dict[str, dict[str, Any]] = {
    "full": {
        "gemma": {
            "vocab_size": 256_000, "hidden_size": 2048, "intermediate_size": 16_384,
            "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1,
            "head_dim": 256,
        },
        "clip": {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
        },
        "depths": [3, 3, 27, 3],
        "dims": [192, 384, 768, 1536],
        "image_size_aux": 768,
    },
    # the same commands in two minutes on a CPU
    "small": {
        "gemma": {
            "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 1024,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 1,
            "head_dim": 64,
        },
        "clip": {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
            "num_attention_heads": 2, "image_size": 64, "patch_size": 8,
        },
        "depths": [1, 1, 1, 1],
        "dims": [16, 32, 64, 128],
        "image_size_aux": 128,
    },
}  # fmt: skip


def main() -> None:
    """Run one step and write what it cost on the GPU."""
    from recap.perf import PerfRecord

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", choices=["parts", "adapter"], help="what to write")
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder")
    parser.add_argument("--scale", choices=sorted(SCALES), default="full", help="size of the parts")
    args = parser.parse_args()
    perf = PerfRecord(args.step, "steps")
    {"parts": write_parts, "adapter": write_adapter}[args.step](args.folder, args.scale)
    perf.write(args.folder / f"perf-{args.step}.json")


def write_parts(folder: Path, scale: str) -> None:
    """Write the folders of Gemma, CLIP and ConvNeXt, pictures and questions."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, GemmaConfig, GemmaForCausalLM

    from recap.io import write_json
    from recap.mgm.convnext import ConvNextTower
    from recap.mgm.micro import write_micro_tokenizer
    from recap.mgm.openclip import save_openclip_convnext
    from recap.mgm.processing import ImagePreprocessor

    sizes = SCALES[scale]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        gemma = GemmaForCausalLM(GemmaConfig(**sizes["gemma"]))
        clip = CLIPVisionModel(CLIPVisionConfig(**sizes["clip"]))
        tower = ConvNextTower(sizes["depths"], sizes["dims"])
    gemma.save_pretrained(folder / "gemma")
    write_micro_tokenizer(folder / "gemma")
    clip.save_pretrained(folder / "clip")
    edge = sizes["clip"]["image_size"]
    write_json(folder / "clip" / "preprocessor_config.json", ImagePreprocessor(edge).as_dict())
    save_openclip_convnext(tower.cpu(), folder / "convnext")
    write_questions(folder)


def write_questions(folder: Path) -> None:
    """Write pictures of noise and one question about each."""
    from recap.io import write_jsonl

    (folder / "images").mkdir(exist_ok=True)
    noise = np.random.default_rng(0)
    for index in range(PICTURES):
        pixels = noise.integers(0, 256, (480, 640, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.jpg")
    text = "What is this?\nAnswer the question using a single word or phrase."
    rows = [{"question_id": str(i), "image": f"{i}.jpg", "text": text} for i in range(PICTURES)]
    write_jsonl(folder / "questions.jsonl", rows)


def write_adapter(folder: Path, scale: str) -> None:
    """Write a rank-16 adapter whose B is not zero, with projector and configuration."""
    from recap.mgm.adapters import save_adapter
    from recap.mgm.checkpoint import build_model, describe_base
    from recap.mgm.lora import adapter_state, add_lora
    from recap.mgm.parts import ModelParts
    from recap.train_settings import LoraSettings

    parts = ModelParts(
        folder / "gemma",
        folder / "clip",
        folder / "convnext",
        image_size_aux=SCALES[scale]["image_size_aux"],
    )
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
