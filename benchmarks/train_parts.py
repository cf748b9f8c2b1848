"""A full-size MGM-2B in the modes that ``train.py`` compares."""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mgm_lifecycle_parts import write_parts
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from recap.mgm.checkpoint import build_model
from recap.mgm.lora import add_lora
from recap.mgm.mining import split_unit
from recap.mgm.modeling import PROJECTOR_MODULES, MGMForCausalLM
from recap.mgm.parts import ModelParts
from recap.mgm.processing import ImagePreprocessor
from recap.mgm.projector import project
from recap.mgm.vision import cut_aux_views, derive_clip_views
from recap.train.collate import Collator
from recap.train.execution import Execution, set_execution
from recap.train.loading import to_device
from recap.train_settings import LoraSettings

IMAGE_TOKENS = 576


def build(folder: Path, stage: str) -> MGMForCausalLM:
    """Return the model with random bfloat16 weights on the GPU, set up for a stage."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "gemma" / "config.json").is_file():
        write_parts(folder, "full")
        torch.set_default_dtype(torch.float32)
    parts = ModelParts(folder / "gemma", folder / "clip", folder / "convnext", image_size_aux=768)
    model = build_model(parts, dtype="bfloat16", seed=1).cuda()
    if stage == "finetune":
        add_lora(model, LoraSettings(), seed=2)
    model.set_trainable("pretrain" if stage == "pretrain" else "finetune")
    model.train()
    return model


def batch_of(size: int, length: int, supervised: int) -> dict[str, Any]:
    """Return a batch of pictures and texts that makes sequences of ``length`` tokens."""
    samples = []
    for _ in range(size):
        ids = torch.randint(10, 4000, (length - IMAGE_TOKENS + 1,)).tolist()
        ids[5] = -200
        labels = [-100] * (len(ids) - supervised) + ids[-supervised:]
        picture = torch.randint(0, 256, (3, 768, 768), dtype=torch.uint8)
        samples.append({"input_ids": ids, "labels": labels, "image": picture})
    return to_device(Collator(0, IMAGE_TOKENS, 4096)(samples), torch.device("cuda"))


def our_loss(model: MGMForCausalLM, batch: dict[str, Any]) -> torch.Tensor:
    """Return the loss as a stage computes it."""
    loss: torch.Tensor = model(**batch).loss
    return loss


def plain_loss(model: MGMForCausalLM, batch: dict[str, Any]) -> torch.Tensor:
    """Return the same loss as the predecessor computed it: all logits, in float32."""
    features = plain_features(model, batch["images_aux"])
    spliced = model.prepare_inputs(
        batch["input_ids"], batch["attention_mask"], batch["labels"], image_features=features
    )
    logits = model.language_model(
        inputs_embeds=spliced.embeddings,
        attention_mask=spliced.attention_mask,
        position_ids=spliced.position_ids,
        use_cache=False,
    ).logits.float()
    targets = torch.as_tensor(spliced.labels)[:, 1:]
    return functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), targets.reshape(-1)
    )


def plain_features(model: MGMForCausalLM, images: torch.Tensor) -> torch.Tensor:
    """Return the visual embeddings, with keys and values of every candidate."""
    images = ImagePreprocessor.from_settings(model.config.preprocessor).normalise(images)
    with torch.no_grad():
        view = derive_clip_views(images, model.vision_tower.image_size).flatten(0, 1)
        tokens = model.vision_tower(view)
        [aux] = cut_aux_views(model.vision_tower_aux(images).to(tokens.dtype))
    units = [getattr(model, name) for name in PROJECTOR_MODULES[1:]]
    mined = checkpoint(plain_mining, tokens, aux, *units, use_reentrant=False)
    return project(tokens + mined, model.mm_projector)


def plain_mining(
    tokens: torch.Tensor, aux: torch.Tensor, query: Any, key: Any, value: Any
) -> torch.Tensor:
    """Return the mining as its formula is written down."""
    grid = int(tokens.shape[1] ** 0.5)
    side = aux.shape[-1] // grid
    blocks = aux.unflatten(3, (grid, side)).unflatten(2, (grid, side))
    blocks = blocks.permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2, 3)

    def unit(x: torch.Tensor, layers: Any) -> torch.Tensor:
        norm, projection = split_unit(layers)
        x = functional.layer_norm(
            x, norm.normalized_shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps
        )
        return functional.linear(x, projection.weight.to(x.dtype), projection.bias.to(x.dtype))

    asked = unit(tokens, query).unsqueeze(2)
    weights = (asked @ unit(blocks, key).transpose(2, 3)) / tokens.shape[-1] ** 0.5
    return (weights.softmax(-1) @ unit(blocks, value)).squeeze(2)


def set_plain(model: MGMForCausalLM) -> None:
    """Let the model work as the predecessor's did: checkpointing everywhere, nothing compiled."""
    set_execution(model, Execution(1, 1.0, False))


def flops_of(model: MGMForCausalLM, length: int) -> float:
    """Return the TFLOP of one sample's forward and backward pass, nothing computed twice."""
    set_execution(model, Execution(1, 0.0, False))
    model.language_model.set_attn_implementation("eager")  # the counter knows no grouped queries
    with FlopCounterMode(display=False) as counter:
        our_loss(model, batch_of(1, length, 14)).backward()
    model.language_model.set_attn_implementation("sdpa")
    model.zero_grad()
    return counter.get_total_flops() / 1e12


def matmul_peak(edge: int = 8192, rounds: int = 50) -> float:
    """Return the TFLOP/s of a square bfloat16 product."""
    a, b = (torch.randn(edge, edge, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        a @ b
    torch.cuda.synchronize()
    return round(2 * edge**3 * rounds / (time.perf_counter() - start) / 1e12, 1)


def measure(step: Callable[[], Any], samples: int, seconds: float = 4.0) -> dict[str, float]:
    """Return samples a second, milliseconds of GPU kernels a sample, and reserved memory."""
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or count < 2:
        step()
        count += 1
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    kernels = sum(event.self_device_time_total for event in profiled.key_averages())
    return {
        "samples_a_second": round(samples * count / elapsed, 2),
        "kernel_ms_a_sample": round(kernels / 1000 / samples, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / (1 << 30), 2),
    }


def loss_agreement(model: MGMForCausalLM) -> dict[str, float]:
    """Return both losses of one batch, which must be the same number up to rounding."""
    model.eval()
    batch = batch_of(2, 616, 14)
    set_plain(model)
    with torch.no_grad():
        found = {"plain": float(plain_loss(model, batch)), "ours": float(our_loss(model, batch))}
    model.train()
    return found
