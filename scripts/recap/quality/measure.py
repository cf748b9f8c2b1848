"""The quality of one arm's captions, as a document."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..io import write_json
from ..manifest import write_manifest
from ..perf import PerfRecord
from ..settings import QualitySettings
from .catalogue import TOKEN_COUNTER, WORD_COUNTER, Measure, catalogue, method
from .diversity import DRAWS, WINDOW, budget_draws, hdd, mattr, mtld
from .duplicates import duplicates
from .repetition import character_repetition, degenerate, word_repetition
from .resampling import FloatArray, Statistic, estimate, mean_of, share_of
from .similarity import chosen_similarity, original_similarity, read_scores
from .texts import ArmText, IntArray, coverage, read_arm

Row = dict[str, Any]
_QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def measure_quality(
    arm: str,
    records: str | Path,
    *,
    similarity: Sequence[str | Path],
    settings: QualitySettings,
    out: str | Path,
    manifest: str | Path,
    perf: str | Path,
) -> Row:
    """Measure the captions an arm trains on.

    Args:
        arm: its name.
        records: its merged records.
        similarity: tables of ``score_similarity.py`` of its captioner; may be empty.
        settings: budget, intervals and seed.
        out: the document; also returned.
        manifest: what it was made from.
        perf: time and peak memory.

    Raises:
        RecapError: if a file is missing or malformed.
    """
    started, figures = time.time(), PerfRecord("quality", "records")
    text = read_arm(records)
    statistics = text_statistics(text)
    draws = budget_draws(text.ids, [text.tokens], settings.token_budget, settings.seed)
    statistics["ttr_at_budget"] = draws[0] if draws else None
    scores = read_scores(similarity)
    if scores:
        chosen, original = chosen_similarity(text, scores), original_similarity(text, scores)
        statistics["similarity"] = known_mean(chosen)
        statistics["similarity_shift"] = known_mean(chosen - original)
    document = {"arm": arm, **facts(text), **_sizes(statistics["ttr_at_budget"], text)}
    document["measures"] = {
        name: _measured(measure, statistics[name], settings)
        for name, measure in catalogue(settings).items()
        if name in statistics
    }
    document["method"] = method(settings)
    write_json(out, document)
    write_manifest(
        manifest,
        stage="quality",
        inputs={"records": records, **numbered("similarity", similarity)},
        outputs={"quality": out},
        settings={"arm": arm, **settings.model_dump(mode="json")},
        counts={"records": len(text.ids), "tokens": document["tokens"]},
        started=started,
        seed=settings.seed,
    )
    figures.items = len(text.ids)
    figures.write(perf)
    return document


def text_statistics(text: ArmText) -> dict[str, Statistic | None]:
    """Return every statistic of the captions alone, ready to be resampled."""
    exact, near = duplicates(text.captions)
    return {
        "words": mean_of(text.word_counts),
        "characters": mean_of(text.character_counts),
        "mtld": mtld(text.tokens),
        f"mattr_{WINDOW}": mattr(text.tokens),
        f"hdd_{DRAWS}": hdd(text.tokens),
        "word_repetition": mean_of(word_repetition(text.words)),
        "character_repetition": mean_of(character_repetition(text.captions)),
        "degenerate": share_of(degenerate(text.words)),
        "exact_duplicates": share_of(exact),
        "near_duplicates": share_of(near),
    }


def known_mean(values: FloatArray) -> Statistic | None:
    """Return the mean of the values that are known (not NaN); ``None`` if none is."""
    known = np.isfinite(values)
    if not known.any():
        return None
    parts = (np.where(known, values, 0.0), known.astype(np.float64))
    return Statistic((parts,), known=int(known.sum()))


def facts(text: ArmText) -> Row:
    """Return counts, each with its counter, and the histogram of lengths."""
    words = text.word_counts
    return {
        "records": len(text.ids),
        "recaptioned": sum(source != "original" for source in text.sources),
        "words": int(words.sum()),
        "word_counter": WORD_COUNTER,
        "tokens": int(text.tokens.symbols.size),
        "types": text.tokens.kinds,
        "token_counter": TOKEN_COUNTER,
        "coverage": coverage(text.captions),
        "length_histogram": histogram(words),
        "length_quantiles": {
            str(q): float(v) for q, v in zip(_QUANTILES, _percentiles(words), strict=True)
        },
    }


def histogram(words: IntArray) -> dict[str, int]:
    """Return the captions by number of words, as strings in ascending order."""
    lengths, counts = np.unique(words, return_counts=True)
    return {str(k): int(v) for k, v in zip(lengths.tolist(), counts.tolist(), strict=True)}


def numbered(name: str, paths: Sequence[str | Path]) -> dict[str, str | Path]:
    """Return files under numbered names, for a manifest."""
    return {f"{name}_{number:05d}": path for number, path in enumerate(paths)}


def _percentiles(words: IntArray) -> list[float]:
    return np.percentile(words, _QUANTILES, method="inverted_cdf").tolist()


def _sizes(budgeted: Statistic | None, text: ArmText) -> Row:
    """Return the same text's type-token ratio at two sizes: what size alone does to it."""
    whole = text.tokens.symbols.size
    ratios = {
        "at_budget": budgeted.value if budgeted else None,
        "over_all_tokens": text.tokens.kinds / whole if whole else None,
    }
    return {"size_effect": ratios}


def _measured(measure: Measure, statistic: Statistic | None, settings: QualitySettings) -> Row:
    row: Row = {"label": measure.label, "protocol": measure.protocol}
    if statistic is None:
        return {**row, "value": None, "interval": None, "n": 0, "resampled": None}
    return {
        **row,
        **estimate(statistic, settings).as_dict(),
        "n": statistic.counted,
        "resampled": statistic.units,
    }
