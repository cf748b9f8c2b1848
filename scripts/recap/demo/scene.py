"""What a picture shows, as facts: the single source of pictures, captions and answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (44, 150, 60),
    "blue": (36, 86, 200),
    "yellow": (245, 208, 38),
    "purple": (130, 52, 160),
    "orange": (244, 128, 24),
    "black": (24, 24, 28),
    "pink": (246, 130, 178),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (246, 246, 244),
    "grey": (158, 160, 164),
    "beige": (226, 208, 172),
    "teal": (120, 190, 190),
}
# Radius as a share of the picture's shorter side, before the scale for few objects.
SIZES: dict[str, float] = {"large": 0.165, "medium": 0.13, "small": 0.095}
SIGN_WORDS = (
    "open", "sale", "stop", "exit", "taxi", "cafe", "park", "shop", "bank", "hotel", "pizza",
    "music", "books", "fresh", "lunch", "north", "train", "free", "slow", "menu", "bread",
    "juice", "zoo", "gym",
)  # fmt: skip
PLACES = ("left", "right", "top", "bottom", "middle")


@dataclass(frozen=True)
class Thing:
    """One drawn object.

    Attributes:
        x: centre, as a share of the central square's side, from the left.
        y: the same from the top.
        radius: as a share of the central square's side.
        place: the word that locates it among the others, one of ``PLACES``.
    """

    color: str
    shape: str
    size: str
    place: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """One to three objects in a row or column, a background, and maybe a sign.

    Colours, shapes and sizes are distinct within a scene, so that each of them
    names one object. ``things`` go from left to right or from top to bottom.
    """

    things: tuple[Thing, ...]
    arrangement: str  # "single", "row" or "column"
    background: str
    sign: str | None
    sign_x: float = 0.5
    sign_y: float = 0.5

    def facts(self) -> dict[str, Any]:
        """Return the facts as JSON values, without coordinates."""
        return {
            "arrangement": self.arrangement,
            "background": self.background,
            "sign": self.sign,
            "objects": [
                {"color": t.color, "shape": t.shape, "size": t.size, "place": t.place}
                for t in self.things
            ],
        }


def sample_scene(rng: np.random.Generator, sign_probability: float = 0.55) -> Scene:
    """Draw a scene: 1, 2 or 3 objects with probabilities 0.35, 0.4 and 0.25."""
    count = int(rng.choice(3, p=[0.35, 0.4, 0.25])) + 1
    colors = rng.permutation(list(COLORS))[:count]
    shapes = rng.permutation(SHAPES)[:count]
    sizes = rng.permutation(list(SIZES))[:count]
    has_sign = bool(rng.random() < sign_probability)
    word = str(rng.choice(SIGN_WORDS))
    background = str(rng.choice(list(BACKGROUNDS)))
    arrangement, spots = _layout(rng, count)
    scale = {1: 1.5, 2: 1.25, 3: 1.0}[count]
    sign_side = bool(rng.random() < 0.5)
    shift, sign_x, sign_y = _sign_room(arrangement, spots, sign_side)
    if not has_sign:
        shift = (0.0, 0.0)
    things = tuple(
        Thing(
            color=str(colors[i]),
            shape=str(shapes[i]),
            size=str(sizes[i]),
            place=place,
            x=x + shift[0] + float(rng.uniform(-0.02, 0.02)),
            y=y + shift[1] + float(rng.uniform(-0.02, 0.02)),
            radius=SIZES[str(sizes[i])] * scale,
        )
        for i, (x, y, place) in enumerate(spots)
    )
    if not has_sign:
        return Scene(things, arrangement, background, None)
    return Scene(things, arrangement, background, word, sign_x, sign_y)


def _layout(rng: np.random.Generator, count: int) -> tuple[str, list[tuple[float, float, str]]]:
    """Return the arrangement and a (x, y, place) for each object, sign left out."""
    if count == 1:
        place = str(rng.choice(PLACES))
        spot = {
            "left": (0.27, 0.5),
            "right": (0.73, 0.5),
            "top": (0.5, 0.27),
            "bottom": (0.5, 0.73),
            "middle": (0.5, 0.5),
        }[place]
        return "single", [(*spot, place)]
    steps = {2: (0.27, 0.73), 3: (0.17, 0.5, 0.83)}[count]
    if rng.random() < 0.5:
        names = ("left", "right") if count == 2 else ("left", "middle", "right")
        return "row", [(step, 0.5, name) for step, name in zip(steps, names, strict=True)]
    names = ("top", "bottom") if count == 2 else ("top", "middle", "bottom")
    return "column", [(0.5, step, name) for step, name in zip(steps, names, strict=True)]


def _sign_room(
    arrangement: str, spots: list[tuple[float, float, str]], side: bool
) -> tuple[tuple[float, float], float, float]:
    """Return how far the objects move for a sign, and the sign's centre."""
    place = spots[0][2]
    if arrangement == "column":
        return ((0.25, 0.0), 0.28, 0.5) if side else ((-0.25, 0.0), 0.72, 0.5)
    if arrangement == "single" and place in ("top", "bottom"):
        return ((0.0, 0.0), 0.5, 0.85 if place == "top" else 0.15)
    if arrangement == "single" and place == "middle":
        return ((0.0, 0.0), 0.5, 0.88 if side else 0.12)
    return ((0.0, -0.14), 0.5, 0.86) if side else ((0.0, 0.14), 0.5, 0.14)
