"""Lessons in looking for the captioner: name the facts, and what lies in each patch.

Captions alone teach a small model slowly what to look at. While it learns,
linear heads read colours, shapes, sizes, layout, background and sign from the
Q-Former's output, and the object in each patch from the image encoder's. The
heads are thrown away afterwards.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from .draw import SIGN_HALF_HEIGHT, SIGN_HALF_WIDTH
from .micro_pictures import PictureSet
from .scene import BACKGROUNDS, COLORS, PLACES, SHAPES, SIGN_WORDS, SIZES, Scene

if TYPE_CHECKING:
    import torch

MAX_THINGS = 3
_NONE = "none"
_LAYOUTS = (*PLACES, "row 2", "row 3", "column 2", "column 3")
PATCH_COLORS = (_NONE, "sign", *COLORS)
PATCH_SHAPES = (_NONE, *SHAPES, *SIGN_WORDS)
_IGNORE = -100
# A patch counts as an object's if its centre is this near to it, in sides of the picture.
_MARGIN = 0.02


def fact_names() -> dict[str, tuple[int, tuple[str, ...]]]:
    """Return each fact's query token and its possible values, first what is absent."""
    names: dict[str, tuple[int, tuple[str, ...]]] = {}
    for number in range(MAX_THINGS):
        names[f"color {number}"] = (number, (_NONE, *COLORS))
        names[f"shape {number}"] = (number, (_NONE, *SHAPES))
        names[f"size {number}"] = (number, (_NONE, *SIZES))
    names["layout"] = (3, (_NONE, *_LAYOUTS))
    names["background"] = (4, (_NONE, *BACKGROUNDS))
    names["sign"] = (5, (_NONE, *SIGN_WORDS))
    return names


def fact_targets(scenes: list[Scene]) -> np.ndarray:
    """Return (N, F) int64: the index of each fact's value, in the order of :func:`fact_names`."""
    names = fact_names()
    targets = np.zeros((len(scenes), len(names)), dtype=np.int64)
    for row, scene in enumerate(scenes):
        facts = _facts(scene)
        for column, (name, (_, values)) in enumerate(names.items()):
            targets[row, column] = values.index(facts.get(name, _NONE))
    return targets


def _facts(scene: Scene) -> dict[str, str]:
    count = len(scene.things)
    layout = scene.things[0].place if count == 1 else f"{scene.arrangement} {count}"
    facts = {"layout": layout, "background": scene.background, "sign": scene.sign or _NONE}
    for number, thing in enumerate(scene.things):
        facts[f"color {number}"] = thing.color
        facts[f"shape {number}"] = thing.shape
        facts[f"size {number}"] = thing.size
    return facts


def patch_targets(pictures: PictureSet, grid: int) -> np.ndarray:
    """Return (N, grid * grid, 2) int64: colour and shape (or word) at each patch's centre.

    Indices into ``PATCH_COLORS`` and ``PATCH_SHAPES``; patches of the mere
    background have colour 0 and no shape (-100).
    """
    targets = np.zeros((len(pictures.scenes), grid, grid, 2), dtype=np.int64)
    targets[..., 1] = _IGNORE
    centers = (np.arange(grid) + 0.5) / grid
    for row, (scene, aspect) in enumerate(zip(pictures.scenes, pictures.aspects, strict=True)):
        # Coordinates in the central square, in which scenes are laid out.
        x, y = np.meshgrid(*((centers - 0.5) * length + 0.5 for length in aspect))
        if scene.sign:
            near = (abs(x - scene.sign_x) <= SIGN_HALF_WIDTH) & (
                abs(y - scene.sign_y) <= SIGN_HALF_HEIGHT + _MARGIN
            )
            targets[row, near] = 1, PATCH_SHAPES.index(scene.sign)
        for thing in scene.things:
            reach = thing.radius + _MARGIN
            near = (abs(x - thing.x) <= reach) & (abs(y - thing.y) <= reach)
            targets[row, near] = PATCH_COLORS.index(thing.color), PATCH_SHAPES.index(thing.shape)
    return targets.reshape(len(pictures.scenes), grid * grid, 2)


class Lessons:
    """The throw-away heads and their targets for one set of pictures."""

    def __init__(
        self, pictures: PictureSet, grid: int, *, query_width: int, patch_width: int
    ) -> None:
        """Make fresh heads for features of the given widths."""
        import torch
        from torch import nn

        self._facts = torch.from_numpy(fact_targets(pictures.scenes))
        self._patches = torch.from_numpy(patch_targets(pictures, grid))
        values = [len(values) for _, values in fact_names().values()]
        self._fact_heads = nn.ModuleList(nn.Linear(query_width, count) for count in values)
        self._patch_heads = nn.ModuleList(
            nn.Linear(patch_width, len(kinds)) for kinds in (PATCH_COLORS, PATCH_SHAPES)
        )
        self.heads: Any = nn.ModuleList([self._fact_heads, self._patch_heads])

    def loss(
        self, picked: np.ndarray, queries: "torch.Tensor", encoded: "torch.Tensor"
    ) -> "torch.Tensor":
        """Return the mean cross entropy of the facts plus those of the patches.

        Args:
            picked: (B,) indices of the pictures.
            queries: (B, Q, query_width), the Q-Former's output.
            encoded: (B, 1 + grid * grid, patch_width), the image encoder's output.
        """
        import torch
        from torch.nn import functional

        facts = [
            functional.cross_entropy(head(queries[:, query]), self._facts[picked, column])
            for column, (head, (query, _)) in enumerate(
                zip(self._fact_heads, fact_names().values(), strict=True)
            )
        ]
        total: torch.Tensor = torch.stack(facts).mean()
        for column, head in enumerate(self._patch_heads):
            logits = head(encoded[:, 1:]).flatten(0, 1)
            target = self._patches[picked, :, column].flatten()
            total = total + functional.cross_entropy(logits, target, ignore_index=_IGNORE)
        return total
