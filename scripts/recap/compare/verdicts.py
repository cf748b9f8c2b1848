"""From numbers to a verdict, and from a verdict to a sentence."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Verdict = Literal["better", "worse", "not distinguishable"]


def decide(
    difference: float,
    interval: Sequence[float],
    adjusted_p: float,
    *,
    alpha: float,
    noise_floor: float | None,
) -> Verdict:
    """Return the verdict on a difference (points).

    Better or worse needs all three: an adjusted p-value below ``alpha``, an
    interval that excludes zero on the side of the difference, and a difference
    larger than the A/A noise floor where one was measured.
    """
    low, high = interval
    clear = adjusted_p < alpha and abs(difference) > (noise_floor or 0.0)
    if clear and difference > 0 and low > 0:
        return "better"
    if clear and difference < 0 and high < 0:
        return "worse"
    return "not distinguishable"


def points(value: float, *, sign: bool = False) -> str:
    """Return points with two decimals, a real minus sign, and never a negative zero."""
    rounded = round(value, 2) + 0.0
    text = f"{rounded:+.2f}" if sign else f"{rounded:.2f}"
    return text.replace("-", "−")


def percent(share: float) -> str:
    """Return a share as a percentage without needless zeros, such as ``95%``."""
    return f"{100 * share:.4g}%"


def p_text(value: float) -> str:
    """Return a p-value for reading."""
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}".rstrip("0").rstrip(".") or "0"


def interval_text(interval: Sequence[float], *, sign: bool = True) -> str:
    """Return an interval of points as ``−1.20 to +2.05``; unsigned for accuracies."""
    return f"{points(interval[0], sign=sign)} to {points(interval[1], sign=sign)}"


def sentence(row: Mapping[str, Any], confidence: float) -> str:
    """Return one sentence for a row of ``comparisons``: verdict, size, interval, limits."""
    head = f"{row['arm']} is {row['verdict']} than {row['reference']} on {row['benchmark']}"
    if row["verdict"] == "not distinguishable":
        head = f"{row['arm']} is not distinguishable from {row['reference']} on {row['benchmark']}"
    size = (
        f"{points(row['difference'], sign=True)} points, {percent(confidence)} interval "
        f"{interval_text(row['interval'])}"
    )
    effect = points(row["minimum_detectable_effect"])
    changed = row["changed_answers"]
    if not any(changed[name] for name in ("count", "gained", "lost")):
        answers = changed["answers"]
        return (
            f"{row['arm']} is not distinguishable from {row['reference']} on {row['benchmark']}: "
            f"both gave the same {answers} answers; effects below {effect} points cannot be "
            "excluded."
        )
    if row["verdict"] == "not distinguishable":
        return f"{head} at a minimum detectable effect of {effect} points ({size})."
    p_value = f"adjusted p {p_text(row['p_adjusted'])}"
    return f"{head} ({size}, {p_value}; minimum detectable effect {effect} points)."


def scope_sentence(seeds: int) -> str:
    """Return what the number of training seeds lets the verdict say."""
    if seeds == 1:
        return (
            "One training seed: the variance between seeds is unknown, so the verdict covers "
            "only these weights, not the recipe in general."
        )
    if seeds == 2:
        return (
            "Two training seeds: the spread between seeds is estimated from 2 values and is "
            "itself very uncertain."
        )
    return f"{seeds} training seeds: intervals include the spread between seeds."


def warning_text(
    stand_ins: Sequence[str], notes: str, benchmarks: Sequence[Mapping[str, Any]]
) -> str:
    """Return what forbids taking the numbers at face value, or an empty string.

    Stand-in models, with the experiment's notes on them, and runs whose
    answers were marked as degenerate when they were scored.
    """
    parts = []
    if stand_ins:
        models = ", ".join(stand_ins)
        head = f"Stand-in models were used ({models}): no number here is about the real models."
        parts.append(f"{head} {notes}".strip())
    degenerate = [
        f"{arm['arm']} seed {seed} on {facts['benchmark']}"
        for facts in benchmarks
        for arm in facts["arms"]
        for seed in arm["degenerate_seeds"]
    ]
    if degenerate:
        parts.append(f"Too few distinct answers to mean much: {', '.join(degenerate)}.")
    return " ".join(parts)


def verdict_line(document: Mapping[str, Any]) -> str:
    """Return warning, verdict and its scope as one line, for the end of a run."""
    parts = [document["headline"]]
    if len(document["seeds"]) < 3:
        parts.append(document["scope"])
    if document["warning"]:
        parts.append(document["warning"])
    return " ".join(" ".join(parts).split())


def headline(document: Mapping[str, Any]) -> str:
    """Return the verdict of a comparison document in one sentence, without line breaks."""
    rows = [row for row in document["comparisons"] if not row["identical_pair"]]
    if not rows:
        return f"Nothing was compared: {document['reference']} is the only arm."
    found = [row for row in rows if row["verdict"] != "not distinguishable"]
    reference = document["reference"]
    level = f"{percent(document['settings']['confidence'])} interval"
    if len(rows) == 1:
        return sentence(rows[0], document["settings"]["confidence"])
    if not found:
        effects = [row["minimum_detectable_effect"] for row in rows]
        return (
            f"None of {len(rows)} comparisons with {_opponents(rows)} is "
            f"distinguishable at minimum detectable effects of {points(min(effects))} to "
            f"{points(max(effects))} points."
        )
    groups: dict[tuple[str, str], list[str]] = {}
    for row in found:
        difference = points(row["difference"], sign=True)
        size = f"{difference} points, {level} {interval_text(row['interval'])}"
        # A drawn sample of the same size stands in for the reference of some arms.
        other = "" if row["reference"] == reference else f", against {row['reference']},"
        name = f"{row['arm']}{other}"
        groups.setdefault((name, row["verdict"]), []).append(f"{row['benchmark']} ({size})")
    parts = [f"{arm} is {verdict} on {_and(names)}" for (arm, verdict), names in groups.items()]
    rest = len(rows) - len(found)
    tail = f"; {rest} of {len(rows)} comparisons are not distinguishable" if rest else ""
    return f"Compared with {reference}: {'; '.join(parts)}{tail}."


def _opponents(rows: Sequence[Mapping[str, Any]]) -> str:
    return _and(list(dict.fromkeys(row["reference"] for row in rows)))


def _and(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
