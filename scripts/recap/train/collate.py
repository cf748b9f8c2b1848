"""From samples to the tensors of one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..mgm.conversation import IGNORE_INDEX
from ..mgm.splicing import lay_out

# Lengths 0 and 1 would be compiled anew.
_EMPTY_LENGTH = 2


@dataclass(frozen=True)
class Collator:
    """Pads on the right and stacks the images in batch order.

    Attributes:
        pad_id: token id of the padding.
        image_tokens: positions a picture takes; with it, ``layout`` is made here.
        max_length: longest sample in positions.
        multiple: rows are padded to a multiple of so many positions, with ``image_tokens``.
    """

    pad_id: int = 0
    image_tokens: int = 0
    max_length: int = 1 << 30
    multiple: int = 1

    def __call__(self, batch: Sequence[Any]) -> dict[str, Any]:
        """Return ``input_ids``, ``labels``, ``attention_mask`` (B, T) and maybe ``images_aux``.

        ``images_aux`` (number of image samples, 3, S, S) is left out if no
        sample of the batch has an image. ``layout`` (:class:`..mgm.splicing.Layout`) tells how
        samples and images make rows; an entry of ``batch`` is a sample, or the list of samples
        that share a row. An empty batch becomes a short row of padding, in which nothing is
        predicted: a pass that changes nothing, for ranks that must make one all the same.
        """
        rows = [row if isinstance(row, list) else [row] for row in batch or [self._nothing()]]
        samples = [sample for row in rows for sample in row]
        tensors = self._pad(samples)
        if self.image_tokens:
            tensors["layout"] = lay_out(
                tensors["input_ids"],
                tensors["attention_mask"],
                tensors["labels"],
                image_tokens=self.image_tokens,
                max_length=self.max_length,
                padding_side="right",
                samples_of_row=[len(row) for row in rows],
                multiple=self.multiple,
            )
        images = [sample["image"] for sample in samples if sample["image"] is not None]
        if images:
            tensors["images_aux"] = torch.stack(images)
        return tensors

    def _nothing(self) -> dict[str, Any]:
        return {
            "input_ids": [self.pad_id] * _EMPTY_LENGTH,
            "labels": [IGNORE_INDEX] * _EMPTY_LENGTH,
            "image": None,
        }

    def _pad(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        width = max(len(sample["input_ids"]) for sample in samples)
        shape = (len(samples), width)
        ids = torch.full(shape, self.pad_id, dtype=torch.long)
        labels = torch.full(shape, IGNORE_INDEX, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, sample in enumerate(samples):
            length = len(sample["input_ids"])
            ids[row, :length] = torch.tensor(sample["input_ids"])
            labels[row, :length] = torch.tensor(sample["labels"])
            mask[row, :length] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}
