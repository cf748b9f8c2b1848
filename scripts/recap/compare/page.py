"""The report page: one self-contained HTML file, made from numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io import iter_jsonl
from ..settings import ReportSettings
from ..train.stability import SPIKE_DEVIATIONS, SPIKE_WINDOW
from .canvas import Figure
from .examples import changed_examples
from .figures import accuracy_plot, curve_plot, forest_plot
from .funnels import arm_funnels
from .gates import gate_summary
from .held_out import held_out_rows
from .inputs import ComparisonInputs
from .page_provenance import provenance
from .quality import caption_quality
from .scores import BenchmarkScores
from .tables import csv_uri
from .telemetry import curve_summary, stage_curves
from .templating import environment, page_script
from .thumbnails import thumbnail

Row = dict[str, Any]
_PANELS = (("loss", "loss"), ("grad_norm", "gradient norm"))
_GALLERY_COLUMNS = (
    *("id", "image", "original_text", "new_text", "truth", "corruption"),
    *("similarity_original", "similarity_new", "fate"),
)
_ORDERS = (
    ("gain", "largest gain in similarity"),
    ("-gain", "smallest gain in similarity"),
    ("-new", "lowest similarity, new caption"),
    ("-raw", "lowest similarity, raw caption"),
)
_EXAMPLE_COLUMNS = (
    *("question_id", "image", "question", "old", "new", "truth"),
    *("old_accuracy", "new_accuracy", "change"),
)


@dataclass(frozen=True)
class ReportSources:
    """Everything the page is made from.

    Attributes:
        inputs: where results lie.
        document: the comparison document.
        scores: aligned scores by benchmark.
        settings: what the page shows.
        costs: what :func:`recap.planning.costs.cost_document` returned.
        gallery: rows of captions, or ``None``.
        image_root: folder of the corpus's images.
    """

    inputs: ComparisonInputs
    document: Row
    scores: dict[str, BenchmarkScores]
    settings: ReportSettings
    costs: Row
    gallery: Sequence[Path] = ()
    image_root: Path | None = None


def render_page(context: Row) -> str:
    """Return the page's HTML from what :func:`page_context` gathered."""
    script, digest = page_script()
    template = environment().get_template("report.html.j2")
    return template.render(context, script=script, script_hash=digest)


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
        "controls": [r for b in document["benchmarks"] for r in b.get("controls", [])],
        "contract": _contract(document),
        "funnels": arm_funnels(sources.inputs),
        "gallery": _gallery(sources),
        "quality": caption_quality(sources.inputs, settings.color_scheme),
        "stages": _stages(sources.inputs, colors),
        "spike_rule": {"deviations": SPIKE_DEVIATIONS, "window": SPIKE_WINDOW},
        "gates": gate_summary(sources.inputs),
        "benchmarks": _benchmarks(document, colors),
        "examples": _examples(sources),
        "costs": sources.costs,
        "provenance": provenance(sources.inputs, document, settings),
    }


def arm_colors(inputs: ComparisonInputs, settings: ReportSettings) -> dict[str, str]:
    """Return a colour an arm, in order, starting over when they run out."""
    palette = settings.color_scheme
    return {arm: palette[i % len(palette)] for i, arm in enumerate(inputs.arm_names)}


def _forest(document: Row, colors: dict[str, str]) -> Figure | None:
    rows = document["comparisons"]
    if not rows:
        return None
    return forest_plot(rows, colors, " ".join(row["sentence"] for row in rows))


def _contract(document: Row) -> list[Row]:
    """Return one row a fact: the reference's value and each arm's, with a mark."""
    facts: dict[str, Row] = {}
    for row in document["contract"]["rows"]:
        fact = facts.setdefault(row["fact"], {"description": row["description"], "cells": {}})
        fact["reference_value"] = row["reference_value"]
        fact["cells"][row["arm"]] = {"value": row["value"], "ok": row["ok"]}
    return list(facts.values())


def _gallery(sources: ReportSources) -> Row:
    """Return the captions shown, what can be chosen among them, and them as CSV."""
    found: list[Row] = []
    for path in sources.gallery:
        found += iter_jsonl(path)
    found = found[: sources.settings.gallery_size]
    rows = [_gallery_row(sources, row) for row in found]
    known = [row for row in rows if "truth" in row]
    orders = _ORDERS if any(row["gain"] is not None for row in rows) else ()
    return {
        "records": rows,
        "orders": orders,
        "fates": sorted({row["fate"] for row in rows}),
        "corruptions": sorted({row["corruption"] for row in known}),
        "exact": sum(r["new_text"] == r["truth"] for r in known) if known else None,
        "raw_exact": sum(r["original_text"] == r["truth"] for r in known),
        "csv": _csv(_GALLERY_COLUMNS, rows),
    }


def _gallery_row(sources: ReportSources, row: Row) -> Row:
    extra = {"corruption": "intact"} if row.get("corruption") == "none" else {}
    kept = "kept, new caption" if row["replaced"] else "kept, raw caption"
    old, new = row.get("similarity_original"), row.get("similarity_new")
    return {
        **row,
        **extra,
        "gain": None if old is None or new is None else round(new - old, 4) + 0.0,
        "changed": row["original_text"] != row["new_text"],
        "fate": kept if row["kept"] else "dropped",
        "picture": thumbnail(sources.image_root, str(row["image"]), sources.settings.image_width),
    }


def _csv(names: Sequence[str], rows: Sequence[Row]) -> str:
    """Return rows as a CSV download, without the columns that none of them has."""
    used = [name for name in names if any(row.get(name) is not None for row in rows)]
    return csv_uri([used, *([row.get(name) for name in used] for row in rows)])


def _stages(inputs: ComparisonInputs, colors: dict[str, str]) -> list[Row]:
    stages = []
    for stage, curves in stage_curves(inputs).items():
        figures = []
        for value, label in _PANELS:
            text = f"{label} of {stage} over the updates, {len(curves)} runs"
            name = f"{stage}-{value}"
            figures.append(curve_plot(curves, value, label, colors, name, text))
        rows = [{**curve_summary(c), "gates_passed": c["gates_passed"]} for c in curves]
        verdicts = [row["gates_passed"] for row in rows]
        stages.append(
            {
                "stage": stage,
                "figures": figures,
                "rows": rows,
                "held_out": held_out_rows(inputs, stage),
                "spikes": sum(row["spikes"] for row in rows),
                "passed": verdicts.count(True),
                "failed": verdicts.count(False),
                "unknown": verdicts.count(None),
            }
        )
    return stages


def _benchmarks(document: Row, colors: dict[str, str]) -> list[Row]:
    benchmarks = []
    for facts in document["benchmarks"]:
        name, controls = facts["benchmark"], facts.get("controls", [])
        pairs = [row for row in document["comparisons"] if row["benchmark"] == name]
        text = "; ".join(f"{arm['arm']} {arm['accuracy']:.2f} points" for arm in facts["arms"])
        figure = accuracy_plot(
            facts["arms"], controls, colors, f"accuracy-{name}", f"{name}: {text}"
        )
        benchmarks.append({**facts, "controls": controls, "pairs": pairs, "figure": figure})
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
        changes = sorted({row["change"] for row in rows})
        extra = {"rows": rows, "changes": changes, "csv": _csv(_EXAMPLE_COLUMNS, rows)}
        sections.append({**pair, "seed": scores.seeds[0], **extra})
    return sections
