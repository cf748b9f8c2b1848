"""The training set: LLaVA JSON in, encoded samples and image tensors out.

No sample is ever replaced by another one: whatever cannot be read stops the
run with the sample's id and path.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from ..errors import RecapError
from ..hashing import digest_json
from ..io import read_json
from ..mgm.conversation import IMAGE_TOKEN_INDEX

_MAX_LISTED = 10
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, RecapError)


@dataclass(frozen=True)
class Sample:
    """One entry of the training set.

    Attributes:
        id: as in the file, turned into text.
        conversations: LLaVA turns.
        image: path of the image, None for a text-only sample.
        image_bytes: size of that file.
    """

    id: str
    conversations: list[dict[str, Any]]
    image: Path | None
    image_bytes: int = 0

    @property
    def words(self) -> int:
        """Whitespace-separated words in all turns, negative for a text-only sample."""
        total = sum(len(str(turn.get("value", "")).split()) for turn in self.conversations)
        return total if self.image is not None else -max(total, 1)

    @property
    def questions(self) -> list[str]:
        """Text of the human turns."""
        return [t["value"] for t in self.conversations if t.get("from") == "human"]


@dataclass(frozen=True)
class EncodedSample:
    """Token ids (with -200 for the image) and labels, cut so that the expansion fits.

    Attributes:
        input_ids: token ids.
        labels: same length, -100 where nothing is predicted.
        supervised: number of positions that enter the loss.
        truncated: whether the maximum length cut something off.
    """

    input_ids: list[int]
    labels: list[int]
    supervised: int
    truncated: bool

    @property
    def has_image(self) -> bool:
        """Whether the image is within the maximum length."""
        return IMAGE_TOKEN_INDEX in self.input_ids


def read_training_set(path: Path, image_root: Path) -> list[Sample]:
    """Read a LLaVA JSON file.

    Raises:
        RecapError: for a malformed file or entry, an image path that leaves
            ``image_root``, or images that do not exist (all are looked up here,
            so that a long run does not end at its last sample).
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise RecapError(f"{path} must hold a non-empty JSON list of LLaVA samples")
    samples = [
        _parse_entry(path, number, entry, image_root) for number, entry in enumerate(entries)
    ]
    missing = [s for s in samples if s.image is not None and s.image_bytes < 0]
    if missing:
        listed = ", ".join(f"{s.id} ({s.image})" for s in missing[:_MAX_LISTED])
        raise RecapError(
            f"{path}: {len(missing)} of {len(samples)} samples name an image that does not exist: "
            f"{listed}; check --image-root {image_root} or leave these samples out"
        )
    return samples


def _parse_entry(path: Path, number: int, entry: Any, root: Path) -> Sample:
    where = f"{path}, entry {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), (str, int)):
        raise RecapError(f"{where}: expected an object with a text or integer `id`")
    identifier = str(entry["id"])
    turns = entry.get("conversations")
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns
    ):
        raise RecapError(f"{where} (id {identifier}): `conversations` must be a list of turns")
    image = entry.get("image")
    if image is None:
        return Sample(identifier, turns, None)
    if not isinstance(image, str) or not image:
        raise RecapError(f"{where} (id {identifier}): `image` must be a path, found {image!r}")
    inside = _inside(root, image, f"{where} (id {identifier})")
    return Sample(identifier, turns, inside, _size(inside))


def _size(path: Path) -> int:
    """Return a file's bytes, -1 where there is none."""
    try:
        found = path.stat()
    except OSError:
        return -1
    return found.st_size if S_ISREG(found.st_mode) else -1


def _inside(root: Path, image: str, where: str) -> Path:
    # Compared as text, not resolved: the root or an image may well be a symbolic link.
    base = os.path.normpath(Path.cwd() / root)
    target = Path(os.path.normpath(Path(base) / image))
    if not target.is_relative_to(base):
        raise RecapError(f"{where}: image path {image!r} leaves the image root {root}")
    return root / target.relative_to(base)


class TrainingSet(Dataset[dict[str, Any]]):
    """Samples as the collator wants them, images decoded when asked for."""

    def __init__(
        self,
        samples: Sequence[Sample],
        encoded: Sequence[EncodedSample],
        preprocess: Callable[[Image.Image], torch.Tensor],
    ) -> None:
        """Pair samples with their encodings; ``preprocess`` gives (3, S, S) uint8 pixels."""
        self._samples = samples
        self._encoded = encoded
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample, encoded = self._samples[index], self._encoded[index]
        shown = sample.image if encoded.has_image else None
        return {
            "input_ids": encoded.input_ids,
            "labels": encoded.labels,
            "image": None if shown is None else self._load(sample.id, shown),
        }

    def _load(self, identifier: str, path: Path) -> torch.Tensor:
        try:
            with Image.open(path) as image:
                return self._preprocess(image)
        except _UNREADABLE as error:
            raise RecapError(
                f"sample {identifier}: cannot read image {path} ({error}); repair the file or "
                "leave the sample out of the training set"
            ) from error


def id_order_hash(ids: Sequence[str], order: Sequence[int]) -> str:
    """Return a hash of the ids in the order they are trained on."""
    return digest_json([ids[index] for index in order])


def question_hash(samples: Sequence[Sample], order: Sequence[int]) -> str:
    """Return a hash of id and human turns in the order they are trained on."""
    return digest_json([[samples[i].id, samples[i].questions] for i in order])
