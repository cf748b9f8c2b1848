"""TextVQA validation: 5,000 questions about text in 3,166 pictures.

Questions: LLaVA's ``llava_textvqa_val_v051_ocr.jsonl``. Annotations:
``TextVQA_0.5.1_val.json``. With and without OCR tokens are two benchmarks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....errors import RecapError
from ....io import numbered_jsonl, read_json
from ...answers import Answer
from ...protocol import BenchmarkProtocol
from ..base import Benchmark, Question, QuestionSet, Scores, breakdown, check_questions
from ..lines import replace_instruction
from .accuracy import ANNOTATORS, most_given, reference_scores, reference_words
from .normalize import normalize_answer
from .prompts import (
    drop_ocr,
    extract_question,
    has_ocr_line,
    has_ocr_tokens,
    question_type,
)

Key = tuple[str, str]
# Of the picture of a question that names none, as in the public archive.
_SUFFIX = ".jpg"


class TextVqa(Benchmark):
    """Open answers, scored softly against ten annotators."""

    metric = "vqa_accuracy"

    def load(self, path: Path, protocol: BenchmarkProtocol) -> QuestionSet:
        """Read ``{question_id, image, text}`` lines; see the base class.

        A missing ``image`` means ``<question_id>.jpg``, as in the public
        archive; a null one means a question without a picture.

        Raises:
            RecapError: at the first line that lacks a key or has another form.
        """
        questions = []
        for line, row in numbered_jsonl(path):
            where = f"{path}, line {line} (question {row.get('question_id', 'no question_id')})"
            if "question_id" not in row or not isinstance(row.get("text"), str):
                raise RecapError(f"{where}: needs question_id and a string text")
            try:
                prompt = _prompt(row["text"], protocol)
            except ValueError as error:
                raise RecapError(f"{where}: {error}") from error
            image = row.get("image", f"{row['question_id']}{_SUFFIX}") or None
            if image is not None and not isinstance(image, str):
                raise RecapError(f"{where}: image must be a file name or null, not {image!r}")
            questions.append(Question(row["question_id"], prompt, prompt, image, line))
        check_questions(questions, path)
        return QuestionSet(questions)

    def score(
        self,
        answers: Sequence[Answer],
        annotations: Path,
        protocol: BenchmarkProtocol,
        questions: Path | None = None,
    ) -> Scores:
        """Score by (image id, question in lower case); see the base class.

        Which questions share a picture is the question file's to say. Without
        one, the question id is taken for the picture, as in the public file.

        Raises:
            RecapError: if an answer has no annotation, two answers share one,
                a prompt has an unknown form, or its OCR line contradicts the
                protocol.
        """
        references = load_annotations(annotations)
        pictures = self._pictures(questions, protocol) if questions is not None else {}
        seen: set[Key] = set()
        rows = []
        for answer in answers:
            key, question = _match(answer, protocol)
            where = f"answer to question {key[0]} ({question!r})"
            if key not in references:
                raise RecapError(f"{where} has no annotation in {annotations}; wrong file?")
            if key in seen:
                raise RecapError(f"{where} is there twice; every question counts once")
            seen.add(key)
            rows.append(_score_row(answer, question, references[key], pictures.get(key)))
        facts = {
            "annotated_questions": len(references),
            "unanswered_questions": len(references) - len(seen),
            "by_question_type": breakdown(rows, "question_type"),
            "by_has_ocr": breakdown(rows, "has_ocr"),
        }
        return Scores(rows, facts)

    def _pictures(self, path: Path, protocol: BenchmarkProtocol) -> dict[Key, str | None]:
        """Return the picture's name by (question id, question in lower case)."""
        asked = self.load(path, protocol).questions
        return {_key(q.question_id, extract_question(q.prompt)): q.image for q in asked}


def _key(question_id: str | int, question: str) -> Key:
    return str(question_id), question.lower()


def _prompt(text: str, protocol: BenchmarkProtocol) -> str:
    extract_question(text)
    if protocol.ocr and not has_ocr_line(text):
        raise ValueError("no OCR line, but the protocol says ocr; use a file that has them")
    prompt = text if protocol.ocr else drop_ocr(text)
    return replace_instruction(prompt, protocol.instruction) if protocol.instruction else prompt


def load_annotations(path: Path) -> dict[Key, list[str]]:
    """Return the ten answers by (image id, question in lower case).

    Raises:
        RecapError: if the file has another form, an entry has not exactly ten
            string answers, or two entries share a key.
    """
    document = read_json(path)
    entries = document.get("data") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise RecapError(f"{path}: expected an object with a list 'data'")
    references: dict[Key, list[str]] = {}
    for number, entry in enumerate(entries, start=1):
        missing = {"image_id", "question", "answers"} - set(entry)
        if missing:
            raise RecapError(f"{path}, entry {number}: lacks {', '.join(sorted(missing))}")
        key = (str(entry["image_id"]), str(entry["question"]).lower())
        answers = entry["answers"]
        if not _ten_strings(answers):
            raise RecapError(f"{path}, entry {number} {key}: needs exactly 10 string answers")
        if key in references:
            raise RecapError(f"{path}, entry {number}: a second entry for {key}")
        references[key] = answers
    return references


def _ten_strings(answers: Any) -> bool:
    return (
        isinstance(answers, list)
        and len(answers) == ANNOTATORS
        and all(isinstance(answer, str) for answer in answers)
    )


def _match(answer: Answer, protocol: BenchmarkProtocol) -> tuple[Key, str]:
    prompt = answer["prompt"]
    where = f"answer to question {answer['question_id']}"
    try:
        question = extract_question(prompt)
    except ValueError as error:
        raise RecapError(f"{where}: cannot find the question in its prompt ({error})") from error
    if has_ocr_line(prompt) != protocol.ocr:
        state = "has" if has_ocr_line(prompt) else "lacks"
        raise RecapError(
            f"{where}: its prompt {state} a line of OCR tokens, but the protocol says "
            f"ocr={protocol.ocr}; the two are different benchmarks"
        )
    return _key(answer["question_id"], question), question


def _score_row(
    answer: Answer, question: str, references: list[str], picture: str | None
) -> dict[str, Any]:
    normalized = normalize_answer(answer["text"])
    name = answer["question_id"] if picture is None else picture.removesuffix(_SUFFIX)
    return {
        "question_id": answer["question_id"],
        "image_id": name,
        "image": picture,
        "question": question,
        "prediction": answer["text"],
        "normalized": normalized,
        "accuracy": reference_scores(references).get(normalized, 0.0),
        "question_type": question_type(question),
        "has_ocr": has_ocr_tokens(answer["prompt"]),
        "truth": most_given(references),
        "answer_words": reference_words(references),
    }


BENCHMARK = TextVqa()
