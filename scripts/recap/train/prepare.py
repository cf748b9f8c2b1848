"""From files to an encoded, ordered and audited training set; needs no weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import RecapError
from ..mgm.checkpoint import load_tokenizer
from ..mgm.configuration import config_from_parts
from ..mgm.processing import ImagePreprocessor
from .audit import MaskAudit, encode_training_set
from .data import EncodedSample, Sample, TrainingSet, read_training_set
from .held_out import HeldOutSet, read_held_out_sets
from .order import training_order
from .request import StageRequest
from .schedule import StepPlan, plan_steps


@dataclass(frozen=True)
class PreparedData:
    """The training set of a stage.

    Attributes:
        samples: in the order of the file.
        encoded: one each.
        audit: of the label masks.
        plan: step arithmetic.
        order: sample indices of all updates, one global batch after the other.
        lengths: positions of each sample, text and image.
        tokens_of_update: supervised tokens of each global batch.
        positions_of_update: positions of each global batch, text and image, padding apart.
        tokenizer: of the language model.
        dataset: what the loader reads.
        held_out: what is asked and not trained on.
    """

    samples: list[Sample]
    encoded: list[EncodedSample]
    audit: MaskAudit
    plan: StepPlan
    order: list[int]
    lengths: list[int]
    tokens_of_update: list[int]
    positions_of_update: list[int]
    tokenizer: Any
    dataset: TrainingSet
    held_out: list[HeldOutSet]

    @property
    def ids(self) -> list[str]:
        """Id of each sample."""
        return [sample.id for sample in self.samples]


def prepare_data(request: StageRequest, world_size: int) -> PreparedData:
    """Read, encode, order and audit the training set.

    Raises:
        RecapError: for a bad file or an impossible batch.
    """
    settings = request.settings
    samples = read_training_set(request.data, request.image_root)
    plan = plan_steps(len(samples), settings, world_size)
    image_tokens = config_from_parts(request.parts).image_tokens
    _require_room(settings.max_length, image_tokens)
    tokenizer = load_tokenizer(request.parts.language_model)
    encoded, audit = encode_training_set(
        samples,
        tokenizer,
        request.parts.conversation,
        max_length=settings.max_length,
        image_tokens=image_tokens,
    )
    order = training_order(
        [sample.id for sample in samples],
        [sample.words for sample in samples],
        plan,
        grouped=settings.group_by_modality_length,
        seed=request.seed,
    )
    preprocess = partial(
        ImagePreprocessor.from_parts(request.parts).pixels, aspect=settings.image_aspect_ratio
    )
    lengths = [
        len(item.input_ids) + (image_tokens - 1 if item.has_image else 0) for item in encoded
    ]
    return PreparedData(
        samples=samples,
        encoded=encoded,
        audit=audit,
        plan=plan,
        order=order,
        lengths=lengths,
        tokens_of_update=sums_by_update([e.supervised for e in encoded], order, plan),
        positions_of_update=sums_by_update(lengths, order, plan),
        tokenizer=tokenizer,
        dataset=TrainingSet(samples, encoded, preprocess),
        held_out=read_held_out_sets(request, tokenizer),
    )


def _require_room(max_length: int, image_tokens: int) -> None:
    if max_length <= image_tokens:
        raise RecapError(
            f"max_length {max_length} leaves no room for text: an image becomes {image_tokens} "
            "tokens with this base model; raise max_length"
        )


def sums_by_update(counts: Sequence[int], order: Sequence[int], plan: StepPlan) -> list[int]:
    """Return the sum of a count of each sample over each update's global batch."""
    size = plan.global_batch
    return [
        sum(counts[index] for index in order[start : start + size])
        for start in range(0, len(order), size)
    ]
