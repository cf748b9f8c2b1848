"""The world's pictures: drawn as they are, or with the flaws that pictures have on the web."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .draw import encode_jpeg, render, sample_size
from .scene import Scene, sample_scene
from .settings import WorldSettings
from .streams import Stream, generator
from .watermark import add_watermark

_TINY_LOW, _TINY_HIGH = 96, 200
_LOOK_BACK = 50


@dataclass(frozen=True)
class CorpusPicture:
    """A picture of the corpus.

    Attributes:
        scene: what it shows.
        jpeg: the file.
        size: width and height in pixels.
        kind: ``normal``, ``tiny``, ``duplicate`` or ``near_duplicate``.
        duplicate_of: index of the record that it repeats.
        watermark: whether there is one; copies inherit it.
    """

    scene: Scene
    jpeg: bytes
    size: tuple[int, int]
    kind: str
    duplicate_of: int | None
    watermark: bool


def draw_picture(
    seed: int, stream: Stream, index: int, low: int, high: int
) -> tuple[Scene, bytes, tuple[int, int]]:
    """Return scene, JPEG bytes, and (width, height) of picture ``index`` of a stream."""
    rng = generator(seed, stream, index)
    scene = sample_scene(rng)
    width, height = sample_size(rng, low, high)
    return scene, encode_jpeg(render(scene, rng, width, height), rng), (width, height)


def corpus_picture(settings: WorldSettings, index: int) -> CorpusPicture:
    """Return the picture of record ``index``: a function of the settings' rates and the index."""
    rng = generator(settings.seed, Stream.IMAGE_FLAW, index)
    kind = _kind(settings, index, float(rng.random()))
    marked = bool(rng.random() < settings.images.watermark)
    if kind in ("duplicate", "near_duplicate"):
        source = _source(settings, index, rng)
        first = corpus_picture(settings, source)
        jpeg = first.jpeg if kind == "duplicate" else _alter(first.jpeg, rng)
        return CorpusPicture(first.scene, jpeg, first.size, kind, source, first.watermark)
    low, high = settings.image_min_side, settings.image_max_side
    if kind == "tiny":
        low, high = _TINY_LOW, _TINY_HIGH
    own = generator(settings.seed, Stream.RECORD, index)
    scene = sample_scene(own)
    size = sample_size(own, low, high)
    image = render(scene, own, *size)
    if marked:
        image = add_watermark(image, rng)
    return CorpusPicture(scene, encode_jpeg(image, own), size, kind, None, marked)


def _kind(settings: WorldSettings, index: int, draw: float) -> str:
    """Return the kind that ``draw`` in [0, 1) falls into; the first picture is normal."""
    if index == 0:
        return "normal"
    edge = 0.0
    for kind in ("tiny", "duplicate", "near_duplicate"):
        edge += getattr(settings.images, kind)
        if draw < edge:
            return kind
    return "normal"


def _source(settings: WorldSettings, index: int, rng: np.random.Generator) -> int:
    """Return a normal record up to fifty before ``index``, or the nearest one before those."""
    source = index - int(rng.integers(1, min(index, _LOOK_BACK) + 1))
    while source > 0:
        draw = generator(settings.seed, Stream.IMAGE_FLAW, source).random()
        if _kind(settings, source, float(draw)) == "normal":
            break
        source -= 1
    return source


def _alter(jpeg: bytes, rng: np.random.Generator) -> bytes:
    """Crop up to 2 % off each edge, scale back, shift brightness by up to 6 %, encode again."""
    with Image.open(io.BytesIO(jpeg)) as image:
        width, height = image.size
        left, top, right, bottom = rng.uniform(0, 0.02, 4).tolist()
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        scaled = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    gain = float(rng.uniform(0.94, 1.06))
    return encode_jpeg(scaled.point(lambda value: value * gain), rng)
