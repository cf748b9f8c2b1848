"""Comparing two answer files in LLaVA's format that were made elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..evaluate.answers import read_answers
from ..evaluate.benchmarks.textvqa.prompts import has_ocr_line
from ..evaluate.protocol import BenchmarkProtocol
from ..evaluate.score import score_answers
from ..hashing import sha256_file
from ..settings import CompareSettings
from .comparison import assemble, check_score_files
from .evaluation_report import evaluation_report
from .inputs import ArmInputs, BenchmarkInputs, ComparisonInputs, EvaluationInputs
from .scores import load_scores

ARM, REFERENCE = "blip2_enhanced", "baseline"
_UNKNOWN_SEED = 0


@dataclass(frozen=True)
class AnswerFiles:
    """Two TextVQA answer files and the annotations both are scored with."""

    arm: Path
    reference: Path
    annotations: Path

    def named(self) -> dict[str, Path]:
        """Return the answer files by arm, the reference first."""
        return {REFERENCE: self.reference, ARM: self.arm}


def compare_answer_files(files: AnswerFiles, settings: CompareSettings) -> dict[str, Any]:
    """Score both files, compare them, and return the evaluation report.

    Nothing is known about how the two models were trained, so the report says
    that the contract between arms was not checked.

    Raises:
        GateError: for simulated, degenerate or missing answers, or if the two
            files answer different questions.
        RecapError: for malformed files.
    """
    protocol = BenchmarkProtocol.model_validate(
        {"kind": "textvqa", "ocr": _uses_ocr(files.reference)}
    )
    with TemporaryDirectory(prefix="recap-compare-") as folder:
        inputs = _score_all(files, protocol, Path(folder))
        scores = load_scores(inputs, inputs.benchmarks[0].name)
        check_score_files(inputs, scores)
        tables = {scores.benchmark: scores}
        document = assemble(inputs, settings, tables, contract=[])
        report = evaluation_report(document, tables, inputs)
    return _name_sources(report, files)


def _uses_ocr(path: Path) -> bool:
    answers = read_answers(path)
    return bool(answers) and has_ocr_line(answers[0]["prompt"])


def _score_all(files: AnswerFiles, protocol: BenchmarkProtocol, folder: Path) -> ComparisonInputs:
    benchmark = "textvqa_ocr" if protocol.ocr else "textvqa_noocr"
    evaluations = []
    for arm, path in files.named().items():
        score, rows = folder / f"{arm}.json", folder / f"{arm}.jsonl"
        score_answers(benchmark, protocol, path, files.annotations, score, rows)
        evaluations.append(
            EvaluationInputs(
                arm=arm, seed=_UNKNOWN_SEED, benchmark=benchmark, score=score, scores=rows
            )
        )
    return ComparisonInputs(
        experiment="answer files",
        reference=REFERENCE,
        arms=[ArmInputs(arm=arm, matched=False) for arm in files.named()],
        seeds=[_UNKNOWN_SEED],
        benchmarks=[BenchmarkInputs(name=benchmark, protocol=protocol.model_dump())],
        evaluations=evaluations,
    )


def _name_sources(report: dict[str, Any], files: AnswerFiles) -> dict[str, Any]:
    """Replace the temporary score files by the answer files they were made from."""
    for arm, path in files.named().items():
        model = report["evaluation_comparison"][f"{arm}_model"]
        model |= {"results_file": str(path), "results_files": [str(path)], "seeds": []}
    report["technical_notes"][0] = report["technical_notes"][0].split(";")[0] + "."
    report["technical_notes"].append(
        "The answers were made outside the pipeline: whether the two models differ in their "
        "captions alone was not checked."
    )
    sources = {**files.named(), "annotations": files.annotations}
    report["provenance"] = {
        name: {"path": str(path), "sha256": sha256_file(path)} for name, path in sources.items()
    }
    return report
