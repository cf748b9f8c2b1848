"""Scoring an answer file, with what a reader needs to trust the figure."""

from pathlib import Path
from typing import Any

from ..errors import GateError, RecapError
from ..hashing import digest_json, sha256_file
from ..io import write_json, write_jsonl
from ..versions import STAGE_VERSIONS
from .answers import Answer, control_of, read_answers, single_value
from .benchmarks import get_benchmark
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
    real_answers: Path | None = None,
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
        real_answers: for answers of a control condition, the same model's merged
            answers to the real pictures.

    Raises:
        GateError: for no answers, simulated ones, a large degenerate file, or a
            large file that a blank or wrong picture leaves as it was.
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

    scores = benchmark.score(answers, annotations, protocol, questions)
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
        "annotations_sha256": hash_path(annotations),
        "questions_sha256": sha256_file(questions) if questions is not None else None,
        "stage_version": STAGE_VERSIONS["score"],
        **verdict,
        "diversity": diversity(answers),
        "against_real": _against_real(answers, answers_path, real_answers),
        "facts": scores.facts,
    }
    write_jsonl(per_question, scores.rows)
    write_json(out, document)


def _against_real(
    answers: list[Answer], path: Path, real_answers: Path | None
) -> dict[str, Any] | None:
    """Return how many answers of a control equal those to the real pictures."""
    if real_answers is None:
        return None
    real = read_answers(real_answers)
    ours = single_value(answers, "model_id", path)
    theirs = single_value(real, "model_id", real_answers)
    if ours != theirs:
        raise RecapError(f"{path} is by {ours}, but {real_answers} by {theirs}")
    return compare_with_control(real, answers, path)


def hash_path(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and hashes of a folder's files.

    Manifests of how the files came here are left out: they say when.
    """
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.is_file())
        found = {item.name: sha256_file(item) for item in files}
        return digest_json({n: h for n, h in found.items() if not n.endswith(".manifest.json")})
    return sha256_file(path)


def _points(rows: list[dict[str, Any]]) -> float:
    """Return the mean accuracy of rows in points, two decimals."""
    return round(100 * sum(row["accuracy"] for row in rows) / len(rows), 2)
