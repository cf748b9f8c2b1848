"""Does the verdict keep its promises? Simulated experiments with a known truth.

Every replicate is judged by the comparison's own functions:
:func:`~.contrast.weigh_difference`, :func:`~.significance.holm` and
:func:`~.verdicts.decide`.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy
from scipy import stats

from ..hashing import derived_seed
from ..settings import CompareSettings
from ..versions import STAGE_VERSIONS
from .calibration_pool import Design, Pool, StatedModel, draw, room
from .contrast import detectable_effect, weigh_difference
from .resampling import CrossedTable, crossed_spread
from .significance import holm
from .verdicts import decide

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Weigh = Callable[[CrossedTable, CompareSettings, int], Row]

SETTINGS = CompareSettings(bootstrap_samples=1000, permutation_samples=1000)
_BEYOND_DOUBT = 0.999
_MIDDLE = 500


@dataclass(frozen=True)
class Plan:
    """What to simulate.

    Attributes:
        seeds, images, seed_sds: crossed; see :class:`~.calibration_pool.Design`.
        replicates: simulated experiments a design and true effect.
        pilots: A/A experiments a design that predict the effect to be tried.
        seed: of everything random.
    """

    seeds: tuple[int, ...] = (1, 2, 3, 5)
    images: tuple[int, ...] = (100, 500, 3166)
    seed_sds: tuple[float, ...] = (0.0, 1.0, 4.0)
    replicates: int = 1000
    pilots: int = 200
    seed: int = 2024

    def designs(self) -> list[Design]:
        """Return all designs, the largest benchmarks first, so that workers end together."""
        return [
            Design(seeds, images, sd)
            for images in sorted(self.images, reverse=True)
            for seeds in self.seeds
            for sd in self.seed_sds
        ]


def binomial_interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, hits, count - hits + 1)) if hits else 0.0
    high = float(stats.beta.isf(tail, hits + 1, count - hits)) if hits < count else 1.0
    return low, high


def share(hits: int, count: int) -> Row:
    """Return a share with its exact 95 % interval, as a JSON value."""
    return {
        "hits": hits,
        "count": count,
        "share": hits / count,
        "interval": list(binomial_interval(hits, count)),
    }


def judge(weighed: Row, settings: CompareSettings) -> bool:
    """Return whether the comparison would call this only pair better or worse.

    No A/A noise floor is given: one could only take verdicts back.
    """
    verdict = decide(
        weighed["difference"],
        weighed["interval"],
        holm([weighed["p_value"]])[0],
        alpha=1 - settings.confidence,
        noise_floor=None,
    )
    return verdict != "not distinguishable"


def try_effect(
    pool: Pool,
    design: Design,
    effect: float,
    plan: Plan,
    *,
    settings: CompareSettings = SETTINGS,
    weigh: Weigh = weigh_difference,
) -> Row:
    """Simulate ``plan.replicates`` experiments of one design and true effect (points).

    Returns:
        Shares of replicates that were told apart (``found``), whose interval
        holds the recipes' effect (``covered``) or the effect of the very
        weights drawn (``covered_weights``), and which Student's t on the
        summed variances would have told apart (``student``).
    """
    base = derived_seed(plan.seed, *map(str, asdict(design).values()), f"{effect:.9g}")
    rng = np.random.default_rng(base)
    hits = dict.fromkeys(("found", "covered", "covered_weights", "student"), 0)
    for number in range(plan.replicates):
        table, these = draw(pool, design, effect, rng)
        weighed = weigh(table, settings, base + number)
        low, high = weighed["interval"]
        hits["found"] += judge(weighed, settings)
        hits["covered"] += low <= effect <= high
        hits["covered_weights"] += low <= these <= high
        hits["student"] += _student_p(table) < 1 - settings.confidence
    return {"effect": effect} | {k: share(int(v), plan.replicates) for k, v in hits.items()}


def _student_p(table: CrossedTable) -> float:
    spread = crossed_spread(table)
    if spread.standard_error == 0:
        return 1.0
    ratio = abs(table.mean) / spread.standard_error
    return float(2 * stats.t.sf(ratio, spread.degrees_of_freedom))


def predicted_effects(pool: Pool, design: Design, plan: Plan) -> list[float]:
    """Return the quartiles of what ``plan.pilots`` A/A experiments call detectable, points."""
    rng = np.random.default_rng(
        derived_seed(plan.seed, *map(str, asdict(design).values()), "pilots")
    )
    effects = [
        detectable_effect(crossed_spread(draw(pool, design, 0.0, rng)[0]), SETTINGS, 1)[0]
        for _ in range(plan.pilots)
    ]
    return [float(value) for value in np.quantile(effects, [0.25, 0.5, 0.75])]


def try_design(design: Design, pool: Pool, plan: Plan) -> Row:
    """Try a design with no effect and with the effect it calls detectable.

    Benchmarks of middle size are also tried at twice that effect.
    """
    quartiles = predicted_effects(pool, design, plan)
    times = (0.0, 1.0, 2.0) if design.images == _MIDDLE else (0.0, 1.0)
    effects = {f"{factor:g}": factor * quartiles[1] for factor in times}
    tried = {
        factor: try_effect(pool, design, effect, plan)
        for factor, effect in effects.items()
        if effect <= room(pool)
    }
    logger.info("%d seeds, %d images, seed sd %g: done", *asdict(design).values())
    return {**asdict(design), "predicted_effect_quartiles": quartiles, "by_effect": tried}


def calibrate(pool: Pool, plan: Plan, jobs: int) -> Row:
    """Try all designs; the result does not depend on ``jobs``."""
    work = partial(try_design, pool=pool, plan=plan)
    if jobs == 1:
        rows = [work(design) for design in plan.designs()]
    else:
        with ProcessPoolExecutor(jobs) as executor:
            rows = list(executor.map(work, plan.designs()))
    rows.sort(key=lambda row: (row["seeds"], row["images"], row["seed_sd"]))
    return {
        "plan": asdict(plan),
        "pool": {
            "source": pool.source,
            "runs": len(pool.accuracy),
            "questions": pool.accuracy.shape[1],
            "images": int(pool.sizes.size),
            "mean_accuracy": pool.mean,
            "stated_model": asdict(StatedModel()) if pool.source == "stated model" else None,
        },
        "settings": SETTINGS.model_dump(),
        "versions": {
            "compare_stage": STAGE_VERSIONS["compare"],
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "designs": rows,
        "too_many_false_positives": [row for row in rows if _is_refuted(row)],
    }


def _is_refuted(row: Row) -> bool:
    """Return whether the false-positive rate is above nominal beyond doubt.

    With one seed the promise is about these weights, which differ where seeds do.
    """
    if row["seeds"] == 1 and row["seed_sd"] > 0:
        return False
    found = row["by_effect"]["0"]["found"]
    low, _ = binomial_interval(found["hits"], found["count"], _BEYOND_DOUBT)
    return low > 1 - SETTINGS.confidence
