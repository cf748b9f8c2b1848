"""CLIP in miniature, both halves, in the real files' layout."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..mgm.vision import ClipTower, derive_clip_view
from .micro_facts import PatchLessons
from .micro_pictures import PictureSet, draw_pictures, normalized
from .micro_tokenizers import build_clip_tokenizer
from .micro_training import Place, batches, count_parameters, deterministic, train
from .settings import ClipSettings
from .streams import Stream

if TYPE_CHECKING:
    import torch

_TEXT_TOKENS = 48
_SELECT_LAYER = -2


def clip_processor(side: int) -> Any:
    """Return CLIP's own preprocessing at ``side`` pixels."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )


def build_clip(out: Path, seed: int, settings: ClipSettings, place: Place) -> dict[str, Any]:
    """Train and save a ``CLIPModel`` with tokenizer and preprocessing.

    Pictures and true captions are told apart by contrast; beside it the layer
    that MGM reads learns to name what lies in each patch.
    """
    import torch
    from transformers import CLIPModel

    tokenizer = build_clip_tokenizer(seed, settings.vocabulary)
    processor = clip_processor(settings.image_size)
    with deterministic(seed):
        model: Any = CLIPModel(_clip_config(settings, tokenizer))
        model.to(place.device)
        tower = ClipTower(model.vision_model, _SELECT_LAYER)
        pictures = _views(seed, Stream.MICRO_PICTURE, settings.pictures, settings.view_size, place)
        grid = settings.image_size // settings.patch_size
        lessons = PatchLessons(pictures, grid, settings.width, place.device)
        texts = _text_ids(tokenizer, pictures.captions)
        order = batches(seed, settings.pictures, settings.steps, settings.batch_size)

        def loss_at(step: int) -> "torch.Tensor":
            picked = order[step]
            small = _small(pictures.pixels[picked], processor, settings, place.device)
            ids = torch.from_numpy(texts[picked]).to(place.device)
            output = model(pixel_values=small, input_ids=ids, attention_mask=(ids != 0).long())
            return _contrast(output.logits_per_image) + lessons.loss(picked, tower(small))

        train(
            torch.nn.ModuleList([model, lessons.heads]),
            loss_at,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            name="CLIP",
        )
        measured = _measure_clip(model, lessons, tokenizer, processor, seed, settings, place)
    model.to("cpu").save_pretrained(str(out))
    processor.save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))
    return {**measured, "parameters": count_parameters(model)}


def _clip_config(settings: ClipSettings, tokenizer: Any) -> Any:
    from transformers import CLIPConfig

    return CLIPConfig(
        vision_config={
            "hidden_size": settings.width,
            "intermediate_size": 4 * settings.width,
            "projection_dim": settings.width,
            "num_hidden_layers": settings.layers,
            "num_attention_heads": settings.heads,
            "image_size": settings.image_size,
            "patch_size": settings.patch_size,
            "hidden_act": "quick_gelu",
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": settings.text_width,
            "intermediate_size": 4 * settings.text_width,
            "projection_dim": settings.width,
            "num_hidden_layers": settings.text_layers,
            "num_attention_heads": settings.heads,
            "max_position_embeddings": _TEXT_TOKENS,
            "hidden_act": "quick_gelu",
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        projection_dim=settings.width,
        dtype="float32",
    )


def _views(seed: int, stream: Stream, count: int, side: int, place: Place) -> PictureSet:
    return draw_pictures(seed, stream, count, side, fit="view", workers=place.workers)


def _small(
    pixels: np.ndarray, processor: Any, settings: ClipSettings, device: str
) -> "torch.Tensor":
    """Return CLIP's view, derived from the auxiliary tower's as MGM derives it."""
    return derive_clip_view(normalized(pixels, processor, device), settings.image_size)


def _text_ids(tokenizer: Any, captions: list[str]) -> np.ndarray:
    """Return (N, ``_TEXT_TOKENS``) int64."""
    encoded = tokenizer(captions, padding="max_length", truncation=True, max_length=_TEXT_TOKENS)
    return np.array(encoded.input_ids, dtype=np.int64)


def _contrast(logits: "torch.Tensor") -> "torch.Tensor":
    """Return CLIP's symmetric cross entropy of (B, B) logits."""
    import torch
    from torch.nn import functional

    target = torch.arange(len(logits), device=logits.device)
    return (
        functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    ) / 2


def _measure_clip(
    model: Any,
    lessons: PatchLessons,
    tokenizer: Any,
    processor: Any,
    seed: int,
    settings: ClipSettings,
    place: Place,
) -> dict[str, Any]:
    """Return how often the true caption is nearer than another picture's, on fresh pictures."""
    import torch

    if not settings.held_out:
        return {}
    fresh = _views(seed, Stream.MICRO_HELD_OUT, settings.held_out, settings.view_size, place)
    with torch.inference_mode():
        small = _small(fresh.pixels, processor, settings, place.device)
        ids = torch.from_numpy(_text_ids(tokenizer, fresh.captions)).to(place.device)
        logits = model(
            pixel_values=small, input_ids=ids, attention_mask=(ids != 0).long()
        ).logits_per_image
        patches = lessons.accuracy(fresh, ClipTower(model.vision_model, _SELECT_LAYER)(small))
    true, other = logits.diagonal(), logits.roll(1, dims=1).diagonal()
    scale = float(model.logit_scale.detach().exp())
    return {
        "held_out_pictures": settings.held_out,
        "true_caption_nearer": round(float((true > other).float().mean()), 4),
        "mean_similarity_true": round(float(true.mean()) / scale, 4),
        "mean_similarity_other": round(float(other.mean()) / scale, 4),
        **patches,
    }
