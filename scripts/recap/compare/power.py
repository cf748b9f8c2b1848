"""How many seeds and questions an effect needs, from a finished pilot.

A difference varies with the choice of images (1/C), with what images and seeds
do together (1/(C S)) and with the seeds (1/S). The pilot shows the three parts;
the plan scales them and asks the verdict's own formula what it could detect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from ..errors import RecapError
from ..io import read_json
from ..settings import CompareSettings
from .crossed import minimum_detectable_effect
from .inputs import ComparisonInputs, load_inputs
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


def variance_parts(spread: Spread) -> Parts:
    """Return the parts of a pilot's spread, none below zero."""
    return Parts(
        image=max(0.0, spread.image_variance - spread.noise_variance) * spread.images,
        noise=spread.noise_variance * spread.images * spread.seeds,
        seed=spread.seed_variance * spread.seeds,
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
        (``None``: more than listed), and device hours of training where measured.

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
    hours = hours_of_a_run(inputs)
    return {
        "experiment": inputs.experiment,
        "benchmark": scores.benchmark,
        "effect": effect,
        "confidence": settings.confidence,
        "power": settings.power,
        "pilot": {
            "seeds": len(inputs.seeds),
            "questions": len(scores.questions),
            "images": scores.image_count,
        },
        "training_hours_of_a_run": hours,
        "arms": [
            _plan_arm(scores, arm.arm, inputs.opponent(arm), effect, settings, hours)
            for arm in arms
        ],
    }


def _plan_arm(
    scores: BenchmarkScores,
    arm: str,
    reference: str,
    effect: float,
    settings: CompareSettings,
    hours: float | None,
) -> Row:
    differences = scores.accuracy[arm] - scores.accuracy[reference]
    parts = variance_parts(crossed_spread(crossed_table(differences, scores.images)))
    rows = []
    for factor in QUESTION_FACTORS:
        images = max(2, round(factor * scores.image_count))
        found = {seeds: _detectable(parts, images, seeds, settings) for seeds in SEEDS}
        enough = fewest_seeds(found, effect)
        rows.append(
            {
                "questions": round(factor * len(scores.questions)),
                "images": images,
                "detectable_by_seeds": {str(seeds): value for seeds, value in found.items()},
                "fewest_seeds": enough,
                "training_hours": 2 * enough * hours if enough and hours is not None else None,
            }
        )
    return {
        "arm": arm,
        "reference": reference,
        "standard_deviations": {
            "image": parts.image**0.5,
            "image_by_seed": parts.noise**0.5,
            "seed": parts.seed**0.5,
        },
        "designs": rows,
    }


def _detectable(parts: Parts, images: int, seeds: int, settings: CompareSettings) -> float:
    spread = scaled_spread(parts, images=images, seeds=seeds)
    effect, method = minimum_detectable_effect(
        spread, alpha=1 - settings.confidence, power=settings.power
    )
    return 100 * effect if method == "rule of three" else effect


def fewest_seeds(detectable: dict[int, float], effect: float) -> int | None:
    """Return the smallest number of seeds that detects ``effect``, if one does."""
    return next((seeds for seeds, value in detectable.items() if value <= effect), None)


def hours_of_a_run(inputs: ComparisonInputs) -> float | None:
    """Return the mean device hours of training one arm with one seed, if recorded."""
    training = [item for item in inputs.perf if item.label.startswith(_TRAINING_LABELS)]
    figures = [read_json(item.path) for item in training]
    if not figures or any("wall_seconds" not in row for row in figures):
        return None
    seconds = sum(row["wall_seconds"] * row.get("world_size", 1) for row in figures)
    return float(seconds) / (len(inputs.arms) * len(inputs.seeds)) / 3600


def describe(plan: Row) -> Sequence[str]:
    """Return the plan as lines for a reader."""
    lines = []
    for arm in plan["arms"]:
        for row in arm["designs"]:
            seeds = row["fewest_seeds"]
            need = f"{seeds} seeds" if seeds else f"more than {SEEDS[-1]} seeds"
            cost = row["training_hours"]
            hours = f", {cost:.3g} device hours of training" if cost is not None else ""
            lines.append(
                f"{arm['arm']} against {arm['reference']}, {row['questions']} questions: "
                f"{plan['effect']:g} points need {need}{hours}"
            )
    return lines
