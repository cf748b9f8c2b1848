"""What every benchmark folder provides, and the data that passes through it."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ...errors import RecapError
from ..answers import Answer, answer_id
from ..protocol import BenchmarkProtocol


@dataclass(frozen=True)
class Question:
    """One question as it is put to the model.

    Attributes:
        question_id: as in the question file; need not be unique.
        prompt: the text recorded with the answer; unique with ``question_id``.
        model_text: the text the model reads after the image.
        image: name of the image (a path below the image root, or a key of
            ``QuestionSet.inline_images``); ``None`` for a text-only question.
        line: line number in the question file, for messages.
        extra: further fields of the answer row.
    """

    question_id: str | int
    prompt: str
    model_text: str
    image: str | None
    line: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """Return what identifies the question across files."""
        return str(self.question_id), self.prompt


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a benchmark in file order, with images that came along.

    Attributes:
        questions: in the order of the question file.
        inline_images: encoded image bytes by name, where the file carries them.
    """

    questions: list[Question]
    inline_images: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """The result of a scorer.

    Attributes:
        rows: one row a scored unit, each with ``question_id``, ``image_id``,
            ``question``, ``prediction``, ``normalized`` (the answer as ``accuracy``
            sees it), ``accuracy`` (0 to 1), ``question_type`` and ``has_ocr``; where
            answers are open, also ``answer_words``, the length of the reference answer.
        facts: further figures of this benchmark, for the score document.
    """

    rows: list[dict[str, Any]]
    facts: dict[str, Any]


class Benchmark(ABC):
    """A way to ask, and a way to score. Subclasses live in a folder each."""

    metric: ClassVar[str]
    closed_answers: ClassVar[bool] = False
    """Whether a handful of distinct answers is all a good model can give."""
    submission_format: ClassVar[str] = ""
    """Suffix of the file that this benchmark's server or official script reads, if any."""

    @abstractmethod
    def load(self, path: Path, protocol: BenchmarkProtocol) -> QuestionSet:
        """Read a question file and write the prompts the protocol asks for."""

    @abstractmethod
    def score(
        self,
        answers: Sequence[Answer],
        annotations: Path,
        protocol: BenchmarkProtocol,
        questions: Path | None = None,
    ) -> Scores:
        """Score answers against annotations.

        Args:
            answers: at least one.
            annotations: the benchmark's own file or folder of references.
            protocol: the protocol the answers were made under.
            questions: the question file, for benchmarks whose references do not
                name the question or its picture.
        """

    def admitted_answers(self, question: Question) -> tuple[str, ...]:
        """Return the answers that can be right, for a guess without a model; empty for any."""
        return ()

    def write_submission(self, answers: Sequence[Answer], annotations: Path, out: Path) -> None:
        """Write the file that the benchmark's server or official script reads.

        Args:
            answers: merged answers.
            annotations: the file that says which questions an upload holds.
            out: the file to write, in ``submission_format``.

        Raises:
            RecapError: if this benchmark has no such file, or an answer is
                foreign, there twice, or missing where none may be.
        """
        raise RecapError(f"{type(self).__name__} is scored here; it has no file to submit")

    def answer_row(
        self, question: Question, text: str, model_id: str, metadata: Mapping[str, Any]
    ) -> Answer:
        """Return the answer row with upstream's keys in upstream's order."""
        return {
            "question_id": question.question_id,
            "prompt": question.prompt,
            "text": text,
            "answer_id": answer_id(model_id, *question.key),
            "model_id": model_id,
            "metadata": dict(metadata),
        }


def check_questions(questions: Sequence[Question], path: Path) -> None:
    """Check that there are questions, of valid text, each identified by (id, prompt).

    Raises:
        RecapError: naming the first question that is repeated or that cannot be
            written as UTF-8, with its line.
    """
    if not questions:
        raise RecapError(f"{path} holds no question")
    seen: dict[tuple[str, str], int] = {}
    for question in questions:
        where = f"{path}, line {question.line}: question {question.question_id}"
        try:
            "".join(question.key).encode("utf-8")
        except UnicodeEncodeError as error:
            raise RecapError(f"{where} is not valid text ({error.reason})") from error
        first = seen.setdefault(question.key, question.line)
        if first != question.line:
            raise RecapError(
                f"{where} with the same prompt is already on line {first}; remove one of them"
            )


def breakdown(rows: Sequence[Mapping[str, Any]], field_name: str) -> dict[str, dict[str, Any]]:
    """Return count and accuracy in points for each value of a field, by name."""
    counts: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for row in rows:
        name = str(row[field_name]).lower()
        counts[name] += 1
        sums[name] += row["accuracy"]
    return {
        name: {"n": counts[name], "accuracy": round(100 * sums[name] / counts[name], 2)}
        for name in sorted(counts)
    }
