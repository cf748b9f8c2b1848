"""Comparing two answer files in LLaVA's format that were made elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from ..errors import GateError, RecapError
from ..evaluate.answers import read_answers
from ..evaluate.benchmarks.textvqa.prompts import has_ocr_line
from ..evaluate.protocol import BenchmarkProtocol
from ..evaluate.score import hash_path, score_answers
from ..hashing import sha256_file
from ..io import read_json
from ..settings import CompareSettings, explain
from .comparison import assemble, check_score_files, refuse_control
from .evaluation_report import evaluation_report
from .inputs import ArmInputs, BenchmarkInputs, ComparisonInputs, EvaluationInputs
from .lmms_export import export_runs
from .scores import load_scores

Row = dict[str, Any]

ARM, REFERENCE = "blip2_enhanced", "baseline"
_UNKNOWN_SEED = 0


@dataclass(frozen=True)
class AnswerFiles:
    """Two answer files and what both are scored with.

    Attributes:
        arm: answers of the arm in question.
        reference: answers it is compared with.
        annotations: the benchmark's own annotations.
        kind: of benchmark; TextVQA's prompts tell whether they list OCR tokens.
        questions: question file, for POPE's scorer, and to tell which questions of
            TextVQA's form share a picture where their ids don't.
    """

    arm: Path
    reference: Path
    annotations: Path
    kind: str = "textvqa"
    questions: Path | None = None

    def named(self) -> dict[str, Path]:
        """Return the answer files by arm, the reference first."""
        return {REFERENCE: self.reference, ARM: self.arm}


def compare_answer_files(
    files: AnswerFiles, settings: CompareSettings, lmms_eval: Path | None = None
) -> tuple[Row, Row]:
    """Score both files, compare them; return comparison document and evaluation report.

    Nothing is known about how the two models were trained, so the report says
    that the contract between arms was not checked.

    Args:
        files: what is compared.
        settings: of the comparison.
        lmms_eval: folder for the results in lmms-eval's form, if wanted.

    Raises:
        GateError: for simulated, degenerate or missing answers, for answers of a
            control, for annotated questions that are not answered, or if the two
            files answer different questions.
        RecapError: for malformed files.
    """
    kind = files.kind
    protocol = parse_protocol({"kind": kind, "ocr": kind == "textvqa" and _ocr(files.reference)})
    with TemporaryDirectory(prefix="recap-compare-") as folder:
        inputs = _score_all(files, protocol, Path(folder))
        scores = load_scores(inputs, inputs.benchmarks[0].name)
        check_score_files(inputs, scores)
        tables = {scores.benchmark: scores}
        document = assemble(inputs, settings, tables, contract=[])
        report = evaluation_report(document, tables, inputs)
        if lmms_eval is not None:
            export_runs(inputs, tables, lmms_eval)
    for row in document["provenance"]["score_files"]:
        path = files.named()[row["arm"]]
        row |= {"path": str(path), "sha256": sha256_file(path)}
    return document, _name_sources(report, files)


def parse_protocol(values: Row) -> BenchmarkProtocol:
    """Build a protocol.

    Raises:
        RecapError: if it is none, for instance for an unknown kind.
    """
    try:
        return BenchmarkProtocol.model_validate(values)
    except ValidationError as error:
        raise RecapError(f"--kind: {explain(error)}") from error


def _ocr(path: Path) -> bool:
    answers = read_answers(path)
    return bool(answers) and has_ocr_line(answers[0]["prompt"])


def _score_all(files: AnswerFiles, protocol: BenchmarkProtocol, folder: Path) -> ComparisonInputs:
    benchmark = protocol.kind
    if benchmark == "textvqa":
        benchmark = "textvqa_ocr" if protocol.ocr else "textvqa_noocr"
    evaluations = []
    for arm, path in files.named().items():
        score, rows = folder / f"{arm}.json", folder / f"{arm}.jsonl"
        score_answers(
            benchmark, protocol, path, files.annotations, score, rows, questions=files.questions
        )
        refuse_control(read_json(score), path)
        _require_all(path, score, files.annotations)
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


def _require_all(path: Path, score: Path, annotations: Path) -> None:
    facts = read_json(score)["facts"]
    missing = facts.get("unanswered_questions", 0)
    if missing:
        raise GateError(
            f"{path}: {missing} of {facts['annotated_questions']} annotated questions have no "
            f"answer; answer them, or give annotations of the questions that were asked instead "
            f"of {annotations}"
        )


def _name_sources(report: Row, files: AnswerFiles) -> Row:
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
    named = {n: {"path": str(path), "sha256": hash_path(path)} for n, path in sources.items()}
    report["provenance"] = {**report["provenance"], **named}
    return report
