"""GQA test-dev, balanced: 12,578 short questions about scenes, one right answer each.

Questions: LLaVA's ``llava_gqa_testdev_balanced.jsonl``. Annotations: GQA's own
``testdev_balanced_questions.json``. The answer's form and the figures are those
of LLaVA's ``convert_gqa_for_eval.py`` and of GQA's ``eval.py``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....errors import RecapError
from ....io import read_json, write_json
from ...answers import Answer
from ..lines import (
    ReferencedBenchmark,
    Row,
    check_entry,
    first_line,
    pair_answers,
    question_key,
    score_row,
)

_NEEDED = ("question", "imageId", "answer")


class Gqa(ReferencedBenchmark):
    """Open answers of a word or two that must equal the reference."""

    title = "GQA"
    metric = "exact_match"
    breakdowns = ("answer_kind", "question_type")
    submission_format = "json"

    def references(self, annotations: Path) -> dict[str, dict[str, Any]]:
        """Return the annotations by question id; see :func:`load_annotations`."""
        return load_annotations(annotations)

    def score_answer(self, answer: Answer, entry: dict[str, Any]) -> Row:
        """Return the score row of an answer."""
        return _score_row(answer, entry)

    def write_submission(self, answers: Sequence[Answer], annotations: Path, out: Path) -> None:
        """Write ``[{questionId, prediction}]`` for GQA's own script; see the base class."""
        paired = list(pair_answers(answers, load_annotations(annotations), annotations))
        write_json(
            out,
            [
                {"questionId": question_key(answer), "prediction": prediction(answer["text"])}
                for answer, _ in paired
            ],
        )


def prediction(text: str) -> str:
    """Return the form of an answer that is compared: no periods at its end, lower case."""
    return text.rstrip(".").lower()


def load_annotations(path: Path) -> dict[str, dict[str, Any]]:
    """Return GQA's entries by question id.

    Raises:
        RecapError: naming the file and the first malformed question.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise RecapError(f"{path}: expected an object with one entry a question id")
    for name, entry in document.items():
        check_entry(entry, _NEEDED, f"{path}, question {name}")
        if not isinstance(entry.get("types") or {}, dict):
            raise RecapError(f"{path}, question {name}: types must be an object, as in GQA's file")
    return document


def _score_row(answer: Answer, entry: dict[str, Any]) -> Row:
    given, truth = prediction(answer["text"]), str(entry["answer"])
    structure = str((entry.get("types") or {}).get("structural", "unknown"))
    row = score_row(
        answer,
        image_id=str(entry["imageId"]),
        question=first_line(answer["prompt"]),
        normalized=given,
        accuracy=float(given == prediction(truth)),
        question_type=structure,
        truth=truth,
        answer_words=len(truth.split()),
    )
    # GQA's eval.py: questions that query are open, all others binary.
    return row | {"answer_kind": "open" if structure == "query" else "binary"}


BENCHMARK = Gqa()
