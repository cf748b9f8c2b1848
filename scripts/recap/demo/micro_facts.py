"""A second lesson for the captioner: name the facts from the query tokens.

Captions alone teach a small model slowly what to look at. While it learns,
linear heads read colours, shapes, sizes, layout, background and sign from the
Q-Former's output; they are thrown away afterwards.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from .scene import BACKGROUNDS, COLORS, PLACES, SHAPES, SIGN_WORDS, SIZES, Scene

if TYPE_CHECKING:
    import torch

MAX_THINGS = 3
_NONE = "none"
_LAYOUTS = (*PLACES, "row 2", "row 3", "column 2", "column 3")


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


def make_heads(width: int) -> Any:
    """Return a ``ModuleList`` of one linear head a fact."""
    from torch import nn

    return nn.ModuleList(nn.Linear(width, len(values)) for _, values in fact_names().values())


def fact_loss(heads: Any, queries: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    """Return the mean cross entropy of all facts.

    Args:
        heads: what :func:`make_heads` returned.
        queries: (B, Q, width), the Q-Former's output.
        targets: (B, F) int64.
    """
    import torch
    from torch.nn import functional

    losses = []
    for column, (query, _) in enumerate(fact_names().values()):
        logits = heads[column](queries[:, query % queries.shape[1]])
        losses.append(functional.cross_entropy(logits, targets[:, column]))
    return torch.stack(losses).mean()
