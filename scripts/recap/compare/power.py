"""How many seeds and questions an effect needs, from a finished pilot.

A difference varies with the choice of images (1/C), with what images and seeds
do together (1/(C S)) and with the seeds (1/S). The pilot shows the three parts;
the plan scales them and asks the verdict's own formula what it could detect.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scipy import stats

from ..errors import RecapError
from ..io import read_json
from ..settings import CompareSettings
from .contrast import detectable_effect
from .crossed import typical_between
from .inputs import ComparisonInputs, PerfInputs, load_inputs
from .resampling import Spread, crossed_spread, crossed_table
from .scores import BenchmarkScores, load_scores

Row = dict[str, Any]
SEEDS = (2, 3, 4, 5, 6, 8, 10, 15, 20)
QUESTION_FACTORS = (0.5, 1.0, 2.0, 4.0)
_TRAINING_LABELS = ("pretrain ", "finetune ")


@dataclass(frozen=True)
class Parts:
    """Variances in squared points: of one image, one image in one seed, one seed."""

    image: float
    noise: float
    seed: float


@dataclass(frozen=True)
class RunCost:
    """What one arm with one seed costs, from the pilot's jobs.

    Attributes:
        training_hours: device hours of both stages.
        answering_hours: device hours of the benchmark's answers, controls included.
        device: ``GPU``, or ``device`` where the pilot trained without one.
    """

    training_hours: float
    answering_hours: float
    device: str

    def hours(self, seeds: int, factor: float) -> float:
        """Return the hours of two arms with ``seeds`` seeds and ``factor`` times the questions."""
        return 2 * seeds * (self.training_hours + factor * self.answering_hours)


def variance_parts(spread: Spread) -> Parts:
    """Return the parts of a pilot's spread, none below zero.

    The seeds' part is read as the report reads it, so that for the pilot's own design
    :func:`scaled_spread` leads back to the report's minimum detectable effect.
    """
    return Parts(
        image=max(0.0, spread.image_variance - spread.noise_variance) * spread.images,
        noise=spread.noise_variance * spread.images * spread.seeds,
        seed=(typical_between(spread) - spread.noise_variance) * spread.seeds,
    )


def scaled_spread(parts: Parts, *, images: int, seeds: int) -> Spread:
    """Return the spread a design would typically (in the median) show."""
    noise = parts.noise / (images * seeds)
    freedom = seeds - 1
    median = float(stats.chi2.median(freedom)) / freedom
    return Spread(
        image_variance=parts.image / images + noise,
        between_variance=(parts.seed / seeds + noise) * median,
        noise_variance=noise,
        seeds=seeds,
        images=images,
    )


def plan_power(
    folder: Path, effect: float, benchmark: str | None, settings: CompareSettings
) -> Row:
    """Return the designs that would find ``effect``, for each arm of the pilot.

    Args:
        folder: ``results/<experiment>``; run where its paths are relative to.
        effect: true difference to be found, points.
        benchmark: its name; ``None`` takes the first one.
        settings: confidence and power.

    Returns:
        Per arm the pilot's variance parts, the detectable effect (points) by
        seeds and questions, the fewest seeds for ``effect`` by questions
        (``None``: more than listed), device hours where measured, and the
        ``cheapest`` of these designs. Effects are those of the first step of
        Holm over as many comparisons as the pilot has, as in its report.

    Raises:
        RecapError: for an unknown benchmark, no second arm, or a pilot of one seed.
    """
    inputs = load_inputs(folder / "compare" / "comparison_inputs.json")
    names = [item.name for item in inputs.benchmarks]
    if benchmark is not None and benchmark not in names:
        raise RecapError(f"{folder} has no benchmark {benchmark}; it has {', '.join(names)}")
    if len(inputs.seeds) < 2:
        raise RecapError(f"{folder} has one seed, which cannot show how much seeds differ")
    arms = [arm for arm in inputs.challengers if arm.identical_to is None]
    if not arms:
        raise RecapError(f"{folder} compares no arm with {inputs.reference}")
    scores = load_scores(inputs, benchmark or names[0])
    family = len(arms) * len(names)
    cost = cost_of_a_run(inputs, scores.benchmark)
    return {
        "experiment": inputs.experiment,
        "benchmark": scores.benchmark,
        "effect": effect,
        "confidence": settings.confidence,
        "power": settings.power,
        "comparisons": family,
        "pilot": {
            "seeds": len(inputs.seeds),
            "questions": len(scores.questions),
            "images": scores.image_count,
        },
        "cost_of_a_run": cost and {**cost.__dict__},
        "arms": [
            _plan_arm(scores, (arm.arm, inputs.opponent(arm)), effect, settings, family, cost)
            for arm in arms
        ],
    }


def _plan_arm(
    scores: BenchmarkScores,
    pair: tuple[str, str],
    effect: float,
    settings: CompareSettings,
    family: int,
    cost: RunCost | None,
) -> Row:
    differences = scores.accuracy[pair[0]] - scores.accuracy[pair[1]]
    parts = variance_parts(crossed_spread(crossed_table(differences, scores.images)))
    rows = []
    for factor in QUESTION_FACTORS:
        images = max(2, round(factor * scores.image_count))
        found = {
            seeds: detectable_effect(
                scaled_spread(parts, images=images, seeds=seeds), settings, family
            )[0]
            for seeds in SEEDS
        }
        enough = fewest_seeds(found, effect)
        rows.append(
            {
                "questions": round(factor * len(scores.questions)),
                "images": images,
                "detectable_by_seeds": {str(seeds): value for seeds, value in found.items()},
                "fewest_seeds": enough,
                "hours": cost.hours(enough, factor) if enough and cost is not None else None,
            }
        )
    return {
        "arm": pair[0],
        "reference": pair[1],
        "standard_deviations": {
            "image": parts.image**0.5,
            "image_by_seed": parts.noise**0.5,
            "seed": parts.seed**0.5,
        },
        "designs": rows,
        "cheapest": _cheapest(rows),
    }


def _cheapest(rows: Sequence[Row]) -> Row | None:
    """Return seeds and questions of the design of fewest hours; fewest answers if unmeasured."""
    able = [row for row in rows if row["fewest_seeds"]]
    if not able:
        return None
    best = min(able, key=lambda row: row["hours"] or row["fewest_seeds"] * row["questions"])
    return {"seeds": best["fewest_seeds"], "questions": best["questions"], "hours": best["hours"]}


def fewest_seeds(detectable: dict[int, float], effect: float) -> int | None:
    """Return the smallest number of seeds that detects ``effect``, if one does."""
    return next((seeds for seeds, value in detectable.items() if value <= effect), None)


def cost_of_a_run(inputs: ComparisonInputs, benchmark: str) -> RunCost | None:
    """Return the mean cost of one arm with one seed, if every job recorded it."""
    training = _device_seconds(inputs, _is_training)
    answering = _device_seconds(inputs, partial(_is_answering, benchmark=benchmark))
    if training is None or answering is None:
        return None
    runs = len(inputs.arms) * len(inputs.seeds) * 3600
    figures = [read_json(item.path) for item in inputs.perf if _is_training(item)]
    return RunCost(
        training_hours=training / runs,
        answering_hours=answering / runs,
        device="GPU" if all("gpu" in row for row in figures) else "device",
    )


def _is_training(job: PerfInputs) -> bool:
    return job.label.startswith(_TRAINING_LABELS)


def _is_answering(job: PerfInputs, benchmark: str) -> bool:
    """Tell whether a run's job answered a benchmark, as it is or under a control."""
    name = rf"\.seed\d+\.{re.escape(benchmark)}(\.[a-z_]+)?\.\d+_\d+$"
    return job.stage == "predict_shard" and re.search(name, job.label) is not None


def _device_seconds(inputs: ComparisonInputs, wanted: Callable[[PerfInputs], bool]) -> float | None:
    """Return seconds times devices of all jobs of a kind; none if any is unknown.

    A job that went on after a kill recorded its last part alone, and is scaled to
    the whole of it. One that had nothing left to do counts as the others do.
    """
    figures = [read_json(item.path) for item in inputs.perf if wanted(item)]
    if not figures or any("wall_seconds" not in row for row in figures):
        return None
    known = []
    for row in figures:
        made, before = _done(row)
        if made:
            known.append(row["wall_seconds"] * row.get("world_size", 1) * (made + before) / made)
    return sum(known) * len(figures) / len(known) if known else None


def _done(row: Row) -> tuple[int, int]:
    """Return what a job did in the part it recorded, and what was there before."""
    if "resumed_answers" in row:
        return row["items"], row["resumed_answers"]
    return row.get("updates", 1), row.get("resumed_from_update", 0)


def describe(plan: Row) -> Sequence[str]:
    """Return the plan as lines for a reader."""
    cost = plan["cost_of_a_run"]
    unit = f"{cost['device']} hours" if cost else ""
    lines = []
    for arm in plan["arms"]:
        head = f"{arm['arm']} against {arm['reference']}"
        for row in arm["designs"]:
            seeds = row["fewest_seeds"]
            need = f"{seeds} seeds" if seeds else f"more than {SEEDS[-1]} seeds"
            hours = f", {row['hours']:.3g} {unit}" if row["hours"] is not None else ""
            wanted = f"{plan['effect']:g} points"
            lines.append(f"{head}, {row['questions']} questions: {wanted} need {need}{hours}")
        best = arm["cheapest"]
        if best is None:
            lines.append(f"{head}: none of these designs would find {plan['effect']:g} points")
        elif best["hours"] is not None:
            lines.append(
                f"{head}: cheapest is {best['seeds']} seeds and {best['questions']} questions, "
                f"{best['hours']:.3g} {unit} of training and answering for both arms"
            )
    return lines
