"""The CLIP query tower, and the two towers' shared view of one picture."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..errors import RecapError


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
