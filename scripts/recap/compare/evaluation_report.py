"""The evaluation report under the predecessor's name and fields, with real content.

Field names as in the predecessor's ``evaluation_comparison_report.json``. What
it lacked is added: accuracy, n, interval, protocol, provenance. Every sentence
is made from numbers of the comparison document.
"""

from collections import Counter
from typing import Any

from .inputs import ComparisonInputs
from .scores import BenchmarkScores
from .verdicts import interval_text, percent, points

Row = dict[str, Any]
_TOP = 5
_OF_PAIR = (
    "difference",
    "interval",
    "p_value",
    "p_adjusted",
    "minimum_detectable_effect",
    "mcnemar",
    "changed_answers",
    "categories",
    "verdict",
)


def evaluation_report(
    document: Row, scores: dict[str, BenchmarkScores], inputs: ComparisonInputs
) -> Row:
    """Return the report; its top level is about the first benchmark.

    Args:
        document: the comparison document.
        scores: aligned scores by benchmark, in the document's order.
        inputs: where the answers came from.
    """
    sections = {name: _section(document, table, inputs) for name, table in scores.items()}
    first = document["benchmarks"][0]["benchmark"]
    return {
        **sections[first],
        "simulated": False,
        "experiment": document["experiment"],
        "headline": document["headline"],
        "other_benchmarks": {name: part for name, part in sections.items() if name != first},
        "provenance": document["provenance"],
    }


def _section(document: Row, scores: BenchmarkScores, inputs: ComparisonInputs) -> Row:
    name = scores.benchmark
    facts = next(b for b in document["benchmarks"] if b["benchmark"] == name)
    rows = [row for row in document["comparisons"] if row["benchmark"] == name]
    models = {
        f"{arm['arm']}_model": _model(arm, scores, inputs, document["settings"]["confidence"])
        for arm in facts["arms"]
    }
    return {
        "benchmark": name,
        "protocol": facts["protocol"],
        "evaluation_comparison": models,
        "comparison_metrics": _metrics(document, rows, scores, models),
        "key_findings": [row["sentence"] for row in rows],
        "technical_notes": _notes(document, facts, rows),
    }


def _model(arm: Row, scores: BenchmarkScores, inputs: ComparisonInputs, confidence: float) -> Row:
    """Predecessor's fields describe the first seed's file; the accuracy covers all seeds."""
    first = scores.predictions[arm["arm"]][0]
    counts = Counter(first.tolist())
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_TOP]
    files = [str(inputs.evaluation(arm["arm"], s, scores.benchmark).scores) for s in scores.seeds]
    return {
        "results_file": files[0],
        "total_questions": int(first.size),
        "unique_answers": len(counts),
        "diversity_score": round(len(counts) / first.size, 6),
        "top_answers": dict(top),
        "accuracy": arm["accuracy"],
        "n": int(first.size),
        "images": scores.image_count,
        "interval": arm["interval"],
        "confidence": confidence,
        "seeds": list(scores.seeds),
        "seed_accuracy": arm["seed_accuracy"],
        "results_files": files,
        "simulated": False,
    }


def _metrics(document: Row, rows: list[Row], scores: BenchmarkScores, models: Row) -> Row:
    """Return the pairs' metrics, and at the top those of the first pair that is no A/A pair."""
    types = {question["question_type"] for question in scores.questions}
    metrics: Row = {
        "question_type_coverage": len(types - {None}),
        "evaluation_method": _method(document),
        "pairs": [_pair(row, models) for row in rows],
    }
    first = next((_pair(row, models) for row in rows if not row["identical_pair"]), None)
    if first is not None:
        names = ("diversity_improvement", "answer_consistency")
        metrics = {name: first[name] for name in names} | metrics
    return metrics


def _pair(row: Row, models: Row) -> Row:
    arm, reference = models[f"{row['arm']}_model"], models[f"{row['reference']}_model"]
    change = arm["diversity_score"] / reference["diversity_score"] - 1
    changed = row["changed_answers"]
    return {
        "arm": row["arm"],
        "reference": row["reference"],
        "diversity_improvement": f"{100 * change + 0.0:+.1f}%",
        "answer_consistency": round(1 - changed["count"] / changed["answers"], 6),
        **{name: row[name] for name in _OF_PAIR},
    }


def _method(document: Row) -> str:
    settings = document["settings"]
    return (
        f"paired by question and seed; {percent(settings['confidence'])} bootstrap interval over "
        f"images crossed with seeds ({settings['bootstrap_samples']} resamples); sign flips of "
        f"whole images ({settings['permutation_samples']}); Holm over benchmarks and arms"
    )


def _notes(document: Row, facts: Row, rows: list[Row]) -> list[str]:
    seeds = ", ".join(map(str, document["seeds"]))
    notes = [
        f"{facts['questions']} questions on {facts['images']} images; seeds {seeds}.",
        document["scope"],
    ]
    notes += [
        f"{arm['arm']}: {points(arm['accuracy'])} points, interval "
        f"{interval_text(arm['interval'], sign=False)}."
        for arm in facts["arms"]
    ]
    notes += [
        f"{row['arm']} and {row['reference']}: {row['changed_answers']['count']} of "
        f"{row['changed_answers']['answers']} normalised answers differ."
        for row in rows
    ]
    return [note for note in (*notes, document["warning"]) if note]
