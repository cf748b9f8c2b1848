"""POPE: is an object in the picture, yes or no, in three ways of choosing the object.

Questions: LLaVA's ``llava_pope_test.jsonl`` with ``category``. Annotations: the
folder of ``coco_pope_<category>.json``, one ``{"label": "yes" | "no"}`` a line
in the order of that category's questions.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ....errors import RecapError
from ....io import numbered_jsonl
from ...answers import Answer, answer_key
from ...protocol import BenchmarkProtocol
from ..base import Question, Scores
from ..lines import YesNoBenchmark, first_line

CATEGORIES = ("random", "popular", "adversarial")
_NEGATIONS = {"No", "not", "no"}


class Pope(YesNoBenchmark):
    """Yes or no; the positive class is yes."""

    title = "POPE"
    needed = ("category",)
    metric = "yes_no_accuracy"

    def row_fault(self, row: Mapping[str, Any]) -> str:
        """Return what is wrong with a category."""
        known = row["category"] in CATEGORIES
        return "" if known else f"category {row['category']!r} is none of {', '.join(CATEGORIES)}"

    def score(
        self,
        answers: Sequence[Answer],
        annotations: Path,
        protocol: BenchmarkProtocol,
        questions: Path | None = None,
    ) -> Scores:
        """Score in the order of the question file; see the base class.

        Raises:
            RecapError: without a question file, or if labels, questions and
                answers do not match one to one.
        """
        if questions is None:
            raise RecapError("POPE is scored with its question file; pass --questions")
        given = {answer_key(answer): answer for answer in answers}
        asked = self.load(questions, protocol).questions
        if len(given) != len(answers) or set(given) != {question.key for question in asked}:
            raise RecapError(f"the answers are not one to each of {len(asked)} in {questions}")
        labels = {name: iter(_read_labels(annotations, name)) for name in CATEGORIES}
        rows = [_score_row(question, given[question.key], labels) for question in asked]
        for name, rest in labels.items():
            surplus = sum(1 for _ in rest)
            if surplus:
                raise RecapError(f"{annotations}: {surplus} labels too many for category {name}")
        return Scores(rows, _facts(rows))


def read_yes_no(text: str) -> str:
    """Return ``no`` if the first sentence holds No, no or not as a word, else ``yes``."""
    words = text.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return "no" if _NEGATIONS & set(words) else "yes"


def _read_labels(folder: Path, category: str) -> list[str]:
    path = folder / f"coco_pope_{category}.json"
    if not path.is_file():
        return []
    labels = []
    for line, row in numbered_jsonl(path):
        label = row.get("label")
        if label not in ("yes", "no"):
            raise RecapError(f"{path}, line {line}: the label must be yes or no, not {label!r}")
        labels.append(label)
    return labels


def _score_row(question: Question, answer: Answer, labels: Mapping[str, Any]) -> dict[str, Any]:
    category = question.extra["category"]
    label = next(labels[category], None)
    if label is None:
        raise RecapError(
            f"question {question.question_id}: no label left in coco_pope_{category}.json"
        )
    normalized = read_yes_no(answer["text"])
    return {
        "question_id": question.question_id,
        "image_id": question.image,
        "question": first_line(question.prompt),
        "prediction": answer["text"],
        "normalized": normalized,
        "accuracy": float(normalized == label),
        "question_type": category,
        "has_ocr": False,
        "label": label,
    }


def yes_no_figures(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return accuracy, precision, recall, F1 and the share of yes, in points.

    Args:
        pairs: (answer, label), each ``yes`` or ``no``; at least one.

    Returns:
        With the four counts; a ratio without a denominator is ``None``.
    """
    pairs = list(pairs)
    true_yes = pairs.count(("yes", "yes"))
    false_yes = pairs.count(("yes", "no"))
    false_no = pairs.count(("no", "yes"))
    true_no = pairs.count(("no", "no"))
    return {
        "n": len(pairs),
        "true_yes": true_yes,
        "false_yes": false_yes,
        "true_no": true_no,
        "false_no": false_no,
        "accuracy": _points(true_yes + true_no, len(pairs)),
        "precision": _points(true_yes, true_yes + false_yes),
        "recall": _points(true_yes, true_yes + false_no),
        "f1": _points(2 * true_yes, 2 * true_yes + false_yes + false_no),
        "yes_ratio": _points(true_yes + false_yes, len(pairs)),
    }


def _points(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None


def _facts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    by_category = {
        name: yes_no_figures(
            (row["normalized"], row["label"]) for row in rows if row["question_type"] == name
        )
        for name in CATEGORIES
        if any(row["question_type"] == name for row in rows)
    }
    scores = [figures["f1"] or 0.0 for figures in by_category.values()]
    return {
        "by_category": by_category,
        "mean_f1": round(sum(scores) / len(scores), 2),
        # They count as yes: many of them mean that the model did not answer the question.
        "neither_yes_nor_no": sum(not _says_yes_or_no(row["prediction"]) for row in rows),
    }


def _says_yes_or_no(text: str) -> bool:
    return read_yes_no(text) == "no" or "yes" in re.findall(r"\w+", text.lower())


BENCHMARK = Pope()
