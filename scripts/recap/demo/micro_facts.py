"""Lessons in looking for the vision models: name the facts, and what lies in each patch.

Captions alone teach a small model slowly what to look at. While it learns,
linear heads read colours, shapes, sizes, layout, background and sign from the
Q-Former's output, and the object in each patch from the image encoders'. The
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
PATCH_SIZES = (*SIZES, *BACKGROUNDS)
_PATCH_FACTS = ("color", "shape_or_word", "size_or_background")
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
    """Return (N, grid * grid, 3) int8: colour, shape (or word) and size at each patch's centre.

    Indices into ``PATCH_COLORS``, ``PATCH_SHAPES`` and ``PATCH_SIZES``; patches
    of the mere background have colour 0, no shape (-100), and the background in
    the place of the size; those of a sign have no size.
    """
    targets = np.zeros((len(pictures.scenes), grid, grid, 3), dtype=np.int8)
    targets[..., 1] = _IGNORE
    centers = (np.arange(grid) + 0.5) / grid
    for row, (scene, aspect) in enumerate(zip(pictures.scenes, pictures.aspects, strict=True)):
        # Coordinates in the central square, in which scenes are laid out.
        x, y = np.meshgrid(*((centers - 0.5) * length + 0.5 for length in aspect))
        targets[row, ..., 2] = PATCH_SIZES.index(scene.background)
        if scene.sign:
            near = (abs(x - scene.sign_x) <= SIGN_HALF_WIDTH) & (
                abs(y - scene.sign_y) <= SIGN_HALF_HEIGHT + _MARGIN
            )
            targets[row, near] = 1, PATCH_SHAPES.index(scene.sign), _IGNORE
        for thing in scene.things:
            reach = thing.radius + _MARGIN
            near = (abs(x - thing.x) <= reach) & (abs(y - thing.y) <= reach)
            targets[row, near] = (
                PATCH_COLORS.index(thing.color),
                PATCH_SHAPES.index(thing.shape),
                PATCH_SIZES.index(thing.size),
            )
    return targets.reshape(len(pictures.scenes), grid * grid, 3)


class PatchLessons:
    """Throw-away heads that name what lies in each patch of a feature map."""

    def __init__(self, pictures: PictureSet, grid: int, width: int, device: str = "cpu") -> None:
        """Make fresh heads for maps of ``grid * grid`` features of ``width``."""
        import torch
        from torch import nn

        self._grid = grid
        self._targets = torch.from_numpy(patch_targets(pictures, grid)).to(device)
        self.heads: Any = nn.ModuleList(
            nn.Linear(width, len(kinds)) for kinds in (PATCH_COLORS, PATCH_SHAPES, PATCH_SIZES)
        ).to(device)

    def loss(self, picked: np.ndarray, patches: "torch.Tensor") -> "torch.Tensor":
        """Return the summed cross entropies of colour, shape (or word) and size.

        Args:
            picked: (B,) indices of the pictures.
            patches: (B, grid * grid, width), row by row.
        """
        import torch
        from torch.nn import functional

        targets = self._targets[torch.from_numpy(picked).to(self._targets.device)].long()
        total = patches.new_zeros(())
        for column, head in enumerate(self.heads):
            logits = head(patches).flatten(0, 1).float()
            target = targets[:, :, column].flatten()
            total = total + functional.cross_entropy(logits, target, ignore_index=_IGNORE)
        return total

    def accuracy(self, fresh: PictureSet, patches: "torch.Tensor") -> dict[str, float]:
        """Return the share of patches whose colour, shape (or word) and size are named right.

        Args:
            fresh: pictures that were not learnt from.
            patches: (N, grid * grid, width), their features.
        """
        import torch

        targets = torch.from_numpy(patch_targets(fresh, self._grid)).to(patches.device).long()
        shares: dict[str, float] = {}
        for column, (name, head) in enumerate(zip(_PATCH_FACTS, self.heads, strict=True)):
            target = targets[..., column]
            right = (head(patches).argmax(-1) == target)[target != _IGNORE]
            shares[f"patch_{name}_accuracy"] = round(float(right.float().mean()), 4)
        return shares


class FactLessons:
    """Throw-away heads that read a scene's facts from the Q-Former's output."""

    def __init__(self, pictures: PictureSet, width: int, device: str = "cpu") -> None:
        """Make fresh heads for query tokens of ``width``."""
        import torch
        from torch import nn

        self._targets = torch.from_numpy(fact_targets(pictures.scenes)).to(device)
        values = [len(values) for _, values in fact_names().values()]
        self.heads: Any = nn.ModuleList(nn.Linear(width, count) for count in values).to(device)

    def loss(self, picked: np.ndarray, queries: "torch.Tensor") -> "torch.Tensor":
        """Return the mean cross entropy of the facts.

        Args:
            picked: (B,) indices of the pictures.
            queries: (B, Q, width), the Q-Former's output.
        """
        import torch
        from torch.nn import functional

        targets = self._targets[torch.from_numpy(picked).to(self._targets.device)]
        facts = [
            functional.cross_entropy(head(queries[:, query]).float(), targets[:, column])
            for column, (head, (query, _)) in enumerate(
                zip(self.heads, fact_names().values(), strict=True)
            )
        ]
        return torch.stack(facts).mean()
