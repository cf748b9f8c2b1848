"""VQAv2: open questions about COCO pictures, ten annotators each.

Questions: LLaVA's ``llava_vqav2_mscoco_test-dev2015.jsonl``. The answers to the
test splits are with the server alone, so test-dev is a file to submit:
LLaVA's ``convert_vqav2_for_submission.py`` lists every question of the whole
test split and leaves those empty that were not asked. Where the
annotations are public (``v2_mscoco_val2014_annotations.json``) the same soft
accuracy is computed here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....errors import RecapError
from ....io import numbered_jsonl, read_json, write_json
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
from ..textvqa.accuracy import ANNOTATORS, most_given, reference_scores, reference_words
from ..textvqa.normalize import normalize_answer

_NEEDED = ("question_id", "image_id", "answers")


class VqaV2(ReferencedBenchmark):
    """Open answers, scored softly against ten annotators, or sent to the server."""

    title = "VQAv2"
    metric = "vqa_accuracy"
    submission_format = "json"

    def references(self, annotations: Path) -> dict[str, dict[str, Any]]:
        """Return the annotations by question id; see :func:`load_annotations`."""
        return load_annotations(annotations)

    def score_answer(self, answer: Answer, entry: dict[str, Any]) -> Row:
        """Return the score row of an answer."""
        return _score_row(answer, entry)

    def write_submission(self, answers: Sequence[Answer], annotations: Path, out: Path) -> None:
        """Write ``[{question_id, answer}]`` in the file's order; see the base class.

        Answers are normalised; a question that was not asked has an empty one.
        """
        asked = read_question_ids(annotations)
        given = {
            question_key(answer): normalize_answer(answer["text"])
            for answer, _ in pair_answers(answers, asked, annotations)
        }
        rows = [{"question_id": own, "answer": given.get(key, "")} for key, own in asked.items()]
        write_json(out, rows)


def read_question_ids(path: Path) -> dict[str, Any]:
    """Return the question ids of a question file as it has them, by their text.

    Raises:
        RecapError: at the first line without an id or with one that was there.
    """
    found: dict[str, Any] = {}
    for line, row in numbered_jsonl(path):
        check_entry(row, ("question_id",), f"{path}, line {line}")
        if str(row["question_id"]) in found:
            raise RecapError(f"{path}, line {line}: question {row['question_id']} is there twice")
        found[str(row["question_id"])] = row["question_id"]
    return found


def load_annotations(path: Path) -> dict[str, dict[str, Any]]:
    """Return VQA's annotations by question id.

    Raises:
        RecapError: if the file is a question file, naming what to do, or at the
            first malformed or repeated annotation.
    """
    if path.suffix == ".jsonl":
        raise RecapError(
            f"{path} holds questions, not answers: this split is scored by a server alone. "
            "List the row under `submissions`, not under `benchmarks`"
        )
    document = read_json(path)
    entries = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise RecapError(f"{path}: expected an object with a list 'annotations'")
    found: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, annotation {number}"
        check_entry(entry, _NEEDED, where)
        where = f"{where} (question {entry['question_id']})"
        answers = entry["answers"]
        if not isinstance(answers, list) or len(answers) != ANNOTATORS:
            raise RecapError(f"{where}: needs a list of {ANNOTATORS} answers")
        for answer in answers:
            check_entry(answer, ("answer",), f"{where}, an answer")
        if str(entry["question_id"]) in found:
            raise RecapError(f"{where}: a second annotation of this question")
        found[str(entry["question_id"])] = entry
    return found


def _score_row(answer: Answer, entry: dict[str, Any]) -> Row:
    references = [str(given["answer"]) for given in entry["answers"]]
    normalized = normalize_answer(answer["text"])
    return score_row(
        answer,
        image_id=str(entry["image_id"]),
        question=first_line(answer["prompt"]),
        normalized=normalized,
        accuracy=reference_scores(references).get(normalized, 0.0),
        question_type=str(entry.get("answer_type", "unknown")),
        truth=most_given(references),
        answer_words=reference_words(references),
    )


BENCHMARK = VqaV2()
