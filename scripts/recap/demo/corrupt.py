"""Makes true captions bad the way alternative texts on the web are bad."""

from collections.abc import Callable

import numpy as np

from .captions import caption
from .foreign import foreign_caption
from .scene import COLORS, SHAPES, Scene, sample_scene
from .settings import CorruptionRates

_SPAM = (
    "cheap", "free shipping", "best price", "buy online", "wallpaper", "hd", "download",
    "2024", "sale", "poster", "print", "gift", "discount", "shapes", "clipart", "vector",
    "stock photo", "new", "for kids", "deals",
)  # fmt: skip
_BRANDS = ("kostenk", "breccinano", "incato", "velmora", "dakorn", "belardo", "anarka", "tronix")
_GOODS = ("wall art", "phone case", "tote bag", "sticker set", "canvas", "mug", "rug", "lamp")


def choose_corruption(rates: CorruptionRates, draw: float) -> str:
    """Return the kind that a uniform ``draw`` in [0, 1) falls into, or ``none``."""
    edge = 0.0
    for kind, rate in rates.model_dump().items():
        edge += rate
        if draw < edge:
            return str(kind)
    return "none"


def corrupt(kind: str, true_caption: str, scene: Scene, rng: np.random.Generator) -> str:
    """Return the raw caption of a record: ``true_caption`` spoiled in the way ``kind``."""
    if kind == "none":
        return true_caption
    return _CORRUPTIONS[kind](true_caption, scene, rng)


def _off_topic(true_caption: str, scene: Scene, rng: np.random.Generator) -> str:
    """Caption another scene, one that shares no colour and no shape with this one if possible."""
    shown = {word for thing in scene.things for word in (thing.color, thing.shape)}
    for _ in range(20):
        other = sample_scene(rng)
        if not shown & {word for thing in other.things for word in (thing.color, thing.shape)}:
            break
    return caption(other, rng)


def _truncation(true_caption: str, scene: Scene, rng: np.random.Generator) -> str:
    """Cut after 25 to 55 % of the characters, wherever that falls."""
    return true_caption[: max(8, int(len(true_caption) * rng.uniform(0.25, 0.55)))].rstrip(" ,")


def _keyword_spam(true_caption: str, scene: Scene, rng: np.random.Generator) -> str:
    picked = [str(word) for word in rng.choice(_SPAM, size=int(rng.integers(4, 9)), replace=False)]
    return f"{rng.choice(list(COLORS))} {rng.choice(SHAPES)} {' '.join(picked)}"


def _word_repetition(true_caption: str, scene: Scene, rng: np.random.Generator) -> str:
    word = scene.things[0].shape if rng.random() < 0.5 else scene.things[0].color
    times = int(rng.integers(4, 9))
    return f"{' '.join([word] * times)} {' '.join(true_caption.split()[:4])}"


def _brand_soup(true_caption: str, scene: Scene, rng: np.random.Generator) -> str:
    first, second = rng.choice(_BRANDS, size=2, replace=False)
    model = f"{rng.choice(list('abcdxz'))}{int(rng.integers(10, 999))}"
    color = rng.choice(list(COLORS))
    return f"{first} {rng.choice(_GOODS)} {model} - {color} by {second}, size {rng.choice(_SIZES)}"


def _non_english(true_caption: str, scene: Scene, rng: np.random.Generator) -> str:
    return foreign_caption(scene, rng)


_SIZES = ("s", "m", "xl", "30 x 40 cm", "one size")
_CORRUPTIONS: dict[str, Callable[[str, Scene, np.random.Generator], str]] = {
    "off_topic": _off_topic,
    "truncation": _truncation,
    "keyword_spam": _keyword_spam,
    "word_repetition": _word_repetition,
    "brand_soup": _brand_soup,
    "non_english": _non_english,
}
