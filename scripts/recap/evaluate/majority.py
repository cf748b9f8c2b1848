"""The text-only control: what always giving the most frequent answer would score."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import read_json, write_jsonl
from .benchmarks import get_benchmark
from .benchmarks.base import Question
from .benchmarks.textvqa.prompts import question_type
from .protocol import MAJORITY, BenchmarkProtocol

MODEL_ID = "text-only-majority"
_IMAGE = "<image>"
_OCR_LINE = "Reference OCR token:"

# What is known of a question without its picture: kind of answer asked for, and type.
_Kind = tuple[str, str]


def answer_by_majority(
    questions: Path, protocol: BenchmarkProtocol, instructions: Path, out: Path
) -> None:
    """Answer every question with the most frequent answer of the instruction data.

    Among the turns with the same instruction line (the last line of the prompt)
    and the same question type; where there are none, with the same instruction
    line; else among all turns. Where only some answers can be right (yes or no,
    the letters of the options), only those are counted: a guess that no scorer
    accepts would be a control that is too easy to beat. Ties go to the first in
    alphabetical order. No model is run, and the answers say so in ``model_id``.

    Args:
        questions: the whole question file.
        protocol: how the benchmark asks.
        instructions: stage-2 data, LLaVA JSON.
        out: answer file, in the order of the question file.

    Raises:
        RecapError: if the instruction data hold no answer.
    """
    counts: dict[_Kind, Counter[str]] = {}
    for prompt, answer in _turns(instructions):
        for kind in _kinds(prompt):
            counts.setdefault(kind, Counter())[answer] += 1
    if not counts:
        raise RecapError(f"{instructions} holds no question with an answer; nothing is frequent")
    benchmark = get_benchmark(protocol.kind)
    asked = benchmark.load(questions, protocol).questions
    metadata = {"control": MAJORITY}
    write_jsonl(
        out,
        (
            benchmark.answer_row(question, text, MODEL_ID, metadata)
            for question, text in (
                (q, _most_frequent(q, counts, benchmark.admitted_answers(q))) for q in asked
            )
        ),
    )


def _most_frequent(
    question: Question, counts: dict[_Kind, Counter[str]], admitted: tuple[str, ...]
) -> str:
    for kind in _kinds(question.model_text):
        known = _admitted(counts.get(kind, Counter()), admitted)
        if known:
            return min(known.items(), key=lambda item: (-item[1], item[0]))[0]
    return admitted[0]


def _admitted(counts: Counter[str], admitted: tuple[str, ...]) -> Counter[str]:
    """Return the counts of answers that can be right; of all, if any can."""
    if not admitted:
        return counts
    spelling = {answer.lower(): answer for answer in admitted}
    found: Counter[str] = Counter()
    for answer, count in counts.items():
        known = spelling.get(answer.rstrip(".").lower())
        if known is not None:
            found[known] += count
    return found


def _kinds(prompt: str) -> tuple[_Kind, _Kind, _Kind]:
    """Return what a prompt has in common with others, the most telling first."""
    lines = [
        line
        for line in prompt.replace(_IMAGE, "").strip().split("\n")
        if not line.startswith(_OCR_LINE)
    ]
    instruction = lines[-1] if len(lines) > 1 else ""
    asked = "\n".join(lines[:-1] or lines)
    return (instruction, question_type(asked)), (instruction, ""), ("", "")


def _turns(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (prompt, answer) of every turn."""
    for number, sample in enumerate(read_json(path), start=1):
        turns: Any = sample.get("conversations") if isinstance(sample, dict) else None
        if not isinstance(turns, list) or len(turns) % 2:
            raise RecapError(f"{path}, sample {number}: needs conversations of pairs of turns")
        for asked, given in zip(turns[::2], turns[1::2], strict=True):
            if not _has_value(asked) or not _has_value(given):
                raise RecapError(f"{path}, sample {number}: a turn must be an object with a value")
            yield str(asked["value"]), str(given["value"]).strip()


def _has_value(turn: Any) -> bool:
    return isinstance(turn, dict) and "value" in turn
