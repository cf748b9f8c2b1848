"""Numbers of a measure as text, and a paired difference as one sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

from .catalogue import Measure


def shown(measure: Measure, value: float | None, *, sign: bool = False) -> str:
    """Return a value with the measure's decimals and a real minus sign."""
    if value is None:
        return "–"
    number = round(100 * value if measure.percent else value, measure.decimals) + 0.0
    text = f"{number:+.{measure.decimals}f}" if sign else f"{number:.{measure.decimals}f}"
    return text.replace("-", "−") + ("%" if measure.percent and not sign else "")


def interval_shown(
    measure: Measure, interval: Sequence[float] | None, *, sign: bool = False
) -> str:
    """Return an interval as ``121.4 to 146.0``."""
    if interval is None:
        return "no interval"
    return " to ".join(shown(measure, end, sign=sign) for end in interval)


def sentence(
    measure: Measure, row: Mapping[str, Any], arm: str, reference: str, confidence: float
) -> str:
    """Return one sentence about a row of ``differences``."""
    if row["difference"] is None:
        return f"{measure.label}: not measured, {arm} and {reference} share too little text."
    unit = " percentage points" if measure.percent else ""
    size = f"{shown(measure, row['difference'], sign=True)}{unit}"
    counted = f"{row['n']:,} {'common records' if row['resampled'] == 'records' else 'draws'}"
    counted = counted.replace(",", " ")
    if row["interval"] is None:
        return (
            f"{measure.label}: {arm} differs from {reference} by {size} on {counted}, too few "
            "for an interval."
        )
    span = f"{100 * confidence:g}% interval {interval_shown(measure, row['interval'], sign=True)}"
    head = {
        "higher": f"{arm} is higher than {reference}",
        "lower": f"{arm} is lower than {reference}",
        "not distinguishable": f"{arm} is not distinguishable from {reference}",
    }[row["reading"]]
    return f"{measure.label}: {head} ({size}, {span}, {counted})."
