"""POPE: is an object in the picture, yes or no, in three ways of choosing the object.

Questions: LLaVA's ``llava_pope_test.jsonl`` with ``category``. Annotations: the
folder of ``coco_pope_<category>.json``, one ``{"label": "yes" | "no"}`` a line
in the order of that category's questions.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ....errors import RecapError
from ....io import iter_jsonl
from ...answers import Answer, answer_key
from ...protocol import BenchmarkProtocol
from ..base import Benchmark, Question, QuestionSet, Scores, check_questions

CATEGORIES = ("random", "popular", "adversarial")
_NEGATIONS = {"No", "not", "no"}


class Pope(Benchmark):
    """Yes or no; the positive class is yes."""

    metric = "yes_no_accuracy"
    closed_answers = True

    def load(self, path: Path, protocol: BenchmarkProtocol) -> QuestionSet:
        """Read ``{question_id, image, text, category}`` lines; see the base class.

        Raises:
            RecapError: if the protocol asks for OCR tokens or a line is malformed.
        """
        if protocol.ocr:
            raise RecapError("POPE has no OCR tokens; set ocr to false in its row")
        questions = []
        for line, row in enumerate(iter_jsonl(path), start=1):
            missing = {"question_id", "image", "text", "category"} - set(row)
            if missing:
                raise RecapError(f"{path}, question {line}: lacks {', '.join(sorted(missing))}")
            if row["category"] not in CATEGORIES:
                raise RecapError(
                    f"{path}, question {line}: category {row['category']!r} is none of "
                    f"{', '.join(CATEGORIES)}"
                )
            text = _with_instruction(row["text"], protocol.instruction)
            extra = {"category": row["category"]}
            questions.append(Question(row["question_id"], text, text, row["image"], line, extra))
        check_questions(questions, path)
        return QuestionSet(questions)

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


def _with_instruction(text: str, instruction: str | None) -> str:
    return f"{text.split(chr(10), maxsplit=1)[0]}\n{instruction}" if instruction else text


def read_yes_no(text: str) -> str:
    """Return ``no`` if the first sentence holds No, no or not as a word, else ``yes``."""
    words = text.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return "no" if _NEGATIONS & set(words) else "yes"


def _read_labels(folder: Path, category: str) -> list[str]:
    path = folder / f"coco_pope_{category}.json"
    if not path.is_file():
        return []
    labels = [str(row.get("label")) for row in iter_jsonl(path)]
    strange = sorted(set(labels) - {"yes", "no"})
    if strange:
        raise RecapError(f"{path}: labels must be yes or no, not {', '.join(strange)}")
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
        "question": question.prompt.split("\n")[0],
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
    return {"by_category": by_category, "mean_f1": round(sum(scores) / len(scores), 2)}


BENCHMARK = Pope()
