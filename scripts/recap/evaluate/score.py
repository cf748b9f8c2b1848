"""Scoring an answer file, with what a reader needs to trust the figure."""

from pathlib import Path

from ..errors import GateError
from ..hashing import digest_json, sha256_file
from ..io import write_json, write_jsonl
from ..versions import STAGE_VERSIONS
from .answers import control_of, read_answers, single_value
from .benchmarks import get_benchmark
from .gates import degeneracy, diversity, refuse_degenerate, refuse_simulated
from .protocol import BenchmarkProtocol


def score_answers(
    name: str,
    protocol: BenchmarkProtocol,
    answers_path: Path,
    annotations: Path,
    out: Path,
    per_question: Path,
    questions: Path | None = None,
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

    Raises:
        GateError: for no answers, simulated ones, or a large degenerate file.
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
        "accuracy": points([row["accuracy"] for row in scores.rows]),
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
        "facts": scores.facts,
    }
    write_jsonl(per_question, scores.rows)
    write_json(out, document)


def _hash_path(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and hashes of a folder's files."""
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.is_file())
        return digest_json({item.name: sha256_file(item) for item in files})
    return sha256_file(path)


def points(accuracies: list[float]) -> float:
    """Return the mean of values in [0, 1] in points, two decimals."""
    return round(100 * sum(accuracies) / len(accuracies), 2)
