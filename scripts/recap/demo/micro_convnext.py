"""ConvNeXt in miniature, as an OpenCLIP folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..mgm.convnext import ConvNextTower
from ..mgm.openclip import save_openclip_convnext
from .micro_clip import clip_processor
from .micro_facts import PatchLessons
from .micro_pictures import PictureSet, draw_pictures, normalized
from .micro_training import Place, batches, count_parameters, deterministic, train
from .settings import ConvNextSettings
from .streams import Stream

if TYPE_CHECKING:
    import torch


def build_convnext(
    out: Path, seed: int, settings: ConvNextSettings, place: Place
) -> dict[str, Any]:
    """Train and save a ConvNeXt tower.

    Its four stages, brought to one size as MGM does, learn to name what lies in
    each patch. Layer scales start at one instead of a millionth: the training
    is short.
    """
    import torch

    processor = clip_processor(settings.image_size)

    def draw(stream: Stream, count: int) -> PictureSet:
        side = settings.image_size
        return draw_pictures(seed, stream, count, side, fit="view", workers=place.workers)

    def features(pixels: np.ndarray) -> "torch.Tensor":
        maps = tower(normalized(pixels, processor, place.device))
        pooled = torch.nn.functional.adaptive_avg_pool2d(maps, settings.grid)
        return pooled.flatten(2).transpose(1, 2)

    with deterministic(seed):
        tower = _new_tower(settings).to(place.device)
        pictures = draw(Stream.MICRO_PICTURE, settings.pictures)
        width = sum(settings.dims)
        lessons = PatchLessons(pictures, settings.grid, width, place.device)
        order = batches(seed, settings.pictures, settings.steps, settings.batch_size)
        losses = train(
            torch.nn.ModuleList([tower, lessons.heads]),
            lambda step: lessons.loss(order[step], features(pictures.pixels[order[step]])),
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            name="ConvNeXt",
        )
        measured: dict[str, Any] = {}
        if settings.held_out:
            fresh = draw(Stream.MICRO_HELD_OUT, settings.held_out)
            with torch.inference_mode():
                shares = lessons.accuracy(fresh, features(fresh.pixels))
            measured = {"held_out_pictures": settings.held_out, **shares}
    save_openclip_convnext(
        tower.to("cpu"),
        out,
        timm_model_name="convnext_large",
        image_size=settings.image_size,
    )
    return {
        "first_loss": round(losses[0], 4) if losses else None,
        "last_loss": round(float(np.mean(losses[-10:])), 4) if losses else None,
        **measured,
        "parameters": count_parameters(tower),
    }


def _new_tower(settings: ConvNextSettings) -> ConvNextTower:
    import torch

    tower = ConvNextTower(list(settings.depths), list(settings.dims))
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(1.0)
    return tower
