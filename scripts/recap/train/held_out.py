"""The loss on samples that no run trains on, the same ones for every run."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import RecapError
from ..hashing import digest_json
from ..mgm.configuration import config_from_parts
from ..mgm.processing import ImagePreprocessor
from .audit import encode_training_set
from .data import TrainingSet, read_training_set
from .loading import to_device
from .request import StageRequest


@dataclass(frozen=True)
class HeldOutSet:
    """Samples in one style.

    Attributes:
        name: of the style.
        dataset: encoded as in training, in the order of the file.
        tokens: supervised ones.
        ids_sha256: of the ids in order; equal for runs that may be compared.
    """

    name: str
    dataset: TrainingSet
    tokens: int
    ids_sha256: str


def read_held_out_sets(request: StageRequest, tokenizer: Any) -> list[HeldOutSet]:
    """Read and encode the held-out sets of a stage.

    Raises:
        RecapError: for a bad file, a sample that is also trained on, or one
            whose label mask is wrong.
    """
    trained = {sample.id for sample in _read(request.data, request)} if request.held_out else set()
    sets = []
    for name, path in request.held_out:
        samples = _read(path, request)
        both = sorted(trained & {sample.id for sample in samples})
        if both:
            raise RecapError(f"{path}: {len(both)} samples are trained on too, such as {both[0]}")
        encoded, audit = encode_training_set(
            samples,
            tokenizer,
            request.parts.conversation,
            max_length=request.settings.max_length,
            image_tokens=config_from_parts(request.parts).image_tokens,
        )
        if audit.mismatches or not audit.supervised:
            raise RecapError(f"{path}: nothing to predict, or a wrong mask: {audit.mismatches[:3]}")
        preprocess = partial(
            ImagePreprocessor.from_parts(request.parts).pixels,
            aspect=request.settings.image_aspect_ratio,
        )
        ids = digest_json([sample.id for sample in samples])
        dataset = TrainingSet(samples, encoded, preprocess)
        sets.append(HeldOutSet(name, dataset, audit.supervised, ids))
    return sets


def _read(path: Path, request: StageRequest) -> Any:
    return read_training_set(path, request.image_root)


@torch.no_grad()
def summed_loss(
    model: Any,
    part: Sequence[int],
    data: HeldOutSet,
    collator: Callable[[Any], Any],
    micro_batch: int,
    give_up: Callable[[], bool] = lambda: False,
    passes: int = 0,
) -> float | None:
    """Return the sum of the token losses of some samples, without dropout.

    Args:
        model: left in the mode it was in.
        part: indices into the set.
        data: the set.
        collator: as in training.
        micro_batch: samples a forward pass.
        give_up: asked before each pass.
        passes: made at least, empty ones after the samples; for ranks that must make equally
            many.

    Returns:
        The sum; None if ``give_up`` said so.
    """
    device = next(model.parameters()).device
    training, total = model.training, 0.0
    model.eval()
    try:
        for number in range(max(passes, math.ceil(len(part) / micro_batch))):
            if give_up():
                return None
            chosen = part[number * micro_batch : (number + 1) * micro_batch]
            batch = collator([data.dataset[index] for index in chosen])
            inputs = to_device(batch, device)
            total += float(model(**inputs, num_items_in_batch=1).loss)
    finally:
        model.train(training)
    return total
