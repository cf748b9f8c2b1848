"""From samples to the tensors of one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..mgm.conversation import IGNORE_INDEX


@dataclass(frozen=True)
class Collator:
    """Pads on the right and stacks the images in batch order.

    Attributes:
        pad_id: token id of the padding.
    """

    pad_id: int = 0

    def __call__(self, batch: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``labels``, ``attention_mask`` (B, L) and maybe ``images_aux``.

        ``images_aux`` (number of image samples, 3, S, S) is left out if no
        sample of the batch has an image.
        """
        width = max(len(sample["input_ids"]) for sample in batch)
        shape = (len(batch), width)
        tensors = {
            "input_ids": torch.full(shape, self.pad_id, dtype=torch.long),
            "labels": torch.full(shape, IGNORE_INDEX, dtype=torch.long),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
        }
        for row, sample in enumerate(batch):
            length = len(sample["input_ids"])
            tensors["input_ids"][row, :length] = torch.tensor(sample["input_ids"])
            tensors["labels"][row, :length] = torch.tensor(sample["labels"])
            tensors["attention_mask"][row, :length] = 1
        images = [sample["image"] for sample in batch if sample["image"] is not None]
        if images:
            tensors["images_aux"] = torch.stack(images)
        return tensors
