"""Putting image features into token sequences, as upstream's multimodal input step does.

Where each position comes from is worked out on the CPU, from token ids alone
(:func:`lay_out`); the embeddings are then gathered in one step (:func:`weave`), so
that a GPU never waits for the host.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from ..errors import RecapError
from .conversation import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from .lengths import round_up

PADDING_SIDES = ("left", "right")


@dataclass(frozen=True)
class Layout:
    """What stands at each position of a batch of R sequences of length L.

    Attributes:
        source: (R, L) int64, row of the table of token embeddings (B * T), then of image
            features (pictures * N), then one of zeros.
        attention_mask: (R, L) int64, 1 for real positions.
        position_ids: (R, L) int64, 0 .. len - 1 for each sample, and 0 where there is padding.
        labels: (R, L) int64, -100 at images and padding; None without labels.
        supervised: (K,) int64, positions r * L + t whose next one is predicted; None without
            labels.
        targets: (K,) int64, what is predicted there.
        pictures: number of pictures.
        packed: whether a row holds more than one sample.
    """

    source: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor | None
    supervised: torch.Tensor | None
    targets: torch.Tensor | None
    pictures: int
    packed: bool

    def to(self, device: torch.device | str) -> "Layout":
        """Return the same layout with its tensors on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Layout":
        """Return the same layout in pinned memory; data loaders call this."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Any) -> "Layout":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {k: change(v) for k, v in values.items() if isinstance(v, torch.Tensor)}
        return replace(self, **tensors)


@dataclass(frozen=True)
class Spliced:
    """A batch ready for the decoder.

    Attributes:
        embeddings: (R, L, hidden); zero where there is padding.
        layout: of the same positions, on the same device.
    """

    embeddings: torch.Tensor
    layout: Layout

    @property
    def attention_mask(self) -> torch.Tensor:
        """(R, L) int64, 1 for real positions."""
        return self.layout.attention_mask

    @property
    def position_ids(self) -> torch.Tensor:
        """(R, L) int64, counted within each sample."""
        return self.layout.position_ids

    @property
    def labels(self) -> torch.Tensor | None:
        """(R, L) int64, -100 at images and padding; None without labels."""
        return self.layout.labels


def mask_packed(position_ids: torch.Tensor) -> torch.Tensor:
    """Return what each position of packed rows may look at, bool (R, 1, L, L).

    Its own sample up to itself, as ``transformers.masking_utils`` has it.

    Args:
        position_ids: (R, L) int64, starting anew with each sample.
    """
    starts = position_ids.diff(dim=-1, prepend=position_ids[:, :1] - 1) != 1
    sample = starts.cumsum(-1)
    causal = position_ids.new_ones(position_ids.shape[1:] * 2, dtype=torch.bool).tril()
    return ((sample[:, :, None] == sample[:, None, :]) & causal).unsqueeze(1)


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
    layout = lay_out(
        input_ids.cpu(),
        attention_mask.cpu(),
        None if labels is None else labels.cpu(),
        image_tokens=1 if image_features is None else image_features.shape[1],
        max_length=max_length,
        padding_side=padding_side,
    )
    return weave(layout.to(token_embeddings.device), token_embeddings, image_features)


def weave(
    layout: Layout, token_embeddings: torch.Tensor, image_features: torch.Tensor | None
) -> Spliced:
    """Gather the embeddings of a layout.

    Args:
        layout: on the device of the embeddings.
        token_embeddings: (B, T, hidden).
        image_features: (pictures, N, hidden) or None.

    Raises:
        RecapError: if pictures and image tokens differ in number.
    """
    pictures = 0 if image_features is None else len(image_features)
    if layout.pictures != pictures:
        raise RecapError(f"the batch has {layout.pictures} image tokens but {pictures} pictures")
    hidden = token_embeddings.shape[-1]
    parts = [token_embeddings.reshape(-1, hidden)]
    if image_features is not None:
        parts.append(image_features.reshape(-1, hidden).to(token_embeddings.dtype))
    table = torch.cat([*parts, token_embeddings.new_zeros((1, hidden))])
    rows = table.index_select(0, layout.source.flatten())
    return Spliced(rows.view(*layout.source.shape, hidden), layout)


def lay_out(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor | None,
    *,
    image_tokens: int,
    max_length: int,
    padding_side: str,
    samples_of_row: Sequence[int] | None = None,
    multiple: int = 1,
) -> Layout:
    """Work out what stands where once pictures are spliced in.

    Args:
        input_ids: (B, T) on the CPU, padded on either side.
        attention_mask: (B, T), non-zero at real tokens.
        labels: (B, T) or None.
        image_tokens: positions N that a picture takes.
        max_length: samples are cut to this length after expansion.
        padding_side: ``right`` or ``left``.
        samples_of_row: how many consecutive samples each row packs; one each by default.
        multiple: L is padded up to a multiple of it.

    Raises:
        RecapError: for an unknown side.
    """
    if padding_side not in PADDING_SIDES:
        raise RecapError(f"padding side must be 'left' or 'right', not {padding_side!r}")
    samples = _expand(input_ids.numpy(), attention_mask.numpy(), image_tokens, max_length)
    pictures = int(((input_ids == IMAGE_TOKEN_INDEX) & attention_mask.bool()).sum())
    counts = [1] * len(samples) if samples_of_row is None else list(samples_of_row)
    longest = max(map(sum, _grouped([len(sample) for sample in samples], counts)))
    width = round_up(longest, multiple)
    shape, texts = (len(counts), width), input_ids.numel()
    source = np.full(shape, texts + pictures * image_tokens)
    mask, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    wanted = None if labels is None else np.full(shape, IGNORE_INDEX)
    given = None if labels is None else labels.numpy().reshape(-1)
    for row, members in enumerate(_grouped(samples, counts)):
        start = 0 if padding_side == "right" else width - sum(map(len, members))
        for number, sample in enumerate(members):
            place = (row, slice(start, start + len(sample)))
            source[place], mask[place] = sample, 1
            positions[place] = np.arange(len(sample))
            if wanted is not None and given is not None:
                text = np.minimum(sample, texts - 1)
                wanted[place] = np.where(sample < texts, given[text], IGNORE_INDEX)
                if number:  # the sample before does not predict this one
                    wanted[row, start] = IGNORE_INDEX
            start += len(sample)
    supervised = targets = None
    if wanted is not None:
        chosen = np.flatnonzero(np.pad(wanted[:, 1:], ((0, 0), (0, 1)), constant_values=-100) + 100)
        supervised, targets = torch.from_numpy(chosen), _tensor(wanted.reshape(-1)[chosen + 1])
    return Layout(
        source=_tensor(source),
        attention_mask=_tensor(mask),
        position_ids=_tensor(positions),
        labels=None if wanted is None else _tensor(wanted),
        supervised=supervised,
        targets=targets,
        pictures=pictures,
        packed=any(count > 1 for count in counts),
    )


def _expand(ids: Any, mask: Any, image_tokens: int, max_length: int) -> list[Any]:
    """Return each sample's rows of the table, cut to ``max_length``."""
    samples, pictures = [], 0
    flat = np.arange(ids.size).reshape(ids.shape)
    for index in range(len(ids)):
        kept = mask[index] != 0
        tokens, places = ids[index][kept], flat[index][kept]
        pieces, start = [], 0
        for position in np.flatnonzero(tokens == IMAGE_TOKEN_INDEX):
            first = ids.size + pictures * image_tokens
            pieces += [places[start:position], np.arange(first, first + image_tokens)]
            pictures += 1
            start = int(position) + 1
        samples.append(np.concatenate([*pieces, places[start:]])[:max_length])
    return samples


def _grouped(items: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    ends = np.cumsum(counts)
    return [
        list(items[end - count : end]) for end, count in zip(ends.tolist(), counts, strict=True)
    ]


def _tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
