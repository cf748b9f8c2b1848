"""Does a model do better than its own answers with pictures that cannot help?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import GateError
from ..hashing import derived_seed
from ..io import read_json
from ..settings import CompareSettings
from .inputs import ComparisonInputs, ControlInputs
from .resampling import FEWEST_IMAGES, FloatArray, crossed_interval, crossed_table
from .scores import BenchmarkScores, align_scores, read_rows
from .verdicts import interval_text, percent, points

Row = dict[str, Any]

# What a condition shows, and what it means if a model does no better.
CONDITIONS: Mapping[str, tuple[str, str]] = {
    "blank_image": ("blank images", "does not use the image"),
    "shuffled_images": ("images of other questions", "does not use the image"),
    "text_only_majority": (
        "the most frequent answer of the instruction data",
        "is not shown to use image or question",
    ),
}


def control_rows(
    inputs: ComparisonInputs, scores: BenchmarkScores, settings: CompareSettings
) -> list[Row]:
    """Return one row a control condition and arm: the model against its control.

    Differences are paired by question and seed, model minus control, in points,
    with the interval of :func:`~.resampling.crossed_interval`; none where fewer than
    eight images, or differences that are all alike, show no spread. Rows carry
    ``control``, ``arm``, ``accuracy`` (of the control) and ``seed_accuracy``,
    ``model_accuracy``, ``difference``, ``interval``, ``same_answers``,
    ``image_ignored`` (no answer changed), ``beats_control`` (the interval lies
    above zero, or every difference does on eight images or more) and ``sentence``.

    Raises:
        GateError: if a control answered other questions than the model, or its
            score file contradicts them.
    """
    given = [item for item in inputs.controls if item.benchmark == scores.benchmark]
    rows = []
    for condition in dict.fromkeys(item.control for item in given):
        files = [item for item in given if item.control == condition]
        for arm in inputs.arm_names:
            rows.append(_row(inputs, scores, settings, condition, arm, files))
    return rows


def _row(
    inputs: ComparisonInputs,
    scores: BenchmarkScores,
    settings: CompareSettings,
    condition: str,
    arm: str,
    files: Sequence[ControlInputs],
) -> Row:
    control = _aligned(inputs, scores, condition, arm, files)
    accuracy = control.accuracy[condition]
    table = crossed_table(scores.accuracy[arm] - accuracy, scores.images)
    low, high = crossed_interval(
        table,
        confidence=settings.confidence,
        samples=settings.bootstrap_samples,
        seed=derived_seed(settings.seed, scores.benchmark, arm, condition),
    )
    enough = table.sizes.size >= FEWEST_IMAGES
    same = control.predictions[condition] == scores.predictions[arm]
    row: Row = {
        "control": condition,
        "arm": arm,
        "accuracy": _mean(accuracy),
        "seed_accuracy": [_mean(values) for values in accuracy],
        "model_accuracy": _mean(scores.accuracy[arm]),
        "difference": table.mean,
        "interval": [low, high] if enough and low < high else None,
        "same_answers": {"answers": int(same.size), "count": int(np.count_nonzero(same))},
        "image_ignored": bool(same.all()),
        "beats_control": enough and low > 0,
    }
    return {**row, "sentence": _sentence(row, scores, settings.confidence)}


def _aligned(
    inputs: ComparisonInputs,
    scores: BenchmarkScores,
    condition: str,
    arm: str,
    files: Sequence[ControlInputs],
) -> BenchmarkScores:
    """Return the control's scores in the order of the model's, by seed."""
    rows = {}
    for seed in scores.seeds:
        rows[arm, seed] = read_rows(inputs.evaluation(arm, seed, scores.benchmark).scores)
        found = [f for f in files if (f.arm, f.seed) in ((arm, seed), (None, None))]
        if len(found) != 1:
            raise GateError(
                f"{scores.benchmark}: {len(found)} files of the control {condition} for arm "
                f"{arm}, seed {seed}; one is needed"
            )
        rows[condition, seed] = read_rows(found[0].scores)
        _require_condition(found[0])
    aligned = align_scores(scores.benchmark, [arm, condition], scores.seeds, rows)
    names = ("question_id", "question")
    order = [[question[name] for name in names] for question in aligned.questions]
    if order != [[question[name] for name in names] for question in scores.questions]:
        raise GateError(f"{scores.benchmark}: the runs of {arm} are not in one order")
    return aligned


def _require_condition(item: ControlInputs) -> None:
    stated = read_json(item.score).get("control")
    if stated != item.control:
        raise GateError(f"{item.score}: made under {stated}, not under {item.control}")


def _mean(values: FloatArray) -> float:
    return float(values.mean())


def _sentence(row: Row, scores: BenchmarkScores, confidence: float) -> str:
    shown, meaning = CONDITIONS[row["control"]]
    benchmark = scores.benchmark
    spread = f"no interval, {scores.image_count} images show no spread"
    if row["interval"] is not None:
        spread = f"{percent(confidence)} interval {interval_text(row['interval'])}"
    size = (
        f"{points(row['model_accuracy'])} against {points(row['accuracy'])} points with {shown}: "
        f"{points(row['difference'], sign=True)}, {spread}"
    )
    if row["beats_control"]:
        return f"{row['arm']} beats its control on {benchmark} ({size})."
    if row["image_ignored"]:
        answers = row["same_answers"]["answers"]
        return f"{row['arm']} {meaning} on {benchmark}: all {answers} answers stay the same."
    return f"{row['arm']} {meaning} on {benchmark}, as far as can be seen ({size})."


def control_warning(benchmarks: Sequence[Mapping[str, Any]]) -> str:
    """Return which arms do not beat which control, or an empty string."""
    failed = [
        f"{row['arm']} {CONDITIONS[row['control']][1]} on {facts['benchmark']}"
        for facts in benchmarks
        for row in facts["controls"]
        if not row["beats_control"]
    ]
    return f"Controls: {'; '.join(dict.fromkeys(failed))}." if failed else ""
