"""Putting image features into token sequences, as upstream's multimodal input step does."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import RecapError
from .conversation import IGNORE_INDEX, IMAGE_TOKEN_INDEX


@dataclass(frozen=True)
class Spliced:
    """A batch ready for the decoder.

    Attributes:
        embeddings: (B, L, hidden); zero where there is padding.
        attention_mask: (B, L) int64, 1 for real positions.
        position_ids: (B, L) int64, 0 .. len - 1, and 0 where there is padding.
        labels: (B, L) int64, -100 at images and padding; None without labels.
    """

    embeddings: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor | None


def splice(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_embeddings: torch.Tensor,
    image_features: torch.Tensor | None,
    labels: torch.Tensor | None,
    *,
    max_length: int,
    padding_side: str,
) -> Spliced:
    """Replace each -200 by its picture's features, cut, and pad again.

    Args:
        input_ids: (B, L), padded on either side.
        attention_mask: (B, L), non-zero at real tokens.
        token_embeddings: (B, L, hidden); whatever stands at -200 is not used.
        image_features: (pictures, N, hidden), in batch order, scaled like the
            token embeddings; None if no sample has a picture.
        labels: (B, L) or None.
        max_length: sequences are cut to this length after expansion.
        padding_side: ``right`` or ``left``.

    Raises:
        RecapError: if pictures and image tokens differ in number.
    """
    keep = attention_mask.bool()
    rows, row_labels, used = [], [], 0
    marks = ((input_ids == IMAGE_TOKEN_INDEX) & keep).tolist()
    available = 0 if image_features is None else len(image_features)
    wanted = sum(map(sum, marks))
    if wanted != available:
        raise RecapError(f"the batch has {wanted} image tokens but {available} pictures")
    for index, row_marks in enumerate(marks):
        row_keep = keep[index]
        kept_marks = [mark for mark, kept in zip(row_marks, row_keep.tolist(), strict=True) if kept]
        positions = [position for position, mark in enumerate(kept_marks) if mark]
        features = [] if image_features is None else list(image_features[used:][: len(positions)])
        used += len(positions)
        rows.append(_weave(token_embeddings[index][row_keep], positions, features)[:max_length])
        if labels is not None:
            blanks = [labels.new_full((len(feature),), IGNORE_INDEX) for feature in features]
            row_labels.append(_weave(labels[index][row_keep], positions, blanks)[:max_length])
    return _pad(rows, row_labels if labels is not None else None, padding_side)


def _weave(
    row: torch.Tensor, positions: Sequence[int], inserts: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Replace single entries of ``row`` by whole tensors."""
    pieces, start = [], 0
    for position, insert in zip(positions, inserts, strict=True):
        pieces += [row[start:position], insert.to(row.dtype)]
        start = position + 1
    return torch.cat([*pieces, row[start:]])


def _pad(
    rows: list[torch.Tensor], row_labels: list[torch.Tensor] | None, padding_side: str
) -> Spliced:
    if padding_side not in ("left", "right"):
        raise RecapError(f"padding side must be 'left' or 'right', not {padding_side!r}")
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    device = rows[0].device
    sides = [
        (longest - length, 0) if padding_side == "left" else (0, longest - length)
        for length in lengths
    ]
    pad = torch.nn.functional.pad
    counted = list(zip(lengths, sides, strict=True))
    ones = [pad(torch.ones(n, dtype=torch.int64), side) for n, side in counted]
    steps = [pad(torch.arange(n), side) for n, side in counted]
    embeddings = [pad(row, (0, 0, *side)) for row, side in zip(rows, sides, strict=True)]
    labels = None
    if row_labels is not None:
        pairs = zip(row_labels, sides, strict=True)
        labels = torch.stack([pad(row, side, value=IGNORE_INDEX) for row, side in pairs])
    return Spliced(
        embeddings=torch.stack(embeddings),
        attention_mask=torch.stack(ones).to(device),
        position_ids=torch.stack(steps).to(device),
        labels=labels,
    )
