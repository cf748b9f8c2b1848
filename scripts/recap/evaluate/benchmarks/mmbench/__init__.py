"""MMBench dev (English, 2023-07-12): 1,176 questions, 4,377 rows with rotated options.

Questions and keys are one TSV; the rotations are rows of the file, so nothing
is rotated here. A table with only ``index`` and ``answer`` serves as annotations too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ....errors import RecapError
from ...answers import Answer, answer_id
from ...protocol import BenchmarkProtocol
from ..base import Benchmark, Question, QuestionSet, Scores, breakdown, check_questions
from .circular import group_rotations, judge
from .submission import SUBMITTED, write_table
from .table import LETTERS, ImageCells, is_empty, options_of, picture_key, read_rows

INSTRUCTION = "Answer with the option's letter from the given choices directly."
_FIGURES = ("circular", "vanilla", "circular_robust", "vanilla_robust")


class MMBench(Benchmark):
    """Letters, scored by CircularEval; ``accuracy`` is the strict circular one."""

    metric = "circular_accuracy"
    closed_answers = True
    submission_format = "xlsx"

    def load(self, path: Path, protocol: BenchmarkProtocol) -> QuestionSet:
        """Read the question TSV; see the base class.

        Raises:
            RecapError: if the protocol asks for OCR tokens, or the table is malformed.
        """
        if protocol.ocr:
            raise RecapError("MMBench has no OCR tokens; set ocr to false in its row")
        rows = read_rows(path, ("index", "question", "image"))
        cells = ImageCells(path, rows)
        questions = [_question(number, row, cells, protocol) for number, row in rows]
        check_questions(questions, path)
        return QuestionSet(questions, cells.images)

    def answer_row(
        self, question: Question, text: str, model_id: str, metadata: Mapping[str, Any]
    ) -> Answer:
        """Return the row with the keys of MGM's MMBench script, in its order."""
        return {
            "question_id": question.question_id,
            "round_id": 0,
            "prompt": question.prompt,
            "text": text,
            "options": question.extra["options"],
            "option_char": question.extra["option_char"],
            "answer_id": answer_id(model_id, *question.key),
            "model_id": model_id,
            "metadata": dict(metadata),
        }

    def admitted_answers(self, question: Question) -> tuple[str, ...]:
        """Return the letters of the question's options."""
        return tuple(question.extra["option_char"])

    def write_submission(self, answers: Sequence[Answer], annotations: Path, out: Path) -> None:
        """Write the table for MMBench's server; see :func:`~.submission.write_table`."""
        rows = read_rows(annotations, SUBMITTED)
        given = _by_index(answers, {int(row["index"]): row for _, row in rows}, annotations)
        write_table([row for _, row in rows], given, out)

    def score(
        self,
        answers: Sequence[Answer],
        annotations: Path,
        protocol: BenchmarkProtocol,
        questions: Path | None = None,
    ) -> Scores:
        """Score by index; see the base class.

        Raises:
            RecapError: if a row has no answer, an answer no row, or there are two, or
                the key of a row is none of the letters.
        """
        keyed = read_rows(annotations, ("index", "answer"))
        _check_keys(keyed, annotations)
        table = {int(row["index"]): row for _, row in keyed}
        given = _by_index(answers, table, annotations)
        keys = {index: row["answer"] for index, row in table.items()}
        try:
            groups = group_rotations(list(table))
        except ValueError as error:
            raise RecapError(f"{annotations}: {error}") from error
        rows = [
            _score_row(base, table[base], judge(group, keys, given), picture_key(base, table))
            for base, group in groups.items()
        ]
        return Scores(rows, _facts(rows))


def _question(
    number: int, row: Mapping[str, str], cells: ImageCells, protocol: BenchmarkProtocol
) -> Question:
    options = options_of(row)
    lines = [row["question"]]
    if not is_empty(row.get("hint")):
        lines.insert(0, row["hint"])
    lines += [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    prompt = "\n".join(lines)
    extra = {"options": options, "option_char": list(LETTERS[: len(options)])}
    text = f"{prompt}\n{protocol.instruction or INSTRUCTION}"
    return Question(int(row["index"]), prompt, text, cells.name(row["index"]), number, extra)


def _check_keys(rows: Sequence[tuple[int, Mapping[str, str]]], path: Path) -> None:
    for line, row in rows:
        if row["answer"] not in tuple(LETTERS):
            raise RecapError(
                f"{path}, line {line} (index {row['index']}): the answer is {row['answer']!r}, "
                f"not one of {', '.join(LETTERS)}; a split without keys cannot be scored here"
            )


def _by_index(
    answers: Sequence[Answer], table: Mapping[int, Any], annotations: Path
) -> dict[int, str]:
    given: dict[int, str] = {}
    for answer in answers:
        name = str(answer["question_id"])
        index = int(name) if name.isdecimal() else None
        if index is None or index not in table:
            raise RecapError(f"the answer to row {name} has no key in {annotations}; wrong file?")
        if index in given:
            raise RecapError(f"row {index} is answered twice")
        given[index] = answer["text"]
    missing = [index for index in table if index not in given]
    if missing:
        raise RecapError(f"{len(missing)} rows of {annotations} have no answer: {missing[:5]}")
    return given


def _score_row(
    base: int, row: Mapping[str, str], judged: dict[str, Any], picture: str
) -> dict[str, Any]:
    given = " | ".join(judged["answers"])
    return {
        "question_id": base,
        "image_id": picture,
        "question": row.get("question") or str(base),
        "prediction": given,
        # The strict accuracy compares answers as they are; letters are for the robust one.
        "normalized": given,
        "letters": "".join(judged["letters"]),
        "accuracy": judged["circular"],
        "question_type": row.get("category") or "unknown",
        "has_ocr": False,
        "truth": row["answer"],
        **{name: judged[name] for name in _FIGURES},
    }


def _facts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    needed = sum(row["circular"] != row["circular_robust"] for row in rows)
    return {
        **{f"{name}_accuracy": round(100 * _mean(rows, name), 2) for name in _FIGURES},
        **{f"{name}_hits": int(sum(row[name] for row in rows)) for name in _FIGURES},
        "questions_that_needed_letter_extraction": needed,
        "by_question_type": breakdown(rows, "question_type"),
    }


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return float(sum(row[name] for row in rows)) / len(rows)


BENCHMARK = MMBench()
