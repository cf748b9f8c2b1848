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
        ``arms`` (facts and ``cells``), ``measures`` (label and protocol, those
        of the table), ``pairs``, ``figure``, ``counters``, ``method``.
    """
    named = [*inputs.arms, *inputs.funnel_arms]
    documents = [read_json(arm.quality) for arm in named if arm.quality is not None]
    if not documents:
        return None
    measures = _measures(inputs)
    order = [arm.arm for arm in named]
    colors = {arm: palette[i % len(palette)] for i, arm in enumerate(order)}
    # What grows with the number of records is shown where the ids are equal, not here.
    shown_measures = [
        m
        for m in measures.values()
        if not m.grows and any(m.name in d["measures"] for d in documents)
    ]
    pairs = [read_json(arm.quality_differences) for arm in named if arm.quality_differences]
    return {
        "arms": [_arm(document, shown_measures, colors) for document in documents],
        "measures": _labels(measures.values(), documents),
        "columns": [measure.label for measure in shown_measures],
        "pairs": [_pair(document, measures) for document in pairs],
        "figure": length_plot(documents, colors),
        "counters": (documents[0]["word_counter"], documents[0]["token_counter"]),
        "method": documents[0]["method"],
        "size_effect": _size_effect(documents, inputs.reference),
    }


def _measures(inputs: ComparisonInputs) -> dict[str, Measure]:
    settings = QualitySettings.model_validate(inputs.settings.get("quality", {}))
    return catalogue(settings)


def _labels(measures: Any, documents: Sequence[Row]) -> list[Row]:
    used = [m for m in measures if any(m.name in d["measures"] for d in documents)]
    return [{"label": m.label, "protocol": m.protocol, "grows": m.grows} for m in used]


def _arm(document: Row, measures: Sequence[Measure], colors: Mapping[str, str]) -> Row:
    cells = []
    for measure in measures:
        found = document["measures"].get(measure.name, {"value": None, "interval": None})
        value, interval = found["value"], found["interval"] or (None, None)
        cells.append(
            {
                "data": "|".join("" if v is None else str(v) for v in (value, *interval)),
                "value": shown(measure, value),
                "interval": interval_shown(measure, found["interval"]) if value is not None else "",
            }
        )
    keys = ("arm", "records", "recaptioned", "words", "tokens", "types", "coverage")
    return {
        **{key: document[key] for key in keys},
        "cells": cells,
        "color": colors[document["arm"]],
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
    with canvas(5.2, 3.0, "caption-lengths", f"Share of captions by number of words. {text}") as c:
        longest = max(_shares(d["length_histogram"]).size for d in documents)
        for number, document in enumerate(documents):
            _length_line(c, document, longest, colors[document["arm"]], _DASHES[number % 4])
        c.axes.set_xlabel("words a caption")
        c.axes.set_ylabel("% of the arm's captions")
        c.axes.set_ylim(bottom=0)
        c.axes.grid(lw=0.6)
        c.axes.legend(frameon=False, fontsize=9, handlelength=1.6)
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
