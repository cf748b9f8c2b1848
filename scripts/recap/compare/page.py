"""The report page: one self-contained HTML file, made from numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io import iter_jsonl
from ..manifest import code_state, read_manifest
from ..settings import ReportSettings
from ..versions import STAGE_VERSIONS
from .costs import cost_rows
from .examples import changed_examples
from .figures import accuracy_plot, curve_plot, forest_plot
from .funnels import arm_funnels
from .gates import gate_summary
from .inputs import ComparisonInputs
from .scores import BenchmarkScores
from .telemetry import curve_summary, stage_curves
from .templating import environment
from .thumbnails import thumbnail

Row = dict[str, Any]
_PANELS = (("loss", "loss"), ("grad_norm", "gradient norm"))


@dataclass(frozen=True)
class ReportSources:
    """Everything the page is made from.

    Attributes:
        inputs: where results lie.
        document: the comparison document.
        scores: aligned scores by benchmark.
        settings: what the page shows.
        gallery: rows of captions, or ``None``.
        image_root: folder of the corpus's images.
    """

    inputs: ComparisonInputs
    document: Row
    scores: dict[str, BenchmarkScores]
    settings: ReportSettings
    gallery: Sequence[Path] = ()
    image_root: Path | None = None


def render_page(context: Row) -> str:
    """Return the page's HTML from what :func:`page_context` gathered."""
    return environment().get_template("report.html.j2").render(context)


def page_context(sources: ReportSources) -> Row:
    """Gather everything the templates show.

    Raises:
        GateError: if a source contradicts itself; see the modules of the parts.
    """
    document, settings = sources.document, sources.settings
    colors = arm_colors(sources.inputs, settings)
    return {
        "document": document,
        "settings": settings,
        "colors": colors,
        "forest": _forest(document, colors),
        "contract": _contract(document),
        "funnels": arm_funnels(sources.inputs),
        "gallery": _gallery(sources),
        "stages": _stages(sources.inputs, colors),
        "gates": gate_summary(sources.inputs),
        "benchmarks": _benchmarks(document, colors),
        "examples": _examples(sources),
        "costs": cost_rows(sources.inputs),
        "provenance": _provenance(sources),
    }


def arm_colors(inputs: ComparisonInputs, settings: ReportSettings) -> dict[str, str]:
    """Return a colour an arm, in order, starting over when they run out."""
    palette = settings.color_scheme
    return {arm: palette[i % len(palette)] for i, arm in enumerate(inputs.arm_names)}


def _forest(document: Row, colors: dict[str, str]) -> str:
    rows = document["comparisons"]
    if not rows:
        return ""
    return forest_plot(rows, colors, " ".join(row["sentence"] for row in rows))


def _contract(document: Row) -> list[Row]:
    """Return one row a fact: the reference's value and each arm's, with a mark."""
    facts: dict[str, Row] = {}
    for row in document["contract"]["rows"]:
        fact = facts.setdefault(row["fact"], {"description": row["description"], "cells": {}})
        fact["reference_value"] = row["reference_value"]
        fact["cells"][row["arm"]] = {"value": row["value"], "ok": row["ok"]}
    return list(facts.values())


def _gallery(sources: ReportSources) -> list[Row]:
    rows: list[Row] = []
    for path in sources.gallery:
        rows += iter_jsonl(path)
    width = sources.settings.image_width
    return [
        {
            **row,
            "changed": row["original_text"] != row["new_text"],
            "picture": thumbnail(sources.image_root, str(row["image"]), width),
        }
        for row in rows[: sources.settings.gallery_size]
    ]


def _stages(inputs: ComparisonInputs, colors: dict[str, str]) -> list[Row]:
    stages = []
    for stage, curves in stage_curves(inputs).items():
        figures = []
        for value, label in _PANELS:
            text = f"{label} of {stage} over the updates, {len(curves)} runs"
            name = f"{stage}-{value}"
            figures.append(curve_plot(curves, value, label, colors, name, text))
        summaries = [curve_summary(curve) for curve in curves]
        stages.append({"stage": stage, "figures": figures, "rows": summaries})
    return stages


def _benchmarks(document: Row, colors: dict[str, str]) -> list[Row]:
    benchmarks = []
    for number, facts in enumerate(document["benchmarks"]):
        name = facts["benchmark"]
        pairs = [row for row in document["comparisons"] if row["benchmark"] == name]
        text = "; ".join(f"{arm['arm']} {arm['accuracy']:.2f} points" for arm in facts["arms"])
        figure = accuracy_plot(facts["arms"], colors, f"accuracy-{number}", f"{name}: {text}")
        benchmarks.append({**facts, "pairs": pairs, "figure": figure})
    return benchmarks


def _examples(sources: ReportSources) -> list[Row]:
    """Return changed answers of each ordinary pair, shared out over the pairs."""
    pairs = [row for row in sources.document["comparisons"] if not row["identical_pair"]]
    if not pairs or sources.settings.example_answers == 0:
        return []
    each = max(1, sources.settings.example_answers // len(pairs))
    width = sources.settings.image_width
    roots = {benchmark.name: benchmark.image_root for benchmark in sources.inputs.benchmarks}
    sections = []
    for pair in pairs:
        scores = sources.scores[pair["benchmark"]]
        rows = changed_examples(scores, pair["arm"], pair["reference"], each)
        for row in rows:
            row["picture"] = thumbnail(roots[pair["benchmark"]], row["image"], width)
        sections.append({**pair, "seed": scores.seeds[0], "rows": rows})
    return sections


def _provenance(sources: ReportSources) -> Row:
    commits = set()
    for run in sources.inputs.runs:
        for path in run.manifests.values():
            commits.add(str(read_manifest(path).get("volatile", {}).get("git_commit", "unknown")))
    return {
        "report_commit": code_state()["git_commit"],
        "local_edits": code_state()["dirty"],
        "run_commits": sorted(commits),
        "stage_versions": STAGE_VERSIONS,
        "commands": sources.inputs.commands,
        "score_files": sources.document["provenance"]["score_files"],
        "settings": {
            **sources.inputs.settings,
            "compare": sources.document["settings"],
            "report": sources.settings.model_dump(),
        },
    }
