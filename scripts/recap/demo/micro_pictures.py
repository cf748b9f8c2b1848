"""Pictures for the micro models: drawn small, from streams that the world never uses."""

import io
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from .captions import canonical_caption
from .draw import encode_jpeg, render, sample_size
from .parallel import make_samples
from .scene import Scene, sample_scene
from .streams import Stream, generator

if TYPE_CHECKING:
    import torch

# Drawn larger than needed: resizing is what the processor does as well.
_LOW, _HIGH = 1.4, 3.0
_JPEG_SHARE = 0.5
_PAD_COLOR = (122, 116, 104)

Fit = Literal["squash", "view"]


@dataclass(frozen=True)
class PictureSet:
    """Pictures with their true captions.

    Attributes:
        pixels: (N, S, S, 3) uint8.
        scenes: what each shows.
        captions: each scene's canonical caption.
        aspects: (N, 2) float: width and height of the square picture, over the
            side of the central square in which the scene is laid out.
    """

    pixels: np.ndarray
    scenes: list[Scene]
    captions: list[str]
    aspects: np.ndarray


def draw_pictures(
    seed: int, stream: Stream, count: int, side: int, *, fit: Fit = "squash", workers: int = 1
) -> PictureSet:
    """Draw ``count`` pictures of ``side`` x ``side`` pixels.

    Args:
        seed: of the stream.
        stream: which pictures.
        count: how many.
        side: edge in pixels.
        fit: ``squash`` resizes width and height apart, as BLIP2's processor does;
            ``view`` crops or pads to a square, as MGM does in stages 1 and 2.
        workers: processes; the result does not depend on it.
    """
    pixels = np.empty((count, side, side, 3), dtype=np.uint8)
    aspects = np.empty((count, 2))
    scenes: list[Scene] = []
    make = partial(_draw_chunk, seed, stream, side, fit)
    for index, (scene, drawn, aspect) in enumerate(make_samples(make, count, workers)):
        pixels[index], aspects[index] = drawn, aspect
        scenes.append(scene)
    captions = [canonical_caption(scene) for scene in scenes]
    return PictureSet(pixels, scenes, captions, aspects)


def normalized(pixels: np.ndarray, processor: Any, device: Any = "cpu") -> "torch.Tensor":
    """Return (B, 3, S, S) float32 from (B, S, S, 3) uint8, normalised as ``processor`` does.

    Args:
        pixels: pictures.
        processor: an image processor, or one that has an ``image_processor``.
        device: where the result lives.
    """
    import torch

    images = getattr(processor, "image_processor", processor)
    mean = torch.tensor(images.image_mean, device=device)
    std = torch.tensor(images.image_std, device=device)
    values = torch.from_numpy(pixels).to(device).float() / 255
    return ((values - mean) / std).permute(0, 3, 1, 2).contiguous()


def _draw_chunk(
    seed: int, stream: Stream, side: int, fit: Fit, indices: range
) -> list[tuple[Scene, np.ndarray, tuple[float, float]]]:
    return [_draw(generator(seed, stream, index), side, fit) for index in indices]


def _draw(
    rng: np.random.Generator, side: int, fit: Fit
) -> tuple[Scene, np.ndarray, tuple[float, float]]:
    scene = sample_scene(rng)
    width, height = sample_size(rng, round(_LOW * side), round(_HIGH * side))
    image = render(scene, rng, width, height)
    if rng.random() < _JPEG_SHARE:
        image = Image.open(io.BytesIO(encode_jpeg(image, rng)))
    shorter, longer = min(width, height), max(width, height)
    aspect = (width / shorter, height / shorter)
    if fit == "view" and rng.random() < 0.5:
        left, top = (width - shorter) // 2, (height - shorter) // 2
        image = image.crop((left, top, left + shorter, top + shorter))
        aspect = (1.0, 1.0)
    elif fit == "view":
        canvas = Image.new("RGB", (longer, longer), _PAD_COLOR)
        canvas.paste(image, ((longer - width) // 2, (longer - height) // 2))
        image, aspect = canvas, (longer / shorter, longer / shorter)
    return scene, np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)), aspect
