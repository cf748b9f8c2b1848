"""CLIP, ConvNeXt and a watermark classifier in miniature: seeded random weights, real files."""

from pathlib import Path
from typing import Any

from ..mgm.convnext import ConvNextTower
from ..mgm.openclip import save_openclip_convnext
from .micro_training import deterministic
from .settings import VisionSettings


def build_clip(out: Path, seed: int, settings: VisionSettings) -> dict[str, Any]:
    """Save a ``CLIPVisionModel`` with CLIP's preprocessing; return its size."""
    from transformers import CLIPVisionConfig, CLIPVisionModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side = settings.clip_image_size
    config = CLIPVisionConfig(
        hidden_size=settings.clip_width,
        intermediate_size=4 * settings.clip_width,
        projection_dim=settings.clip_width,
        num_hidden_layers=settings.clip_layers,
        num_attention_heads=settings.clip_heads,
        image_size=side,
        patch_size=settings.clip_patch_size,
        hidden_act="quick_gelu",
        dtype="float32",
    )
    with deterministic(seed):
        model = CLIPVisionModel(config)
    model.save_pretrained(str(out))
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    processor.save_pretrained(str(out))
    return {"parameters": _parameters(model)}


def build_convnext(out: Path, seed: int, settings: VisionSettings) -> dict[str, Any]:
    """Save a ConvNeXt tower as an OpenCLIP folder; return its size.

    Layer scales are one instead of a millionth, so that the blocks of this
    untrained tower take part in its features.
    """
    import torch

    with deterministic(seed):
        tower = ConvNextTower(list(settings.convnext_depths), list(settings.convnext_dims))
        with torch.no_grad():
            for name, parameter in tower.named_parameters():
                if name.endswith("gamma"):
                    parameter.fill_(1.0)
    save_openclip_convnext(
        tower,
        out,
        timm_model_name="convnext_large",
        image_size=settings.convnext_image_size,
    )
    return {"parameters": _parameters(tower)}


def build_watermark(out: Path, seed: int, settings: VisionSettings) -> dict[str, Any]:
    """Save a ``ViTForImageClassification`` whose two probabilities stay near one half."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    side = settings.watermark_image_size
    config = ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=side // 4,
        id2label={0: "no watermark", 1: "watermark"},
        label2id={"no watermark": 0, "watermark": 1},
        dtype="float32",
    )
    with deterministic(seed):
        model = ViTForImageClassification(config)
        head: Any = model.classifier
        torch.nn.init.normal_(head.weight, std=0.02)
    model.save_pretrained(str(out))
    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(str(out))
    return {"parameters": _parameters(model)}


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
