"""Predictors of how much people like an image: CLIP's vision tower with a small head.

The three architectures of the package ``simple-aesthetics-predictor`` (heads by
LAION, github.com/LAION-AI/aesthetic-predictor and
christophschuhmann/improved-aesthetic-predictor), whose tensors have the same
names here; the package itself asks for an older transformers.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecapError
from .image_models import Texts, VisionModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

V1, V2_LINEAR, V2_RELU = (
    "AestheticsPredictorV1",
    "AestheticsPredictorV2Linear",
    "AestheticsPredictorV2ReLU",
)
# Widths of the head of version 2, and the dropout after each of the first three.
_WIDTHS = (1024, 128, 64, 16, 1)
_DROPOUT = (0.2, 0.2, 0.1)


class AestheticsScorer(VisionModel):
    """An aesthetics predictor; its score lies about within 0 and 10."""

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: str = "float32",
        device: str = "auto",
        divisor: float = 1.0,
    ) -> None:
        """Load the model and the PIL image processor from a local folder.

        Args:
            model: folder with the architecture's name in ``config.json``.
            dtype: floating-point type of the model.
            device: ``auto``, ``cpu`` or ``cuda``.
            divisor: what scores are divided by.

        Raises:
            RecapError: if the folder holds another or no whole model.
        """
        super().__init__(model, dtype=dtype, device=device, model_class=_class_of(model))
        self._divisor = divisor

    def score(self, images: "list[NDArray[Any]]", texts: Texts) -> list[list[float]]:
        """Return one score an image; texts are not looked at."""
        import torch

        with torch.inference_mode():
            embeds = self.model(pixel_values=self.pixels(images)).image_embeds
            embeds = embeds / embeds.norm(dim=-1, keepdim=True)
            scores = self.model.head(embeds)[:, 0].float()
        return [[value / self._divisor] for value in scores.tolist()]


def _class_of(model: str | Path) -> Any:
    from transformers import CLIPVisionConfig

    try:
        config = CLIPVisionConfig.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        raise RecapError(f"{model} is not a loadable model folder: {error}") from error
    name = (config.architectures or [""])[0]
    if name not in (V1, V2_LINEAR, V2_RELU):
        raise RecapError(
            f"{model}: config.json names the architecture {name!r}; an aesthetics predictor is "
            f"one of {V1}, {V2_LINEAR}, {V2_RELU}"
        )
    return predictor_class(name)


def predictor_class(name: str) -> Any:
    """Return the transformers class of an architecture; ``head`` maps embeddings to scores."""
    from torch import nn
    from transformers import CLIPVisionModelWithProjection

    class Predictor(CLIPVisionModelWithProjection):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            if name == V1:
                self.predictor = nn.Linear(config.projection_dim, 1)
            else:
                self.layers = _layers(config.projection_dim, activation=name == V2_RELU)
            self.post_init()

        @property
        def head(self) -> nn.Module:
            return self.predictor if name == V1 else self.layers

    Predictor.__name__ = name
    return Predictor


def _layers(width: int, *, activation: bool) -> Any:
    """Return the head of version 2; the places of its layers are the tensors' names."""
    from torch import nn

    layers: list[nn.Module] = []
    for place, wide in enumerate(_WIDTHS):
        layers.append(nn.Linear(width, wide))
        if activation and place < len(_WIDTHS) - 1:
            layers.append(nn.ReLU())
        if place < len(_DROPOUT):
            layers.append(nn.Dropout(_DROPOUT[place]))
        width = wide
    return nn.Sequential(*layers)
