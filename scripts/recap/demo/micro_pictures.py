"""Pictures for the micro models: drawn small, from streams that the world never uses."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .captions import canonical_caption
from .draw import render, sample_size
from .scene import Scene, sample_scene
from .streams import Stream, generator

# Drawn a little larger than needed: resizing is what the processor does as well.
_LOW, _HIGH = 88, 144


@dataclass(frozen=True)
class PictureSet:
    """Pictures with their true captions.

    Attributes:
        pixels: (N, S, S, 3) uint8.
        scenes: what each shows.
        captions: each scene's canonical caption.
        aspects: (N, 2) float: width and height before resizing, over the shorter of the two.
    """

    pixels: np.ndarray
    scenes: list[Scene]
    captions: list[str]
    aspects: np.ndarray


def draw_pictures(seed: int, stream: Stream, count: int, side: int) -> PictureSet:
    """Draw ``count`` pictures of ``side`` x ``side`` pixels."""
    pixels = np.empty((count, side, side, 3), dtype=np.uint8)
    aspects = np.empty((count, 2))
    scenes: list[Scene] = []
    for index in range(count):
        rng = generator(seed, stream, index)
        scene = sample_scene(rng)
        width, height = sample_size(rng, _LOW, _HIGH)
        image = render(scene, rng, width, height)
        aspects[index] = np.array([width, height]) / min(width, height)
        pixels[index] = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
        scenes.append(scene)
    captions = [canonical_caption(scene) for scene in scenes]
    return PictureSet(pixels, scenes, captions, aspects)
