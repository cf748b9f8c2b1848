"""From command-line values to files: the report as a pipeline step."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RecapError
from ..io import read_json, write_json, write_text
from ..manifest import write_manifest
from ..settings import ReportSettings
from .beside import write_figures, write_tables
from .inputs import load_inputs
from .page import ReportSources, page_context, render_page
from .run import read_settings
from .run_card import run_card
from .scores import load_scores
from .templating import text_environment
from .verdicts import verdict_line

logger = logging.getLogger(__name__)
Row = dict[str, Any]
_MAIL_LIMIT = 10_000_000
# The account of no jobs, where none is given.
_NO_COSTS: Row = {
    "rows": [],
    "arms": [],
    "total": {"jobs": 0, "attempts": 0, "seconds": 0, "gpu_seconds": 0, "planned": None},
}


@dataclass(frozen=True)
class ReportRequest:
    """The files of one report; see ``build_report.py --help``."""

    inputs: Path
    comparison: Path
    settings: str
    out: Path
    training_analysis: Path
    summary: Path
    costs: Path | None = None
    gallery: tuple[Path, ...] = ()
    image_root: Path | None = None
    verdict: Path | None = None
    run_card: Path | None = None
    figures: Path | None = None
    tables: Path | None = None
    manifest: Path | None = None


def build_report(request: ReportRequest) -> None:
    """Write the page, the two Markdown files, and what else is asked for.

    Raises:
        RecapError: if a file is missing or belongs to another experiment.
        GateError: if losses of different stages are mixed, or a funnel does
            not add up.
    """
    started = time.time()
    sources = _load(request)
    context = page_context(sources)
    page = render_page(context)
    write_text(request.out, page)
    outputs = {"page": request.out, **_write_texts(request, context)}
    if request.verdict is not None:
        write_text(request.verdict, verdict_line(sources.document) + "\n")
        outputs["verdict"] = request.verdict
    if request.run_card is not None:
        write_json(request.run_card, run_card(context, sources.inputs))
        outputs["run_card"] = request.run_card
    if request.figures is not None:
        names = write_figures(context, request.figures)
        outputs |= {f"figures/{name}": request.figures / name for name in names}
    if request.tables is not None:
        names = write_tables(page, request.tables)
        outputs |= {f"tables/{name}": request.tables / name for name in names}
    _warn_of_size(request.out)
    if request.manifest is not None:
        write_manifest(
            request.manifest,
            stage="report",
            inputs={"inputs": request.inputs, "comparison": request.comparison},
            outputs=outputs,
            settings=sources.settings.model_dump(),
            counts={"comparisons": len(sources.document["comparisons"])},
            started=started,
        )


def _write_texts(request: ReportRequest, context: Row) -> dict[str, Path]:
    texts = text_environment()
    stages = [{**stage, "arms": _by_arm(stage["rows"])} for stage in context["stages"]]
    files = {
        "training_analysis": (request.training_analysis, "training_analysis.md.j2"),
        "summary": (request.summary, "summary.md.j2"),
    }
    for path, name in files.values():
        write_text(path, texts.get_template(name).render(context | {"stages": stages}))
    return {name: path for name, (path, _) in files.items()}


def _warn_of_size(page: Path) -> None:
    size = page.stat().st_size
    logger.info("%s: %d bytes", page, size)
    if size > _MAIL_LIMIT:
        logger.warning(
            "%s is too large to mail; lower report.gallery_size, report.example_answers or "
            "report.image_width",
            page,
        )


def _load(request: ReportRequest) -> ReportSources:
    inputs = load_inputs(request.inputs)
    document = read_json(request.comparison)
    arms = [arm["arm"] for arm in document.get("arms", [])]
    if (document.get("experiment"), arms) != (inputs.experiment, inputs.arm_names):
        raise RecapError(
            f"{request.comparison} is about {document.get('experiment')} with arms {arms}, but "
            f"{request.inputs} about {inputs.experiment} with {inputs.arm_names}; compare again"
        )
    return ReportSources(
        inputs=inputs,
        document=document,
        scores={b.name: load_scores(inputs, b.name) for b in inputs.benchmarks},
        settings=read_settings(ReportSettings, request.settings),
        gallery=request.gallery,
        image_root=request.image_root,
        costs=read_json(request.costs) if request.costs else _NO_COSTS,
    )


def _by_arm(rows: list[Row]) -> list[Row]:
    """Return each arm's mean over its seeds, within one stage."""
    arms: dict[str, list[Row]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    return [
        {
            "arm": arm,
            "seeds": len(members),
            "first": float(np.mean([row["first_loss"] for row in members])),
            "tail": float(np.mean([row["tail_loss"] for row in members])),
            "spread": float(np.std([row["tail_loss"] for row in members], ddof=1))
            if len(members) > 1
            else None,
            "spikes": sum(row["spikes"] for row in members),
        }
        for arm, members in arms.items()
    ]
