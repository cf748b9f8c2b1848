"""Which text an arm trains on: the original caption or the captioner's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import stable_fraction
from ..io import iter_jsonl, read_json, write_jsonl
from .captions import cut_caption
from .records import (
    Record,
    captioned_text,
    check_caption_ids,
    read_records,
    special_tokens_in,
)
from .similarity import NEW_COLUMN, ORIGINAL_COLUMN, read_similarity

POLICIES = ("keep", "replace", "replace_low_similarity", "mix")
ORIGINAL = "original"

_Scores = tuple[float, float]


@dataclass(frozen=True)
class PolicyOptions:
    """What a policy decides by, beside the captions.

    Attributes:
        similarity: table of the shard, from ``score_similarity.py``.
        threshold: document of ``choose_similarity_threshold.py``.
        mix_share: share of new captions under ``mix``.
        seed: of ``mix``.
        max_words: longest new caption in words; 0 is no cap.
    """

    similarity: str | Path | None = None
    threshold: str | Path | None = None
    mix_share: float | None = None
    seed: int = 0
    max_words: int = 0


def apply_policy(
    records: str | Path,
    *,
    policy: str,
    out: str | Path,
    captions: str | Path | None = None,
    captioner: str | None = None,
    decisions: str | Path | None = None,
    options: PolicyOptions | None = None,
) -> int:
    r"""Write records with the text their arm trains on, and where it came from.

    ``keep`` leaves the text alone. ``replace`` puts the caption, untrimmed, into
    the layout of Data-Juicer's captioning operator; a BLIP-2 caption keeps its
    closing ``\n`` and the conversion to the LLaVA format trims it.
    ``replace_low_similarity`` does so only where the original's similarity to its
    image lies below the threshold. ``mix`` does so where the hash of (seed, id)
    falls below ``mix_share``, so that a larger share replaces a superset.

    A new caption beyond ``max_words`` is cut; originals never are. Similarities
    are those of the caption before it is cut.

    Args:
        records: kept records.
        policy: one of ``POLICIES``.
        out: the records with ``caption_source``: ``original`` or ``captioner``.
        captions: ``{"id", "caption"}`` a record, in the same order.
        captioner: name of the captioner.
        decisions: one row a record: ``id``, ``similarity_original``,
            ``similarity_new``, ``threshold`` (none where the policy has none),
            ``replaced``, ``chosen``, the caption's source, and ``cut``, whether the
            record's text is a cut caption.
        options: what the policy decides by.

    Returns:
        The number of records.

    Raises:
        RecapError: if captions, similarities and records do not match one to
            one, or a caption holds a special token.
    """
    rows = read_records(records)
    if policy not in POLICIES:
        raise RecapError(f"unknown caption policy {policy!r}; use one of {', '.join(POLICIES)}")
    options = options or PolicyOptions()
    if policy == "keep":
        new, source = [""] * len(rows), ORIGINAL
    else:
        if captions is None or not captioner or captioner == ORIGINAL:
            raise RecapError(f"the policy `{policy}` needs --captions and the --captioner's name")
        new, source = _captions_of(rows, str(records), captions), captioner
    whole, new = new, [cut_caption(caption, options.max_words) for caption in new]
    scores, threshold = _evidence(rows, policy, options)
    replaces = _rule(policy, options, threshold)
    chosen = [replaces(row, score) for row, score in zip(rows, scores, strict=True)]
    if decisions is not None:
        entries = _decisions(rows, scores, threshold, chosen, source)
        for entry, before, after in zip(entries, whole, new, strict=True):
            entry["cut"] = entry["replaced"] and before != after
        write_jsonl(decisions, entries)
    return write_jsonl(
        out,
        (
            _replace(row, caption, source) if take else {**row, "caption_source": ORIGINAL}
            for row, caption, take in zip(rows, new, chosen, strict=True)
        ),
    )


def _rule(
    policy: str, options: PolicyOptions, threshold: float | None
) -> Callable[[Record, _Scores | None], bool]:
    """Return what says whether a record gets the new caption."""
    if policy == "mix":
        share = options.mix_share
        if share is None or not 0 <= share <= 1:
            raise RecapError("the policy `mix` needs a --mix-share within 0 and 1")
        return lambda row, _: stable_fraction("mix", options.seed, row["id"]) < share
    if policy == "replace_low_similarity":
        return lambda _, score: bool(score and threshold is not None and score[0] < threshold)
    return lambda _row, _score: policy == "replace"


def _evidence(
    rows: list[Record], policy: str, options: PolicyOptions
) -> tuple[Sequence[_Scores | None], float | None]:
    """Return (original, new) similarity of each record and the threshold, where used."""
    if policy != "replace_low_similarity":
        return [None] * len(rows), None
    if options.similarity is None or options.threshold is None:
        raise RecapError("the policy `replace_low_similarity` needs --similarity and --threshold")
    table = read_similarity(options.similarity)
    if table.ids != [row["id"] for row in rows]:
        raise RecapError(f"{options.similarity} holds other ids than the records; score again")
    pairs = zip(table.columns[ORIGINAL_COLUMN], table.columns[NEW_COLUMN], strict=True)
    return list(pairs), float(read_json(options.threshold)["threshold"])


def _decisions(
    rows: list[Record],
    scores: Sequence[_Scores | None],
    threshold: float | None,
    chosen: Sequence[bool],
    source: str,
) -> list[dict[str, Any]]:
    return [
        {
            "id": row["id"],
            ORIGINAL_COLUMN: score[0] if score else None,
            NEW_COLUMN: score[1] if score else None,
            "threshold": threshold,
            "replaced": take,
            "chosen": source if take else ORIGINAL,
        }
        for row, score, take in zip(rows, scores, chosen, strict=True)
    ]


def _replace(row: Record, caption: str, captioner: str) -> Record:
    if stray := special_tokens_in(caption):
        raise RecapError(
            f"id {row['id']!r}: the caption of {captioner} holds {', '.join(stray)}; "
            "the captioner's tokenizer must mark its special tokens as such"
        )
    return {**row, "text": captioned_text(caption), "caption_source": captioner}


def _captions_of(rows: list[Record], records: str, captions: str | Path) -> list[str]:
    new = list(iter_jsonl(captions))
    check_caption_ids(rows, new, records, str(captions))
    return [entry["caption"] for entry in new]
