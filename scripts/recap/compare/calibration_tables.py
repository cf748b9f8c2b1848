"""Calibration results as tables of Markdown, and where they go in a document."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import write_text

Row = Mapping[str, Any]


def replace_section(path: Path, name: str, text: str) -> None:
    """Put ``text`` between the marks ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Raises:
        RecapError: if the file or one of the marks is missing.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = path.read_text(encoding="utf-8") if path.is_file() else ""
    if begin not in content or end not in content.partition(begin)[2]:
        raise RecapError(f"{path} lacks the marks {begin} and {end}, between which results go")
    head, _, rest = content.partition(begin)
    tail = rest.partition(end)[2]
    write_text(path, f"{head}{begin}\n{text.strip()}\n{end}{tail}")


def simulated_tables(document: Row) -> str:
    """Return the tables of :func:`~.calibration.calibrate`."""
    plan, pool = document["plan"], document["pool"]
    several = [row for row in document["designs"] if row["seeds"] > 1 or row["seed_sd"] == 0]
    single = [row for row in document["designs"] if row["seeds"] == 1 and row["seed_sd"] > 0]
    parts = [
        f"Pool: {pool['source']}; {pool['questions']} questions on {pool['images']} images, "
        f"{pool['runs']} runs, mean accuracy {pool['mean_accuracy']:.1f} points. "
        f"{plan['replicates']} replicates a row and effect, seed {plan['seed']}, "
        f"{document['settings']['bootstrap_samples']} bootstrap resamples and "
        f"{document['settings']['permutation_samples']} sign flips each.",
        "### Equal arms told apart, in %, nominal 5",
        _table(
            ["seeds", "images", "seed sd", "verdict", "exact 95 % interval", "Student's t instead"],
            [[*_design(row), *_null(row)] for row in several],
        ),
        "### Coverage of the 95 % interval, in %, and power",
        _table(
            [
                "seeds",
                "images",
                "seed sd",
                "covered, no effect",
                "predicted MDE: quartiles",
                "covered at the MDE",
                "power at the MDE",
                "covered at twice the MDE",
            ],
            [[*_design(row), *_effects(row)] for row in several],
        ),
    ]
    if single:
        parts += [
            "### What one seed cannot know",
            _table(
                ["seeds", "images", "seed sd", "told apart", "covered: these weights", "recipe"],
                [[*_design(row), *_single(row)] for row in single],
            ),
        ]
    return "\n\n".join(parts)


def real_tables(document: Row) -> str:
    """Return the tables of :func:`~.calibration_real.calibrate_on_runs`."""
    families = ", ".join(f"{name}: {count} runs" for name, count in document["families"].items())
    parts = [
        f"Experiment `{document['experiment']}` ({families}; twins counted with their arm). "
        "Within a row no run is in two pairs; rows share runs."
    ]
    if document["stand_ins"]:
        parts.append(f"Trained with stand-in models: {', '.join(document['stand_ins'])}.")
    parts += [
        _table(
            ["benchmark", "arm", "runs", "mean, points", "sd of a run, points"],
            [
                [
                    row["benchmark"],
                    row["arm"],
                    row["runs"],
                    f"{row['mean']:.2f}",
                    "–"
                    if row["standard_deviation"] is None
                    else f"{row['standard_deviation']:.2f}",
                ]
                for row in document["runs"]
            ],
        ),
        _table(
            [
                "benchmark",
                "seeds an arm",
                "pairs",
                "told apart, %",
                "0 covered, %",
                "observed spread",
                "predicted standard error",
            ],
            [_real_row(row) for row in document["groups"]],
        ),
    ]
    return "\n\n".join(parts)


def _real_row(row: Row) -> list[Any]:
    return [
        row["benchmark"],
        row["seeds"],
        row["found"]["count"],
        _with_interval(row["found"]),
        _with_interval(row["covered"]),
        f"{row['observed_spread']:.2f}",
        f"{row['predicted_spread']:.2f}",
    ]


def _design(row: Row) -> list[Any]:
    return [row["seeds"], row["images"], f"{row['seed_sd']:g}"]


def _null(row: Row) -> list[str]:
    null = row["by_effect"]["0"]
    return [_percent(null["found"]), _bounds(null["found"]), _percent(null["student"])]


def _effects(row: Row) -> list[str]:
    tried = row["by_effect"]
    low, middle, high = row["predicted_effect_quartiles"]
    at, twice = tried.get("1"), tried.get("2")
    return [
        _percent(tried["0"]["covered"]),
        f"{low:.1f}, **{middle:.1f}**, {high:.1f}",
        _percent(at["covered"]) if at else "–",
        _with_interval(at["found"]) if at else "–",
        _percent(twice["covered"]) if twice else "–",
    ]


def _single(row: Row) -> list[str]:
    null = row["by_effect"]["0"]
    return [_percent(null[name]) for name in ("found", "covered_weights", "covered")]


def _percent(value: Row) -> str:
    return f"{100 * value['share']:.1f}"


def _bounds(value: Row) -> str:
    low, high = value["interval"]
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _with_interval(value: Row) -> str:
    return f"{_percent(value)} ({_bounds(value)})"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---:"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
