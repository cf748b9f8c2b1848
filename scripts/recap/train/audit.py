"""The label-mask audit: what exactly will be predicted, checked before any step."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RecapError
from ..mgm.conversation import IGNORE_INDEX, IMAGE_TOKEN_INDEX, encode_sample, end_token_id
from .data import EncodedSample, Sample
from .gates import MAX_UNSUPERVISED_SHARE, SUPERVISED_SHARE_BOUNDS, GateBook

logger = logging.getLogger(__name__)

_UNCUT = 1 << 30
_SHOWN_SAMPLES = 3
_MAX_LISTED = 20


@dataclass
class MaskAudit:
    """What the audit counted over the whole training set.

    Attributes:
        tokens: text tokens.
        supervised: those that enter the loss.
        truncated: samples cut at the maximum length.
        mismatches: id and reason of each sample whose mask could not be built or is wrong.
        unsupervised: ids of samples with nothing to predict.
        unseen: ids of samples whose picture comes after what the maximum length leaves.
    """

    tokens: int = 0
    supervised: int = 0
    truncated: int = 0
    mismatches: list[tuple[str, str]] = field(default_factory=list)
    unsupervised: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Supervised share of the text tokens."""
        return self.supervised / self.tokens if self.tokens else 0.0


def encode_training_set(
    samples: Sequence[Sample],
    tokenizer: Any,
    template: str,
    *,
    max_length: int,
    image_tokens: int,
) -> tuple[list[EncodedSample], MaskAudit]:
    """Encode every sample and audit its mask.

    Args:
        samples: the training set.
        tokenizer: of the language model.
        template: conversation template.
        max_length: longest sequence, image tokens included.
        image_tokens: tokens an image becomes.

    Returns:
        One encoding a sample (an empty one where the mask is wrong), and the audit.
    """
    audit, encoded = MaskAudit(), []
    end, bos = end_token_id(tokenizer, template), tokenizer.bos_token_id
    for sample in samples:
        try:
            ids, labels = encode_sample(
                sample.conversations, tokenizer, template, max_length=_UNCUT
            )
            check_mask(sample, ids, labels, bos=bos, end=end)
        except RecapError as error:
            audit.mismatches.append((sample.id, str(error)))
            encoded.append(EncodedSample([], [], 0, False))
            continue
        item = cut(ids, labels, max_length - (image_tokens - 1 if sample.image else 0))
        audit.tokens += sum(token != IMAGE_TOKEN_INDEX for token in item.input_ids)
        audit.supervised += item.supervised
        audit.truncated += item.truncated
        if sample.image is not None and not item.has_image:
            audit.unseen.append(sample.id)
        if item.supervised == 0:
            audit.unsupervised.append(sample.id)
        encoded.append(item)
    return encoded, audit


def cut(ids: list[int], labels: list[int], limit: int) -> EncodedSample:
    """Cut to ``limit`` ids; nothing at position 0 is predicted, as labels are shifted."""
    limit = max(limit, 1)
    kept = labels[:limit]
    supervised = sum(label != IGNORE_INDEX for label in kept[1:])
    return EncodedSample(ids[:limit], kept, supervised, len(ids) > limit)


def check_mask(sample: Sample, ids: list[int], labels: list[int], *, bos: int, end: int) -> None:
    """Check a mask without knowing how it was made.

    One supervised span an answer, each ending in ``end``, the template's last token,
    labels equal to the ids, neither BOS nor the image inside.

    Raises:
        RecapError: saying which property is violated.
    """
    if (IMAGE_TOKEN_INDEX in ids) != (sample.image is not None):
        raise RecapError("`image` and the `<image>` token must come together")
    if len(ids) != len(labels):
        raise RecapError(f"{len(ids)} ids but {len(labels)} labels")
    roles = [turn.get("from") for turn in sample.conversations]
    answers = roles[1:].count("gpt")  # an answer before any question is dropped
    ends = [
        position
        for position, label in enumerate(labels)
        if label != IGNORE_INDEX
        and (position + 1 == len(labels) or labels[position + 1] == IGNORE_INDEX)
    ]
    if len(ends) != answers:
        raise RecapError(f"{len(ends)} supervised spans for {answers} answers")
    if any(labels[position] != end for position in ends):
        raise RecapError("a supervised span does not end in the template's end-of-sequence token")
    forbidden = (IMAGE_TOKEN_INDEX, bos)
    for token, label in zip(ids, labels, strict=True):
        if label != IGNORE_INDEX and (label != token or label in forbidden):
            raise RecapError(f"label {label} supervises token {token}")


def require_sound_masks(
    book: GateBook, audit: MaskAudit, samples: Sequence[Sample], tokens_of_update: Sequence[int]
) -> None:
    """Gate on the audit; samples without anything to predict are listed.

    Raises:
        GateError: for a wrong mask, an implausible share of supervised tokens,
            too many samples with nothing to predict, or an update of only such samples.
    """
    wrong = "; ".join(f"{name}: {reason}" for name, reason in audit.mismatches[:_MAX_LISTED])
    book.require(
        "label_mask_mismatches",
        len(audit.mismatches),
        "0 samples",
        not audit.mismatches,
        f"Repair or leave out: {wrong}",
    )
    low, high = SUPERVISED_SHARE_BOUNDS
    book.require(
        "supervised_token_share",
        round(audit.share, 6),
        f"in [{low}, {high}]",
        low <= audit.share <= high,
        "Either nearly nothing or nearly everything would be predicted; check the template.",
    )
    listed = ", ".join(audit.unsupervised[:_MAX_LISTED])
    if audit.unsupervised:
        logger.warning("%d samples have no token to predict: %s", len(audit.unsupervised), listed)
    if audit.unseen:
        logger.warning(
            "%d samples are trained on without their picture, which max_length cuts away: %s",
            *(len(audit.unseen), ", ".join(audit.unseen[:_MAX_LISTED])),
        )
    share = len(audit.unsupervised) / len(samples)
    book.require(
        "unsupervised_sample_share",
        round(share, 6),
        f"<= {MAX_UNSUPERVISED_SHARE}",
        share <= MAX_UNSUPERVISED_SHARE,
        f"Their answers are cut away; raise max_length or leave them out: {listed}",
    )
    fewest = min(tokens_of_update)
    book.require(
        "supervised_tokens_an_update", fewest, ">= 1", fewest >= 1, "The loss would be 0 / 0."
    )


def log_examples(
    samples: Sequence[Sample],
    encoded: Sequence[EncodedSample],
    order: Sequence[int],
    tokenizer: Any,
) -> None:
    """Log what the first samples predict, decoded, for a reader to check."""
    for index in order[:_SHOWN_SAMPLES]:
        target = [label for label in encoded[index].labels if label != IGNORE_INDEX]
        text = tokenizer.decode(target, skip_special_tokens=False)
        logger.info("sample %s is trained to say %r", samples[index].id, text)
