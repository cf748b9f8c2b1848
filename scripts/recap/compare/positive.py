"""Positive controls: does our evaluation give a released model the score that was published?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GateError
from ..hashing import derived_seed
from ..io import read_json, write_evidence
from ..settings import CompareSettings
from .inputs import ComparisonInputs, PositiveControlInputs
from .resampling import crossed_interval, crossed_table
from .scores import align_scores, read_rows
from .verdicts import interval_text, percent, points

Row = dict[str, Any]

# Scores are published with one decimal.
_ROUNDING = 0.05
_TOLERANCE_POINTS = 0.006


def check_positive_control(
    control: PositiveControlInputs, score: Path, scores: Path, settings: CompareSettings, out: Path
) -> None:
    """Compare a released model's score with the published one, and write the report.

    They agree if the published score, which is rounded to one decimal, lies in
    the bootstrap interval over images of ours. The interval is about these
    weights on questions like these; it says nothing about training seeds.

    Args:
        control: what was published.
        score: score document of the model's answers.
        scores: its rows, one a question.
        settings: confidence and number of resamples.
        out: report; kept as ``<name>.failed.json`` too if they disagree.

    Raises:
        GateError: if they disagree, or the files contradict each other.
    """
    document, rows = read_json(score), read_rows(scores)
    table = align_scores(control.benchmark, [control.model], [0], {(control.model, 0): rows})
    accuracy = table.accuracy[control.model]
    stated = (document.get("control"), document.get("benchmark"), document.get("n"))
    if stated != ("none", control.benchmark, len(rows)):
        raise GateError(f"{score} is not about all answers to {control.benchmark}: {stated}")
    if abs(document["accuracy"] - accuracy.mean()) > _TOLERANCE_POINTS:
        raise GateError(f"{score} states another accuracy than {scores}; score the answers again")
    low, high = crossed_interval(
        crossed_table(accuracy, table.images),
        confidence=settings.confidence,
        samples=settings.bootstrap_samples,
        seed=derived_seed(settings.seed, control.benchmark, control.model, "published"),
    )
    agrees = low - _ROUNDING <= control.published <= high + _ROUNDING
    report = {
        **_named(control),
        "checked": True,
        "agrees": agrees,
        "accuracy": float(np.mean(accuracy)),
        "interval": [low, high],
        "questions": len(rows),
    }
    report["sentence"] = _sentence(report, settings.confidence)
    write_evidence(out, report, passed=agrees)
    if not agrees:
        raise GateError(
            f"{report['sentence']} No other score of this evaluation can be trusted until it is "
            "known why: compare prompt, image processing and decoding with upstream's"
        )


def positive_rows(inputs: ComparisonInputs) -> list[Row]:
    """Return one row a positive control, checked or not.

    Raises:
        GateError: if a report is about another control, or does not agree.
    """
    return [_row(control) for control in inputs.positive_controls]


def _row(control: PositiveControlInputs) -> Row:
    if control.report is not None:
        report: Row = read_json(control.report)
        named = _named(control)
        if not report.get("agrees") or {name: report.get(name) for name in named} != named:
            raise GateError(f"{control.report} does not show that {control.name} is met")
        return report
    sentence = (
        f"The evaluation was not checked against a published score: {control.model} should score "
        f"{control.published:g} points on {control.benchmark}, but its weights are not at "
        f"{control.missing}."
    )
    empty = {"checked": False, "agrees": None, "accuracy": None, "interval": None}
    return {**_named(control), **empty, "questions": None, "sentence": sentence}


def _named(control: PositiveControlInputs) -> Row:
    return control.model_dump(include={"name", "model", "benchmark", "published", "citation"})


def _sentence(report: Row, confidence: float) -> str:
    verb = "agrees" if report["agrees"] else "does not agree"
    return (
        f"{report['model']} scores {points(report['accuracy'])} points on {report['benchmark']} "
        f"here ({percent(confidence)} interval {interval_text(report['interval'], sign=False)}, "
        f"{report['questions']} questions), which {verb} with the published "
        f"{report['published']:g}."
    )


def positive_warning(rows: Sequence[Row]) -> str:
    """Return which published scores were not checked, or an empty string."""
    return " ".join(row["sentence"] for row in rows if not row["checked"])
