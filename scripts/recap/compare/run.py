"""From command-line values to files: the comparison as a pipeline step."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from ..cli import load_settings
from ..errors import RecapError
from ..io import write_json
from ..manifest import write_manifest
from ..settings import CompareSettings, Settings
from .comparison import compare
from .evaluation_report import evaluation_report
from .inputs import load_inputs
from .lmms_export import export_runs

if TYPE_CHECKING:
    from .standalone import AnswerFiles

logger = logging.getLogger(__name__)
S = TypeVar("S", bound=Settings)


def read_settings(model: type[S], text: str) -> S:
    """Build a settings model from inline JSON or a path.

    Raises:
        RecapError: naming each bad key.
    """
    try:
        return model.model_validate(load_settings(text))
    except ValidationError as error:
        problems = "; ".join(
            f"`{'.'.join(str(p) for p in item['loc'])}`: {item['msg']}" for item in error.errors()
        )
        raise RecapError(f"--settings: {problems}") from error


def run_experiment(
    inputs_path: Path,
    settings_text: str,
    out: Path | None,
    report: Path | None,
    manifest: Path | None,
    lmms_eval: Path | None = None,
) -> None:
    """Compare the arms of an experiment and write the documents.

    Args:
        inputs_path: names the results.
        settings_text: compare settings, JSON or a path.
        out: comparison document.
        report: evaluation report.
        manifest: of both, if wanted.
        lmms_eval: folder for the results in lmms-eval's form, if wanted.

    Raises:
        RecapError: if an output isn't named, or a file is malformed.
        GateError: if the arms or their answers may not be compared.
    """
    if out is None or report is None:
        raise RecapError("--inputs needs --out and --evaluation-report")
    started = time.time()
    settings = read_settings(CompareSettings, settings_text)
    inputs = load_inputs(inputs_path)
    document, scores = compare(inputs, settings)
    write_json(out, document)
    write_json(report, evaluation_report(document, scores, inputs))
    if lmms_eval is not None:
        export_runs(inputs, scores, lmms_eval)
    logger.info("%s", document["headline"])
    if manifest is not None:
        files = {f"{e.arm}/seed{e.seed}/{e.benchmark}": e.scores for e in inputs.evaluations}
        write_manifest(
            manifest,
            stage="compare",
            inputs={"inputs": inputs_path, **files},
            outputs={"comparison": out, "evaluation_report": report},
            settings=settings.model_dump(),
            counts={
                "comparisons": len(document["comparisons"]),
                "questions": sum(len(table.questions) for table in scores.values()),
            },
            started=started,
            seed=settings.seed,
        )


def run_answer_files(
    files: "AnswerFiles | None",
    settings_text: str,
    output: Path | None,
    out: Path | None = None,
    lmms_eval: Path | None = None,
) -> None:
    """Compare two answer files made outside the pipeline; write the documents.

    Args:
        files: what is compared; none if one of the files wasn't named.
        settings_text: compare settings, JSON or a path.
        output: evaluation report.
        out: comparison document, if wanted.
        lmms_eval: folder for the results in lmms-eval's form, if wanted.

    Raises:
        RecapError: if a file isn't named.
        GateError: see :func:`recap.compare.standalone.compare_answer_files`.
    """
    from .standalone import compare_answer_files

    if files is None or output is None:
        raise RecapError(
            "give either --inputs, or all of --blip2_results, --baseline_results, "
            "--annotations and --output"
        )
    settings = read_settings(CompareSettings, settings_text)
    document, report = compare_answer_files(files, settings, lmms_eval)
    if out is not None:
        write_json(out, document)
    write_json(output, report)
    logger.info("%s %s", document["headline"], document["scope"])
