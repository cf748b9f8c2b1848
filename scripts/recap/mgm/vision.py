"""The CLIP query tower, and the two towers' shared view of one picture."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..errors import RecapError
from .convnext import resize_into


class ClipTower(nn.Module):
    """CLIP vision model read at ``hidden_states[select_layer]``, without the CLS token."""

    def __init__(self, model: Any, select_layer: int = -2) -> None:
        super().__init__()
        self.vision_tower = model
        self.select_layer = select_layer

    @property
    def image_size(self) -> int:
        """Edge of the tower's input in pixels."""
        return int(self.vision_tower.config.image_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return patch features.

        Args:
            images: (B, 3, s, s), normalised, s the tower's own size.

        Returns:
            (B, (s / patch)^2, width) in the tower's type. Layers after the
            selected one are not run.
        """
        model = getattr(self.vision_tower, "vision_model", self.vision_tower)
        layers = model.encoder.layers
        steps = self.select_layer if self.select_layer >= 0 else len(layers) + 1 + self.select_layer
        if not 0 <= steps <= len(layers):
            raise RecapError(
                f"mm_vision_select_layer {self.select_layer} does not exist in a CLIP tower of "
                f"{len(layers)} layers"
            )
        kind = model.embeddings.patch_embedding.weight.dtype
        hidden = model.pre_layrnorm(model.embeddings(images.to(kind)))
        for layer in layers[:steps]:
            output = layer(hidden, attention_mask=None)
            hidden = output[0] if isinstance(output, tuple) else output
        return hidden[:, 1:]


def derive_clip_view(images_aux: torch.Tensor, size: int) -> torch.Tensor:
    """Return the CLIP tower's view of pictures prepared for the auxiliary tower.

    Args:
        images_aux: (B, 3, S, S), normalised.
        size: edge of the result.

    Returns:
        float32 (B, 3, size, size): bilinear, ``align_corners=False``, no antialiasing.
    """
    return functional.interpolate(
        images_aux.float(), size=(size, size), mode="bilinear", align_corners=False
    )


def derive_clip_views(
    images_aux: torch.Tensor, size: int, grid: int = 1, whole: bool = False
) -> torch.Tensor:
    """Return all that the CLIP tower sees of each picture.

    Args:
        images_aux: (B, 3, S, S), normalised.
        size: edge of a view.
        grid: crops a side. The picture is resized to ``grid * size`` and cut.
        whole: whether the resized picture, resized once more to ``size``, is a view too.

    Returns:
        float32 (B, V, 3, size, size): crops row by row, the whole picture last.
    """
    resized = derive_clip_view(images_aux, grid * size)
    crops = resized.unflatten(3, (grid, size)).unflatten(2, (grid, size))
    views = crops.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    if not whole:
        return views
    return torch.cat([views, derive_clip_view(resized, size).unsqueeze(1)], dim=1)


def cut_aux_views(aux: torch.Tensor, grid: int = 1, whole: bool = False) -> list[torch.Tensor]:
    """Return the part of the auxiliary map that belongs to each CLIP view.

    Args:
        aux: (B, C, H, W), both edges a multiple of ``grid``.
        grid: see :func:`derive_clip_views`.
        whole: see :func:`derive_clip_views`.

    Returns:
        Maps (B, C, H / grid, W / grid) in the order of the views. Crops share
        the memory of ``aux``; the whole one is resized in float32.
    """
    height, width = aux.shape[-2] // grid, aux.shape[-1] // grid
    views = [part for row in aux.split(height, dim=2) for part in row.split(width, dim=3)]
    if whole:
        views.append(aux.new_empty((*aux.shape[:2], height, width)))
        resize_into(views[-1], aux)
    return views
