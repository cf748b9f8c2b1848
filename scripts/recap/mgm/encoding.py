"""From pictures to visual embeddings: what the frozen towers see, and what is mined from it.

The first half is the same for every adapter of a base, the second is what it trained.
"""

from typing import Any

import torch

from ..errors import RecapError
from .mining import mine_patch_info
from .processing import ImagePreprocessor
from .projector import project
from .vision import cut_aux_views, derive_clip_views

PROJECTOR_MODULES = (
    "mm_projector",
    "vlm_uni_query_projector",
    "vlm_uni_aux_projector",
    "vlm_uni_val_projector",
)


@torch.no_grad()
def view_images(model: Any, images_aux: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return what both towers of a model make of pictures.

    Args:
        model: an MGM.
        images_aux: (B, 3, S, S), S = ``image_size_aux``: float32, normalised, or the
            uint8 pixels, which are normalised here.

    Returns:
        CLIP's tokens (B, V, P, D) of V views of each picture, and for each view the
        auxiliary map (B, C, H, W).

    Raises:
        RecapError: for another shape.
    """
    config = model.config
    size = config.image_size_aux
    if images_aux.ndim != 4 or tuple(images_aux.shape[1:]) != (3, size, size):
        raise RecapError(f"pictures must be (B, 3, {size}, {size}), not {tuple(images_aux.shape)}")
    if images_aux.dtype == torch.uint8:
        preprocessor = ImagePreprocessor.from_settings(config.preprocessor)
        images_aux = preprocessor.normalise(images_aux)
    layout = (config.image_grid, config.image_global)
    # The larger tower first: while a GPU is at it, the host launches the other's small kernels.
    aux = model.vision_tower_aux(images_aux)
    views = derive_clip_views(images_aux, model.vision_tower.image_size, *layout)
    tokens = model.vision_tower(views.flatten(0, 1)).unflatten(0, views.shape[:2])
    return tokens, cut_aux_views(aux.to(tokens.dtype), *layout)


def mine_views(model: Any, tokens: torch.Tensor, maps: list[torch.Tensor]) -> torch.Tensor:
    """Return the visual embeddings (B, N, hidden), before the embedding scale.

    With an image grid the whole picture's tokens come first, then the crops'.

    Args:
        model: an MGM; its ``observer`` is shown the results.
        tokens: of :func:`view_images`.
        maps: of the same.
    """
    query, key, value = (getattr(model, name) for name in PROJECTOR_MODULES[1:])
    features = [
        view + mine_patch_info(view, aux, query, key, value)
        for view, aux in zip(tokens.unbind(1), maps, strict=True)
    ]
    if model.config.image_global:
        features.insert(0, features.pop())
    mined = torch.cat(features, dim=1)
    projected = project(mined, model.mm_projector)
    if model.observer is not None:
        model.observer("vlm_uni", mined)
        model.observer("mm_projector", projected)
    return projected
