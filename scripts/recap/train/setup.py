"""What a stage needs before its first step: model, hashes of models, threads."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ..errors import RecapError
from ..hashing import digest_json, digest_tensors
from ..io import read_json
from ..mgm.checkpoint import build_model, describe_base, projector_state
from ..mgm.configuration import config_from_parts, config_to_disk
from ..mgm.lora import add_lora
from ..mgm.modeling import MGMForCausalLM
from ..mgm.parts import ModelParts
from ..mgm.quantize import quantize_language_model
from ..train_settings import FinetuneSettings, StageSettings


def fingerprint_parts(parts: ModelParts) -> dict[str, str]:
    """Return hashes of the base models' weights, of the tokenizer and of the configuration."""
    config = config_to_disk(config_from_parts(parts), "float32")
    return describe_base(parts) | {"configuration": digest_json(config)}


def projector_hash(model: MGMForCausalLM) -> str:
    """Return one hash over the 16 tensors of projector and mining, as they are in memory."""
    return digest_tensors(projector_state(model))


def largest_adapter_b(parameters: Mapping[str, nn.Parameter]) -> float:
    """Return the largest absolute entry of all B matrices among named parameters."""
    entries = [float(p.detach().abs().max()) for name, p in parameters.items() if "lora_B" in name]
    return max(entries, default=0.0)


def build_stage_model(
    parts: ModelParts, settings: StageSettings, *, seed: int, projector: Path | None
) -> MGMForCausalLM:
    """Return the model as the stage starts, frozen and trained parts set.

    Frozen weights have ``settings.dtype``. Trained ones (projector, mining,
    adapter) are float32 masters: the model casts them where it uses them, so
    gradient, moments and update are float32 whatever the type of the rest.

    Args:
        parts: folders of the base models.
        settings: of stage 1, or of stage 2, which adds an adapter.
        seed: of a fresh projector or adapter.
        projector: stage 1's result, for stage 2.

    Raises:
        RecapError: for float16, which would need loss scaling, or if a package is missing.
    """
    if settings.dtype == "float16":
        raise RecapError("dtype float16 cannot be trained here; use bfloat16 or float32")
    model = build_model(
        parts,
        dtype=settings.dtype,
        seed=seed,
        projector=projector,
        image_aspect_ratio=settings.image_aspect_ratio,
        max_length=settings.max_length,
        drop_path=settings.drop_path,
    )
    if isinstance(settings, FinetuneSettings):
        if settings.base_quantization == "nf4":
            quantize_language_model(model, getattr(torch, settings.dtype))
        add_lora(model, settings.lora, seed=seed)
        model.set_trainable("finetune")
    else:
        model.config.tune_mm_mlp_adapter = True
        model.set_trainable("pretrain")
    return model


def expected_projector_hash(manifest: Path) -> str:
    """Return the projector hash that stage 1 wrote down as its result.

    Raises:
        RecapError: if the file is not a manifest of stage 1.
    """
    document = read_json(manifest)
    details = document.get("details") if isinstance(document, dict) else None
    if not isinstance(details, dict) or details.get("stage") != "pretrain":
        raise RecapError(
            f"{manifest} is not the manifest of a pretrain stage; pass the one written beside "
            "mm_projector.safetensors with --projector-manifest"
        )
    return str(details.get("result_projector_hash"))


def use_threads(count: str | None) -> None:
    """Give torch the number of threads of ``OMP_NUM_THREADS``."""
    if count and count.isdigit() and int(count) > 0:
        torch.set_num_threads(int(count))
