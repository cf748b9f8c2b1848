"""Scoring an answer file, with what a reader needs to trust the figure."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import GateError
from ..hashing import digest_json, sha256_file
from ..io import write_json, write_jsonl
from ..versions import STAGE_VERSIONS
from .answers import Answer, control_of, read_answers, single_value
from .benchmarks import get_benchmark
from .benchmarks.base import Scores
from .gates import compare_with_control, degeneracy, diversity, refuse_degenerate, refuse_simulated
from .protocol import BenchmarkProtocol


def score_answers(
    name: str,
    protocol: BenchmarkProtocol,
    answers_path: Path,
    annotations: Path,
    out: Path,
    per_question: Path,
    questions: Path | None = None,
    controls: Sequence[Path] = (),
) -> None:
    """Write the score document and one row a question.

    Args:
        name: the benchmark row, for instance ``textvqa_ocr``.
        protocol: the protocol the answers were made under.
        answers_path: merged answers.
        annotations: the benchmark's own annotation file or folder.
        out: accuracy in points with count, protocol, hashes and gates, as JSON.
        per_question: one JSON line a scored question.
        questions: the question file, where the benchmark's scorer needs it.
        controls: merged answers of the same model under control conditions.

    Raises:
        GateError: for no answers, simulated ones, a large degenerate file, or a
            large file that a blank or wrong picture does not change at all.
            Answers of a control condition may be degenerate.
        RecapError: for malformed files or answers that match no annotation.
    """
    benchmark = get_benchmark(protocol.kind)
    answers = read_answers(answers_path)
    if not answers:
        raise GateError(f"{answers_path} holds no answer; an empty file has no accuracy")
    refuse_simulated(answers, answers_path)
    control = control_of(answers, answers_path)
    verdict = degeneracy(answers, benchmark)
    if control == "none":
        refuse_degenerate(answers, verdict, answers_path)

    def score(given: list[Answer]) -> Scores:
        return benchmark.score(given, annotations, protocol, questions)

    scores = score(answers)
    document = {
        "benchmark": name,
        "metric": benchmark.metric,
        "accuracy": _points(scores.rows),
        "n": len(scores.rows),
        "model_id": single_value(answers, "model_id", answers_path),
        "control": control,
        "simulated": False,
        "protocol": protocol.model_dump(),
        "answers": len(answers),
        "answers_sha256": sha256_file(answers_path),
        "annotations_sha256": _hash_path(annotations),
        "stage_version": STAGE_VERSIONS["score"],
        **verdict,
        "diversity": diversity(answers),
        "controls": _score_controls(answers, controls, score),
        "facts": scores.facts,
    }
    write_jsonl(per_question, scores.rows)
    write_json(out, document)


def _score_controls(
    answers: list[Answer], controls: Sequence[Path], score: Callable[[list[Answer]], Scores]
) -> dict[str, Any]:
    """Return, by condition, how many answers stayed and what the condition scores."""
    compared = {}
    for path in controls:
        other = read_answers(path)
        facts = compare_with_control(answers, other, path)
        condition = facts.pop("control")
        compared[condition] = facts | {"accuracy": _points(score(other).rows)}
    return compared


def _hash_path(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and hashes of a folder's files."""
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.is_file())
        return digest_json({item.name: sha256_file(item) for item in files})
    return sha256_file(path)


def _points(rows: list[dict[str, Any]]) -> float:
    """Return the mean accuracy of rows in points, two decimals."""
    return round(100 * sum(row["accuracy"] for row in rows) / len(rows), 2)
