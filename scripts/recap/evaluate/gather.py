"""Putting the answers of all shards together, every question exactly once."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import GateError
from ..hashing import sha256_file
from ..io import write_json, write_jsonl
from .answers import Answer, answer_key, control_of, read_answers, single_value
from .benchmarks import get_benchmark
from .protocol import BenchmarkProtocol

_NAMED = 5

Key = tuple[str, str]


def gather_answers(
    questions: Path,
    protocol: BenchmarkProtocol,
    shards: Sequence[Path],
    out: Path,
    report: Path,
    expected_questions: int | None = None,
) -> None:
    """Merge shard files into one file in the order of the question file.

    Args:
        questions: the question file the shards were cut from.
        protocol: the protocol they were answered under; it decides the prompts.
        shards: answer files, in any order.
        out: the merged answer file.
        report: counts and hashes, as JSON.
        expected_questions: how many questions the file was declared to hold.

    Raises:
        GateError: if there are no answers, the question file has another
            length than declared, or a question is missing, foreign or answered
            twice, with the first few of each.
        RecapError: if a file is malformed or mixes models or control conditions.
    """
    expected = [q.key for q in get_benchmark(protocol.kind).load(questions, protocol).questions]
    if expected_questions not in (None, len(expected)):
        raise GateError(
            f"{questions} holds {len(expected)} questions, but {expected_questions} were declared; "
            "correct the benchmark's row or fetch the right file"
        )
    found: dict[Key, Answer] = {}
    duplicates: list[Key] = []
    described = []
    for path in shards:
        answers = read_answers(path)
        for answer in answers:
            key = answer_key(answer)
            if key in found:
                duplicates.append(key)
            found[key] = answer
        described.append({"path": str(path), "answers": len(answers), "sha256": sha256_file(path)})
    _require_coverage(expected, found, duplicates)
    merged = [found[key] for key in expected]
    facts = {
        "model_id": single_value(merged, "model_id", out),
        "control": control_of(merged, out),
    }
    write_jsonl(out, merged)
    write_json(report, _report(protocol, questions, out, described, len(merged), facts))


def _require_coverage(expected: list[Key], found: dict[Key, Answer], duplicates: list[Key]) -> None:
    if not found:
        raise GateError(f"no answer at all to {len(expected)} questions; nothing to merge")
    known = set(expected)
    faults = {
        "missing": [key for key in expected if key not in found],
        "foreign": [key for key in found if key not in known],
        "answered more than once": duplicates,
    }
    messages = [f"{len(keys)} {name}: {_some(keys)}" for name, keys in faults.items() if keys]
    if messages:
        raise GateError(
            f"the shards do not answer each of the {len(expected)} questions exactly once; "
            f"{'; '.join(messages)}. Rerun the shards concerned, with this question file and "
            "protocol"
        )


def _some(keys: Iterable[Key]) -> str:
    named = [f"{question_id} {prompt.split(chr(10))[0]!r}" for question_id, prompt in keys]
    rest = len(named) - _NAMED
    return ", ".join(named[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _report(
    protocol: BenchmarkProtocol,
    questions: Path,
    out: Path,
    shards: list[dict[str, Any]],
    count: int,
    facts: dict[str, Any],
) -> dict[str, Any]:
    return {
        "questions": count,
        "answers": count,
        "missing": 0,
        "foreign": 0,
        "duplicates": 0,
        **facts,
        "protocol": protocol.model_dump(),
        "questions_sha256": sha256_file(questions),
        "answers_sha256": sha256_file(out),
        "shards": shards,
    }
