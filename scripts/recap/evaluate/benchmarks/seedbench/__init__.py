"""SEED-Bench: multiple choice about pictures and frames of videos, twelve tasks.

Questions: LLaVA's ``llava-seed-bench.jsonl``. Annotations: ``SEED-Bench.json``.
Scores and the file to upload are those of LLaVA's
``convert_seed_for_submission.py``: the whole answer must be the letter.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....errors import RecapError
from ....io import read_json, write_jsonl
from ...answers import Answer
from ..base import Question
from ..lines import (
    ReferencedBenchmark,
    Row,
    check_entry,
    first_line,
    pair_answers,
    question_key,
    score_row,
    share,
)
from ..mmbench.circular import extract_letter
from ..mmbench.table import LETTERS

_NEEDED = ("question_id", "question_type_id", "answer", "data_id", "data_type")


class SeedBench(ReferencedBenchmark):
    """Letters; ``accuracy`` compares the whole answer with the letter."""

    title = "SEED-Bench"
    metric = "letter_accuracy"
    closed_answers = True
    breakdowns = ("data_type", "question_type")
    submission_format = "jsonl"

    def admitted_answers(self, question: Question) -> tuple[str, ...]:
        """Return the four letters."""
        return tuple(LETTERS)

    def references(self, annotations: Path) -> dict[str, dict[str, Any]]:
        """Return the annotations by question id; see :func:`load_annotations`."""
        return load_annotations(annotations)

    def score_answer(self, answer: Answer, entry: dict[str, Any]) -> Row:
        """Return the score row of an answer."""
        return _score_row(answer, entry)

    def figures(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return accuracy with letters taken out of longer answers, and how many needed it."""
        needed = sum(row["accuracy"] != row["accuracy_robust"] for row in rows)
        return {
            "robust_accuracy": share(rows, "accuracy_robust"),
            "questions_that_needed_letter_extraction": needed,
        }

    def write_submission(self, answers: Sequence[Answer], annotations: Path, out: Path) -> None:
        """Write a ``{question_id, prediction}`` line a question; see the base class.

        Raises:
            RecapError: if a question of the file has no answer.
        """
        references = load_annotations(annotations)
        given = {
            question_key(answer): answer["text"]
            for answer, _ in pair_answers(answers, references, annotations)
        }
        missing = [name for name in references if name not in given]
        if missing:
            raise RecapError(
                f"{len(missing)} questions of {annotations} have no answer: {missing[:5]}"
            )
        rows = [
            {"question_id": entry["question_id"], "prediction": given[name]}
            for name, entry in references.items()
        ]
        write_jsonl(out, rows)


def load_annotations(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of ``questions`` by id, each with its task's name as ``task``.

    Raises:
        RecapError: if the file has another form, or at the first malformed or
            repeated question.
    """
    document = read_json(path)
    entries = document.get("questions") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise RecapError(f"{path}: expected an object with a list 'questions'")
    names = {number: name for name, number in document.get("question_type", {}).items()}
    found: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, entry {number}"
        check_entry(entry, _NEEDED, where)
        where = f"{where} (question {entry['question_id']})"
        if not isinstance(entry["answer"], str) or entry["answer"] not in tuple(LETTERS):
            raise RecapError(f"{where}: the answer must be one of {', '.join(LETTERS)}")
        if str(entry["question_id"]) in found:
            raise RecapError(f"{where}: the question is there twice")
        kind = entry["question_type_id"]
        found[str(entry["question_id"])] = {**entry, "task": names.get(kind, f"task {kind}")}
    return found


def _score_row(answer: Answer, entry: dict[str, Any]) -> Row:
    letter = extract_letter(answer["text"])
    row = score_row(
        answer,
        image_id=str(entry["data_id"]),
        question=first_line(answer["prompt"]),
        normalized=answer["text"],  # the letter is for the robust accuracy alone
        accuracy=float(answer["text"] == entry["answer"]),
        question_type=entry["task"],
        truth=entry["answer"],
    )
    robust = float(letter == entry["answer"])
    return row | {"accuracy_robust": robust, "data_type": str(entry["data_type"])}


BENCHMARK = SeedBench()
