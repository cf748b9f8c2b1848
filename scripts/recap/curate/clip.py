"""CLIP's two towers: the cosine of images and texts, in batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .image_models import Texts, TextVisionModel

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


class ClipScorer(TextVisionModel):
    """A whole ``CLIPModel``; texts are cut at its window, each distinct one encoded once."""

    def __init__(self, model: str | Path, **how: Any) -> None:
        """Load model, tokenizer and the PIL image processor from a local folder.

        Args:
            model: folder of a ``CLIPModel`` with tokenizer and image processor.
            how: type, batch size and device, see :class:`TextVisionModel`; cosines are
                taken in float32 or above.

        Raises:
            RecapError: if the folder is not a whole CLIP model, for instance a
                vision tower alone, whose text side would be random.
        """
        from transformers import CLIPModel

        super().__init__(model, model_class=CLIPModel, **how)
        self._window = self.model.config.text_config.max_position_embeddings
        self._known: dict[str, NDArray[Any]] = {}

    @property
    def logit_scale(self) -> float:
        """Return what CLIP multiplies a cosine by before its softmax."""
        return float(self.model.logit_scale.detach().float().exp())

    def score(self, images: "list[NDArray[Any]]", texts: Texts) -> list[list[float]]:
        """Return each image's cosine with each of its texts, float64 within -1 and 1."""
        import numpy as np

        vectors = self.encode_images(images)
        words = self.encode_texts([text for wanted in texts for text in wanted])
        return [
            [
                float(np.clip(np.dot(vector.astype(np.float64), words[text]), -1.0, 1.0))
                for text in wanted
            ]
            for vector, wanted in zip(vectors, texts, strict=True)
        ]

    def encode_images(self, images: "list[NDArray[Any]]") -> "list[NDArray[Any]]":
        """Return a unit vector, float32 (D,), of each prepared image."""
        import torch

        with torch.inference_mode():
            output = self.model.get_image_features(pixel_values=self.pixels(images))
        return _unit(output)

    def encode_texts(self, texts: Sequence[str]) -> "dict[str, NDArray[Any]]":
        """Return a unit vector, float32 (D,), of each distinct text; known ones are kept."""
        import torch

        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(new), self._batch_size):
            batch = new[start : start + self._batch_size]
            tokens = self._tokenizer(
                batch,
                padding=True,
                truncation=True,
                max_length=self._window,
                return_tensors="pt",
            ).to(self.device)
            with torch.inference_mode():
                output = self.model.get_text_features(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                )
            self._known |= dict(zip(batch, _unit(output), strict=True))
        return self._known


def _unit(output: Any) -> "list[NDArray[Any]]":
    features: torch.Tensor = output.pooler_output.float()
    return list((features / features.norm(dim=-1, keepdim=True)).cpu().numpy())
