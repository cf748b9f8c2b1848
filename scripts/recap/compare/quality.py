"""The quality of captions on the page: measures an arm, paired differences, lengths."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..io import read_json
from ..quality.catalogue import Measure, catalogue
from ..quality.sentences import interval_shown, shown
from ..settings import QualitySettings
from .canvas import Canvas, Figure, canvas
from .inputs import ComparisonInputs

Row = dict[str, Any]
_DASHES = ("-", "--", ":", "-.")
_LONGEST = 40


def caption_quality(inputs: ComparisonInputs, palette: Sequence[str]) -> Row | None:
    """Return what the page shows about captions; ``None`` if nothing was measured.

    Returns:
        ``tables`` of the arms, ``measures`` (label and protocol), ``pairs``,
        ``figure``, ``counters``, ``uncovered``, ``method`` and ``size_effect``.
    """
    named = [*inputs.arms, *inputs.funnel_arms]
    documents = [read_json(arm.quality) for arm in named if arm.quality is not None]
    if not documents:
        return None
    measures = _measures(inputs)
    order = [arm.arm for arm in named]
    colors = {arm: palette[i % len(palette)] for i, arm in enumerate(order)}
    pairs = [read_json(arm.quality_differences) for arm in named if arm.quality_differences]
    return {
        "tables": _tables(documents, list(measures.values()), colors),
        "measures": _labels(measures.values(), documents),
        "pairs": [_pair(document, measures) for document in pairs],
        "figure": length_plot(documents, colors),
        "counters": (documents[0]["word_counter"], documents[0]["token_counter"]),
        "uncovered": {d["arm"]: d["coverage"]["not_covered_scripts"] for d in documents},
        "method": documents[0]["method"],
        "size_effect": _size_effect(documents, inputs.reference),
    }


def _measures(inputs: ComparisonInputs) -> dict[str, Measure]:
    settings = QualitySettings.model_validate(inputs.settings.get("quality", {}))
    return catalogue(settings)


def _labels(measures: Any, documents: Sequence[Row]) -> list[Row]:
    used = [m for m in measures if any(m.name in d["measures"] for d in documents)]
    return [{"label": m.label, "protocol": m.protocol, "grows": m.grows} for m in used]


def _tables(
    documents: Sequence[Row], measures: Sequence[Measure], colors: Mapping[str, str]
) -> list[Row]:
    """Return two tables, one row an arm: length and diversity, repetition and fit.

    What grows with the number of records is shown where the ids are equal, not here.
    """
    tables = []
    for faults, name, label, counts in (
        (False, "caption-text", "Length and diversity", ("records", "words", "tokens")),
        (True, "caption-faults", "Repetition and fit", ("records", "recaptioned", "not covered")),
    ):
        chosen = [m for m in measures if m.faults == faults and not m.grows]
        used = [m for m in chosen if any(m.name in d["measures"] for d in documents)]
        rows = [
            {
                "arm": document["arm"],
                "color": colors[document["arm"]],
                "counts": [_count(document, key) for key in counts],
                "cells": [_cell(m, document["measures"].get(m.name)) for m in used],
            }
            for document in documents
        ]
        columns = [measure.label for measure in used]
        part = {"name": name, "label": label, "counts": counts, "columns": columns, "rows": rows}
        tables.append(part)
    return tables


def _count(document: Row, key: str) -> int:
    found = document["coverage"]["not_covered"] if key == "not covered" else document[key]
    return int(found)


def _cell(measure: Measure, found: Row | None) -> Row:
    """Return a value and its interval, as text and for the download."""
    if found is None or found["value"] is None:
        return {"data": "||", "value": "–", "interval": ""}
    low, high = found["interval"] or ("", "")
    return {
        "data": f"{found['value']}|{low}|{high}",
        "value": shown(measure, found["value"]),
        "interval": interval_shown(measure, found["interval"]),
    }


def _pair(document: Row, measures: Mapping[str, Measure]) -> Row:
    rows = []
    for row in document["differences"]:
        measure, interval = measures[row["measure"]], row["interval"]
        rows.append(
            {
                **row,
                "arm_text": shown(measure, row["arm"]),
                "reference_text": shown(measure, row["reference"]),
                "difference_text": shown(measure, row["difference"], sign=True),
                "interval_text": interval_shown(measure, interval, sign=True),
                "interval_data": "|".join(map(str, interval or ("", ""))),
                "unit": "percentage points" if measure.percent else "",
            }
        )
    found = [row["sentence"] for row in rows if row["reading"] in ("higher", "lower")]
    same = [row["label"] for row in rows if row["reading"] == "not distinguishable"]
    unknown = [row["label"] for row in rows if row["reading"] in ("no interval", "not measured")]
    return {**document, "rows": rows, "found": found, "same": same, "unknown": unknown}


def _size_effect(documents: Sequence[Row], reference: str) -> Row | None:
    """Return the reference's type-token ratio at two sizes, if both could be taken."""
    for document in documents:
        effect = document["size_effect"]
        if document["arm"] == reference and None not in effect.values():
            return {**effect, "tokens": document["tokens"], "arm": reference}
    return None


def length_plot(documents: Sequence[Row], colors: Mapping[str, str]) -> Figure:
    """Return the share of captions by number of words, a line an arm.

    Lengths above 40 words are counted at 40.

    Args:
        documents: of ``measure_quality.py``.
        colors: arm to colour.
    """
    text = "; ".join(
        f"{d['arm']}: median {d['length_quantiles']['50']:g} words, middle half "
        f"{d['length_quantiles']['25']:g} to {d['length_quantiles']['75']:g}"
        for d in documents
    )
    with canvas(5.2, 3.3, "caption-lengths", f"Share of captions by number of words. {text}") as c:
        longest = max(_shares(d["length_histogram"]).size for d in documents)
        for number, document in enumerate(documents):
            _length_line(c, document, longest, colors[document["arm"]], _DASHES[number % 4])
        c.axes.set_xlabel("words a caption")
        c.axes.set_ylabel("% of the arm's captions")
        c.axes.set_ylim(bottom=0)
        c.axes.grid(lw=0.6)
        style = {"frameon": False, "fontsize": 9, "handlelength": 1.6}
        c.axes.figure.legend(loc="outside lower center", ncols=3, **style)
    return c.figure


def _length_line(c: Canvas, document: Row, longest: int, color: str, dash: str) -> None:
    shares = _shares(document["length_histogram"])
    shares = np.concatenate([shares, np.zeros(longest - shares.size)])
    percent = [round(100 * float(share), 2) for share in shares]
    line: Row = {"label": document["arm"], "color": color}
    c.axes.plot(range(longest), percent, ls=dash, lw=1.6, drawstyle="steps-mid", **line)
    c.series.append({**line, "x": list(range(longest)), "y": percent})


def _shares(histogram: Mapping[str, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    lengths = np.minimum(np.array([int(key) for key in histogram]), _LONGEST)
    counts = np.bincount(lengths, weights=np.array(list(histogram.values())))
    shares: np.ndarray[Any, np.dtype[np.float64]] = counts / counts.sum()
    return shares
