"""What benchmarks share whose questions are LLaVA's JSON lines.

LLaVA's question files hold ``question_id``, ``image`` and ``text``, and the
text is the whole prompt, instruction line included.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ...errors import RecapError
from ...io import numbered_jsonl
from ..answers import Answer
from ..protocol import BenchmarkProtocol
from .base import Benchmark, Question, QuestionSet, Scores, breakdown, check_questions

Reference = TypeVar("Reference")
Row = dict[str, Any]


def replace_instruction(prompt: str, instruction: str) -> str:
    """Return the prompt with another last line."""
    return "\n".join([*prompt.split("\n")[:-1], instruction])


class LineBenchmark(Benchmark):
    """A benchmark whose prompts are the ``text`` of its question file, word for word."""

    title: ClassVar[str]
    needed: ClassVar[tuple[str, ...]] = ()
    """Further keys of a line, kept in ``Question.extra``."""

    def load(self, path: Path, protocol: BenchmarkProtocol) -> QuestionSet:
        """Read ``{question_id, image, text}`` lines; see the base class.

        Raises:
            RecapError: if the protocol asks for OCR tokens, or at the first
                malformed line, with its number and id.
        """
        if protocol.ocr:
            raise RecapError(f"{self.title} has no OCR tokens; set ocr to false in its row")
        questions = [
            self._question(path, line, row, protocol) for line, row in numbered_jsonl(path)
        ]
        check_questions(questions, path)
        return QuestionSet(questions)

    def _question(
        self, path: Path, line: int, row: Mapping[str, Any], protocol: BenchmarkProtocol
    ) -> Question:
        reason = _fault(row, self.needed) or self.row_fault(row)
        if reason:
            name = row.get("question_id", "no question_id")
            raise RecapError(f"{path}, line {line} (question {name}): {reason}")
        text = row["text"]
        if protocol.instruction and "\n" in text:
            text = replace_instruction(text, protocol.instruction)
        elif protocol.instruction:
            text = f"{text}\n{protocol.instruction}"
        extra = {name: row[name] for name in self.needed}
        return Question(row["question_id"], text, text, row["image"], line, extra)

    def row_fault(self, row: Mapping[str, Any]) -> str:
        """Return what else is wrong with a line of this benchmark, or nothing."""
        return ""


class YesNoBenchmark(LineBenchmark):
    """A benchmark whose questions are answered by yes or no."""

    closed_answers = True

    def admitted_answers(self, question: Question) -> tuple[str, ...]:
        """Return yes and no."""
        return "Yes", "No"


class ReferencedBenchmark(LineBenchmark):
    """A benchmark with an annotation a question, whose answers are scored one by one."""

    breakdowns: ClassVar[tuple[str, ...]] = ("question_type",)
    """Fields of a row by which accuracy is broken down."""

    @abstractmethod
    def references(self, annotations: Path) -> dict[str, dict[str, Any]]:
        """Return the annotations by question id.

        Raises:
            RecapError: if the file is not what it should be.
        """

    @abstractmethod
    def score_answer(self, answer: Answer, entry: dict[str, Any]) -> Row:
        """Return the score row of an answer with its annotation."""

    def figures(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return what else is said of the rows."""
        return {}

    def score(
        self,
        answers: Sequence[Answer],
        annotations: Path,
        protocol: BenchmarkProtocol,
        questions: Path | None = None,
    ) -> Scores:
        """Score by question id; see the base class.

        Raises:
            RecapError: if the annotations cannot be read, an answer has none, or two share one.
        """
        references = self.references(annotations)
        rows = [
            self.score_answer(answer, entry)
            for answer, entry in pair_answers(answers, references, annotations)
        ]
        parts = {f"by_{name}": breakdown(rows, name) for name in self.breakdowns}
        return Scores(rows, {**coverage(references, rows), **self.figures(rows), **parts})


def _fault(row: Mapping[str, Any], needed: tuple[str, ...]) -> str:
    """Return what is wrong with a question line, or nothing."""
    missing = [name for name in ("question_id", "image", "text", *needed) if name not in row]
    if missing:
        return f"lacks {', '.join(missing)}"
    if isinstance(row["question_id"], bool) or not isinstance(row["question_id"], str | int):
        return "question_id must be a string or a whole number"
    for name in ("image", "text"):
        if not isinstance(row[name], str) or not row[name].strip():
            return f"{name} must be a string that is not empty"
    return ""


def first_line(prompt: str) -> str:
    """Return the question of a prompt whose last line is the instruction."""
    return prompt.split("\n", maxsplit=1)[0]


def question_key(answer: Answer) -> str:
    """Return the question id of an answer as text: files disagree about its type."""
    return str(answer["question_id"])


def pair_answers(
    answers: Sequence[Answer],
    references: Mapping[Any, Reference],
    annotations: Path,
    key: Callable[[Answer], Any] = question_key,
) -> Iterator[tuple[Answer, Reference]]:
    """Yield every answer with its reference.

    Args:
        answers: in any order.
        references: by what ``key`` returns for an answer.
        annotations: where the references are from, for messages.
        key: what identifies the question of an answer.

    Raises:
        RecapError: if an answer has no reference or two answers share one.
    """
    seen = set()
    for answer in answers:
        name = key(answer)
        if name not in references:
            raise RecapError(
                f"the answer to question {name} has no annotation in {annotations}; wrong file?"
            )
        if name in seen:
            raise RecapError(f"question {name} is answered twice; every question counts once")
        seen.add(name)
        yield answer, references[name]


def coverage(references: Mapping[Any, Any], rows: Sequence[Row]) -> dict[str, int]:
    """Return how many questions are annotated and how many of them have no answer."""
    return {
        "annotated_questions": len(references),
        "unanswered_questions": len(references) - len(rows),
    }


def score_row(
    answer: Answer,
    *,
    image_id: str,
    question: str,
    normalized: str,
    accuracy: float,
    question_type: str,
    truth: str,
    answer_words: int | None = None,
) -> Row:
    """Return a score row as :class:`~.base.Scores` defines it, for a prompt without OCR."""
    return {
        "question_id": answer["question_id"],
        "image_id": image_id,
        "question": question,
        "prediction": answer["text"],
        "normalized": normalized,
        "accuracy": accuracy,
        "question_type": question_type,
        "has_ocr": False,
        "truth": truth,
        "answer_words": answer_words,
    }


def share(rows: Sequence[Row], name: str) -> float | None:
    """Return the mean of a field of rows in points, two decimals; none without rows."""
    return round(100 * sum(row[name] for row in rows) / len(rows), 2) if rows else None


def check_entry(entry: Any, needed: Sequence[str], where: str) -> None:
    """Check that an annotation is an object with these keys.

    Raises:
        RecapError: saying ``where`` and what is missing.
    """
    if not isinstance(entry, dict):
        raise RecapError(f"{where}: expected an object")
    missing = [name for name in needed if name not in entry]
    if missing:
        raise RecapError(f"{where}: lacks {', '.join(missing)}")
