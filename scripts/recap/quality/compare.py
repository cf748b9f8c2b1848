"""Two arms' captions compared on the ids they share."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import write_json
from ..manifest import write_manifest
from ..perf import PerfRecord
from ..settings import QualitySettings
from .catalogue import TOKEN_COUNTER, WORD_COUNTER, Measure, catalogue, method
from .diversity import budget_draws
from .measure import histogram, known_mean, numbered, text_statistics
from .resampling import Statistic, estimate_difference
from .sentences import sentence
from .similarity import chosen_similarity, read_scores
from .texts import ArmText, read_arm

Row = dict[str, Any]
SPECIAL_TOKENS_A_RECORD = 2


@dataclass(frozen=True)
class ArmFiles:
    """An arm's name, merged records and tables of similarities (may be none)."""

    name: str
    records: str | Path
    similarity: Sequence[str | Path] = ()


def compare_quality(
    arm: ArmFiles,
    reference: ArmFiles,
    *,
    settings: QualitySettings,
    out: str | Path,
    manifest: str | Path,
    perf: str | Path,
) -> Row:
    """Compare captions record by record, on the common ids alone.

    Both arms are cut to the ids they share, in the order of the reference, so
    that no measure sees more text of one arm than of the other. Resamples
    draw the same records in both.

    Args:
        arm: the arm whose captions are judged.
        reference: what they are compared with.
        settings: budget, intervals and seed.
        out: the document; also returned.
        manifest: what it was made from.
        perf: time and peak memory.

    Raises:
        RecapError: if a file is missing or malformed, or no id is shared.
    """
    started, figures = time.time(), PerfRecord("quality", "records")
    texts = [read_arm(arm.records), read_arm(reference.records)]
    counts = {"arm_records": len(texts[0].ids), "reference_records": len(texts[1].ids)}
    held = set(texts[0].ids)
    common = [identity for identity in texts[1].ids if identity in held]
    if not common:
        raise RecapError(f"{arm.name} and {reference.name} share no id; compare arms of one corpus")
    new, old = (text.select(common) for text in texts)
    changed = sum(a != b for a, b in zip(new.captions, old.captions, strict=True))
    counts |= {"common_records": len(common), "changed_captions": changed}
    document: Row = {"arm": arm.name, "reference": reference.name, **counts}
    document["differences"] = []
    if changed:
        pairs = _statistics(new, old, settings) | _similarities(new, old, arm, reference)
        document["differences"] = [
            _difference(measure, *pairs[name], arm.name, reference.name, settings)
            for name, measure in catalogue(settings).items()
            if name in pairs
        ]
    document["length_histograms"] = {
        arm.name: histogram(new.word_counts),
        reference.name: histogram(old.word_counts),
    }
    document["counter_check"] = counter_check(new, old)
    document |= {"word_counter": WORD_COUNTER, "token_counter": TOKEN_COUNTER}
    document["method"] = method(settings)
    write_json(out, document)
    files = {f"{side}_records": files.records for side, files in _sides(arm, reference)}
    for side, each in _sides(arm, reference):
        files |= numbered(f"{side}_similarity", each.similarity)
    write_manifest(
        manifest,
        stage="quality",
        inputs=files,
        outputs={"differences": out},
        settings={"arm": arm.name, "reference": reference.name, **settings.model_dump()},
        counts=counts,
        started=started,
        seed=settings.seed,
    )
    figures.items = len(common)
    figures.write(perf)
    return document


def _sides(arm: ArmFiles, reference: ArmFiles) -> tuple[tuple[str, ArmFiles], ...]:
    return ("arm", arm), ("reference", reference)


Pair = tuple[Statistic | None, Statistic | None]


def _statistics(new: ArmText, old: ArmText, settings: QualitySettings) -> dict[str, Pair]:
    ours, theirs = text_statistics(new), text_statistics(old)
    pairs: dict[str, Pair] = {name: (ours[name], theirs[name]) for name in ours}
    texts = [new.tokens, old.tokens]
    draws = budget_draws(new.ids, texts, settings.token_budget, settings.seed)
    pairs["ttr_at_budget"] = (draws[0], draws[1]) if draws else (None, None)
    return pairs


def _similarities(
    new: ArmText, old: ArmText, arm: ArmFiles, reference: ArmFiles
) -> dict[str, Pair]:
    """Return the similarities of both arms' captions, over records where both are known."""
    ours, theirs = read_scores(arm.similarity), read_scores(reference.similarity)
    if not ours and not theirs:
        return {}
    first = chosen_similarity(new, ours, theirs)
    second = chosen_similarity(old, theirs, ours)
    # A sum with an unknown one is unknown: both sides lose the record.
    return {"similarity": (known_mean(first + 0 * second), known_mean(second + 0 * first))}


def _difference(
    measure: Measure,
    new: Statistic | None,
    old: Statistic | None,
    arm: str,
    reference: str,
    settings: QualitySettings,
) -> Row:
    row: Row = {"measure": measure.name, "label": measure.label, "protocol": measure.protocol}
    if new is None or old is None:
        nothing = {"arm": None, "reference": None, "difference": None, "interval": None, "n": 0}
        row |= {**nothing, "resampled": None, "reading": "not measured"}
        return {**row, "sentence": sentence(measure, row, arm, reference, settings.confidence)}
    found = estimate_difference(new, old, settings)
    row |= {
        "arm": new.value,
        "reference": old.value,
        "difference": found.value,
        "interval": None if found.interval is None else list(found.interval),
        "blocks": found.blocks,
        "units_a_block": found.block,
        "n": new.counted,
        "resampled": new.units,
        "reading": _reading(found.interval),
    }
    return {**row, "sentence": sentence(measure, row, arm, reference, settings.confidence)}


def _reading(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return "no interval"
    low, high = interval
    if low > 0:
        return "higher"
    return "lower" if high < 0 else "not distinguishable"


def counter_check(new: ArmText, old: ArmText) -> Row:
    """Return what two counters would have made of the lengths, beside what one makes.

    Counting one arm's text with its two special tokens and the other's without
    is how a change of length was once reported where there was hardly any.

    Returns:
        ``one_counter`` and ``two_counters``: change of the mean number of words,
        as a share of the reference's; ``None`` if the reference has no words.
    """
    ours, theirs = float(new.word_counts.mean()), float(old.word_counts.mean())
    if not theirs:
        return {"one_counter": None, "two_counters": None}
    return {
        "one_counter": ours / theirs - 1,
        "two_counters": (ours + SPECIAL_TOKENS_A_RECORD) / theirs - 1,
    }
