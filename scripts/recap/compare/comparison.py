"""The comparison document: every number the report shows, in one JSON."""

import logging
from pathlib import Path
from typing import Any

from ..errors import GateError
from ..io import read_json
from ..settings import CompareSettings
from .choices import caption_choice
from .contrast import contrast_arms, summarize_arm
from .controls import control_rows, control_warning
from .inputs import ArmInputs, ComparisonInputs
from .matching import check_contract
from .positive import positive_rows, positive_warning
from .provenance import answer_origins, score_files
from .scores import BenchmarkScores, load_scores
from .seen_pictures import SeenPictures
from .significance import holm
from .verdicts import decide, headline, scope_sentence, sentence, warning_text

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
_TOLERANCE_POINTS = 0.006
Row = dict[str, Any]


def compare(
    inputs: ComparisonInputs, settings: CompareSettings
) -> tuple[Row, dict[str, BenchmarkScores]]:
    """Compare all arms on all benchmarks.

    Returns:
        The document (valid against ``config/schemas/comparison.schema.json``)
        and the aligned scores it was made from.

    Raises:
        GateError: if the arms don't match, runs answered different questions,
            or a score file contradicts its questions.
        RecapError: if a file is missing or malformed.
    """
    contract = check_contract(inputs)
    held = sum(row["ok"] for row in contract)
    logger.info("contract between arms: %d of %d facts are equal", held, len(contract))
    scores = {b.name: load_scores(inputs, b.name) for b in inputs.benchmarks}
    for name, table in scores.items():
        check_score_files(inputs, table)
        logger.info("%s: %d questions, %d images", name, len(table.questions), table.image_count)
    return assemble(inputs, settings, scores, contract), scores


def check_score_files(inputs: ComparisonInputs, scores: BenchmarkScores) -> None:
    """Check each score.json against the mean and number of its own questions.

    Raises:
        GateError: if accuracy (points) or count differ, or answers are
            simulated or of a control condition.
    """
    for arm in inputs.arm_names:
        for row, seed in zip(scores.accuracy[arm], scores.seeds, strict=True):
            path = inputs.evaluation(arm, seed, scores.benchmark).score
            document = read_json(path)
            stated, count = document.get("accuracy", float("nan")), document.get("n")
            if document.get("simulated", False):
                raise GateError(f"{path}: marked as simulated; only a model's answers count")
            refuse_control(document, path)
            if count != row.size or not abs(stated - row.mean()) < _TOLERANCE_POINTS:
                raise GateError(
                    f"{path}: states {stated} points on {count} questions, but its questions "
                    f"give {row.mean():.4f} on {row.size}; score the run again"
                )


def refuse_control(score: Row, path: Path) -> None:
    """Refuse a score document of answers that a control condition made.

    Raises:
        GateError: naming ``path`` and the control.
    """
    control = score.get("control", "none")
    if control != "none":
        raise GateError(
            f"{path}: answers of the control {control}, which no arm gave; compare a model's "
            "answers to the questions with their own pictures"
        )


def assemble(
    inputs: ComparisonInputs,
    settings: CompareSettings,
    scores: dict[str, BenchmarkScores],
    contract: list[Row],
) -> Row:
    """Build the document from aligned scores; see :func:`compare`."""
    comparisons = _comparisons(inputs, settings, scores)
    benchmarks = [_benchmark(inputs, settings, table, comparisons) for table in scores.values()]
    positive = positive_rows(inputs)
    document: Row = {
        "schema_version": SCHEMA_VERSION,
        "experiment": inputs.experiment,
        "title": inputs.title,
        "scale": inputs.scale,
        "notes": inputs.notes,
        "stand_ins": list(inputs.stand_ins),
        "reference": inputs.reference,
        "arms": [_arm(arm) for arm in inputs.arms],
        "seeds": list(inputs.seeds),
        "settings": settings.model_dump(),
        "simulated": False,
        "headline": "",
        "scope": scope_sentence(len(inputs.seeds)),
        "warning": _warning(inputs, benchmarks, positive),
        "contract": {"ok": all(row["ok"] for row in contract), "rows": contract},
        "positive_controls": positive,
        "benchmarks": benchmarks,
        "comparisons": comparisons,
        "provenance": {"score_files": score_files(inputs), "answers": answer_origins(inputs)},
    }
    document = rounded(document)
    document["headline"] = headline(document)
    for row in document["comparisons"]:
        row["sentence"] = sentence(row, settings.confidence)
    return document


def _arm(arm: ArmInputs) -> Row:
    names = {"arm", "description", "matched", "identical_to", "compared_with"}
    return {**arm.model_dump(include=names), "caption_choice": caption_choice(arm.decisions)}


def _warning(inputs: ComparisonInputs, benchmarks: list[Row], positive: list[Row]) -> str:
    parts = (
        warning_text(inputs.stand_ins, inputs.notes, benchmarks),
        control_warning(benchmarks),
        positive_warning(positive),
    )
    return " ".join(part for part in parts if part)


def _comparisons(
    inputs: ComparisonInputs, settings: CompareSettings, scores: dict[str, BenchmarkScores]
) -> list[Row]:
    ordinary = [arm for arm in inputs.challengers if arm.identical_to is None]
    family = len(ordinary) * len(scores)
    pictures = SeenPictures(inputs)
    rows = []
    for table in scores.values():
        for arm in inputs.challengers:
            other = inputs.opponent(arm)
            seen = pictures.compare(table, arm.arm, other)
            extra = {"caption": seen.fates} if seen is not None and seen.trained_on else {}
            row = contrast_arms(table, arm.arm, other, settings, comparisons=family, extra=extra)
            row |= {"matched": arm.matched, "identical_pair": arm.identical_to is not None}
            row["pictures"] = seen and {"found": seen.pictures, "trained_on": seen.trained_on}
            rows.append(row)
    compared = [row for row in rows if not row["identical_pair"]]
    adjusted = iter(holm([row["p_value"] for row in compared]))
    for row in rows:
        row["p_adjusted"] = row["p_value"] if row["identical_pair"] else next(adjusted)
    for row in rows:
        floor = None if row["identical_pair"] else _noise_floor(rows, row["benchmark"])
        row["noise_floor"] = floor
        row["verdict"] = decide(
            row["difference"],
            row["interval"],
            row["p_adjusted"],
            alpha=1 - settings.confidence,
            noise_floor=floor,
        )
    return rows


def _noise_floor(rows: list[Row], benchmark: str) -> float | None:
    """Return the largest A/A difference of a benchmark in points, if there is a pair."""
    found = [
        abs(r["difference"]) for r in rows if r["identical_pair"] and r["benchmark"] == benchmark
    ]
    return max(found, default=None)


def _benchmark(
    inputs: ComparisonInputs,
    settings: CompareSettings,
    scores: BenchmarkScores,
    comparisons: list[Row],
) -> Row:
    protocol = next(b.protocol for b in inputs.benchmarks if b.name == scores.benchmark)
    arms = [summarize_arm(scores, arm, settings) for arm in inputs.arm_names]
    for row in arms:
        row["degenerate_seeds"] = [
            seed
            for seed in scores.seeds
            if read_json(inputs.evaluation(row["arm"], seed, scores.benchmark).score).get(
                "degenerate", False
            )
        ]
    return {
        "benchmark": scores.benchmark,
        "protocol": protocol,
        "questions": len(scores.questions),
        "images": scores.image_count,
        "noise_floor": _noise_floor(comparisons, scores.benchmark),
        "arms": arms,
        "controls": control_rows(inputs, scores, settings),
    }


def rounded(value: Any) -> Any:
    """Return a JSON value with floats cut to seven significant digits.

    Sums in another order (threads, BLAS builds) differ beyond that, and the
    document should not.
    """
    if isinstance(value, float):
        return float(f"{value:.7g}") + 0.0
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
