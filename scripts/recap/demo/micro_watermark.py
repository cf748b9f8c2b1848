"""The watermark detector in miniature: a ViT that tells marked pictures from clean ones."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .draw import render, sample_size
from .micro_init import WHITEN, start_vision
from .micro_pictures import normalized
from .micro_training import Place, batches, count_parameters, deterministic, train
from .parallel import make_samples
from .scene import sample_scene
from .settings import WatermarkSettings
from .streams import Stream, generator
from .watermark import add_watermark

if TYPE_CHECKING:
    import torch

_LOW, _HIGH = 224, 448  # sides of the pictures before they are resized, as in the corpus
_INK = 12  # change of a channel from which a pixel counts as covered


@dataclass(frozen=True)
class _Marked:
    """Pictures, half of them with a watermark.

    Attributes:
        pixels: (N, S, S, 3) uint8.
        marked: (N,) int64, 1 where there is a watermark.
        ink: (N, P) float32, 1 for each patch that the watermark touches.
    """

    pixels: np.ndarray
    marked: np.ndarray
    ink: np.ndarray


def build_watermark(
    out: Path, seed: int, settings: WatermarkSettings, place: Place
) -> dict[str, Any]:
    """Train and save a ``ViTForImageClassification``; label 1 is a watermark.

    While it learns, another head, thrown away afterwards, says which patches
    the watermark touches: the label alone leaves a small ViT at chance.
    """
    import torch
    from torch.nn import functional
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    side = settings.image_size
    processor = ViTImageProcessorPil(size={"height": side, "width": side})
    with deterministic(seed):
        model = _new_model(settings).to(place.device)
        head = torch.nn.Linear(settings.width, 1).to(place.device)
        drawn = _pictures(seed, Stream.MICRO_MARKED, settings.pictures, settings, place)
        embeddings = model.vit.embeddings
        start_vision(
            embeddings.patch_embeddings.projection,
            embeddings.position_embeddings,
            normalized(drawn.pixels[:WHITEN], processor),
        )
        marked, ink = (torch.from_numpy(a).to(place.device) for a in (drawn.marked, drawn.ink))
        order = batches(seed, settings.pictures, settings.steps, settings.batch_size)

        def loss_at(step: int) -> "torch.Tensor":
            values = normalized(drawn.pixels[order[step]], processor, place.device)
            states = model.vit(pixel_values=values).last_hidden_state
            picked = torch.from_numpy(order[step]).to(place.device)
            where = functional.binary_cross_entropy_with_logits(
                head(states[:, 1:]).squeeze(-1), ink[picked]
            )
            return where + functional.cross_entropy(model.classifier(states[:, 0]), marked[picked])

        train(
            torch.nn.ModuleList([model, head]),
            loss_at,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            name="watermark detector",
        )
        measured = _measure(model, processor, seed, settings, place)
    model.to("cpu").save_pretrained(str(out))
    processor.save_pretrained(str(out))
    return {**measured, "parameters": count_parameters(model)}


def _new_model(settings: WatermarkSettings) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=settings.width,
            intermediate_size=2 * settings.width,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            image_size=settings.image_size,
            patch_size=settings.patch_size,
            id2label={0: "no watermark", 1: "watermark"},
            label2id={"no watermark": 0, "watermark": 1},
            dtype="float32",
        )
    )


def _pictures(
    seed: int, stream: Stream, count: int, settings: WatermarkSettings, place: Place
) -> _Marked:
    make = partial(_draw_chunk, seed, stream, settings.image_size, settings.patch_size)
    pixels, marked, ink = zip(*make_samples(make, count, place.workers), strict=True)
    return _Marked(np.stack(pixels), np.array(marked, dtype=np.int64), np.stack(ink))


def _draw_chunk(
    seed: int, stream: Stream, side: int, patch: int, indices: range
) -> list[tuple[np.ndarray, bool, np.ndarray]]:
    return [_draw(generator(seed, stream, index), side, patch) for index in indices]


def _draw(rng: np.random.Generator, side: int, patch: int) -> tuple[np.ndarray, bool, np.ndarray]:
    """Return a picture, whether it is marked, and which patches the mark touches."""
    image = render(sample_scene(rng), rng, *sample_size(rng, _LOW, _HIGH))
    clean = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    marked = bool(rng.random() < 0.5)
    pixels = clean
    if marked:
        covered = add_watermark(image, rng)
        pixels = np.asarray(covered.resize((side, side), Image.Resampling.BILINEAR))
    touched = (np.abs(pixels.astype(np.int16) - clean) > _INK).any(-1)
    grid = side // patch
    ink = touched.reshape(grid, patch, grid, patch).any((1, 3))
    return pixels, marked, ink.reshape(-1).astype(np.float32)


def _measure(
    model: Any, processor: Any, seed: int, settings: WatermarkSettings, place: Place
) -> dict[str, Any]:
    """Return how often fresh pictures are told right, and clean ones taken for marked."""
    import torch

    if not settings.held_out:
        return {}
    fresh = _pictures(seed, Stream.MICRO_MARKED_HELD_OUT, settings.held_out, settings, place)
    with torch.inference_mode():
        values = normalized(fresh.pixels, processor, place.device)
        said = model(pixel_values=values).logits.argmax(-1).cpu().numpy() == 1
    true = fresh.marked == 1
    return {
        "held_out_pictures": settings.held_out,
        "marked_found": _share(said[true]),
        "clean_taken_for_marked": _share(said[~true]),
    }


def _share(values: np.ndarray) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None
