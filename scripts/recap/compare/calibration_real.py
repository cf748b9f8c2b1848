"""The verdict on pairs of arms that were really trained on the same data.

Runs of one arm and of its A/A twins differ by nothing but their seed. They are
shuffled and dealt into pairs of groups, so that within one group size no run is
in two pairs; pairs of different group sizes share runs and aren't added up.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GateError, RecapError
from ..hashing import derived_seed
from ..settings import CompareSettings
from .calibration import judge, share
from .contrast import weigh_difference
from .inputs import ComparisonInputs, load_inputs
from .resampling import FloatArray, crossed_spread, crossed_table
from .scores import BenchmarkScores, load_scores

Row = dict[str, Any]
Run = tuple[str, int]
GROUP_SIZES = (1, 2, 3, 5)


def calibrate_on_runs(folder: Path, settings: CompareSettings) -> Row:
    """Judge all A/A pairs that an experiment's runs allow.

    Args:
        folder: ``results/<experiment>``; run where its paths are relative to.
        settings: of the comparison.

    Returns:
        One row a benchmark and group size, with its pairs, and per benchmark
        the spread of single runs.

    Raises:
        RecapError: if no arm or family of twins has two runs.
        GateError: if two runs gave the same answers to all questions.
    """
    inputs = load_inputs(folder / "compare" / "comparison_inputs.json")
    families = families_of_twins(inputs)
    if all(len(runs) < 2 for runs in families.values()):
        raise RecapError(f"{folder}: no arm has two runs; train one arm with 10 seeds or more")
    rows, spreads = [], []
    for benchmark in inputs.benchmarks:
        scores = load_scores(inputs, benchmark.name)
        for runs in families.values():
            _require_different(scores, runs)
        spreads += [_spread_of_runs(scores, name, runs) for name, runs in families.items()]
        for size in GROUP_SIZES:
            pairs = [
                _judge_pair(scores, first, second, settings)
                for runs in families.values()
                for first, second in deal(runs, size, settings.seed)
            ]
            if pairs:
                rows.append(_summary(scores, size, pairs))
    return {
        "experiment": inputs.experiment,
        "stand_ins": list(inputs.stand_ins),
        "families": {name: len(runs) for name, runs in families.items()},
        "settings": settings.model_dump(),
        "runs": spreads,
        "groups": rows,
    }


def families_of_twins(inputs: ComparisonInputs) -> dict[str, list[Run]]:
    """Return the runs of each arm together with those of its A/A twins."""
    families: dict[str, list[Run]] = {}
    for arm in inputs.arms:
        root = arm.identical_to or arm.arm
        families.setdefault(root, []).extend((arm.arm, seed) for seed in inputs.seeds)
    return families


def deal(runs: Sequence[Run], size: int, seed: int) -> list[tuple[list[Run], list[Run]]]:
    """Return pairs of groups of ``size`` runs; every run is in one group at most."""
    rng = np.random.default_rng(derived_seed(seed, "deal", str(size)))
    order = [runs[index] for index in rng.permutation(len(runs))]
    starts = range(0, len(order) - 2 * size + 1, 2 * size)
    return [(order[s : s + size], order[s + size : s + 2 * size]) for s in starts]


def _require_different(scores: BenchmarkScores, runs: Sequence[Run]) -> None:
    answers = {run: scores.predictions[run[0]][scores.seeds.index(run[1])] for run in runs}
    for first, second in combinations(runs, 2):
        if np.array_equal(answers[first], answers[second]):
            raise GateError(
                f"{scores.benchmark}: {first[0]} seed {first[1]} and {second[0]} seed {second[1]} "
                "gave the same answers to all questions, so they are not two trainings; "
                "give the twin seeds of its own"
            )


def _accuracy(scores: BenchmarkScores, runs: Sequence[Run]) -> FloatArray:
    return np.stack([scores.accuracy[arm][scores.seeds.index(seed)] for arm, seed in runs])


def _spread_of_runs(scores: BenchmarkScores, name: str, runs: Sequence[Run]) -> Row:
    means = _accuracy(scores, runs).mean(axis=1)
    return {
        "benchmark": scores.benchmark,
        "arm": name,
        "runs": len(runs),
        "mean": float(means.mean()),
        "standard_deviation": float(means.std(ddof=1)) if len(runs) > 1 else None,
    }


def _judge_pair(
    scores: BenchmarkScores, first: list[Run], second: list[Run], settings: CompareSettings
) -> Row:
    table = crossed_table(_accuracy(scores, second) - _accuracy(scores, first), scores.images)
    names = [f"{arm} seed {seed}" for arm, seed in (*first, *second)]
    weighed = weigh_difference(table, settings, derived_seed(settings.seed, *names))
    low, high = weighed["interval"]
    return {
        "first": names[: len(first)],
        "second": names[len(first) :],
        "difference": weighed["difference"],
        "interval": weighed["interval"],
        "p_value": weighed["p_value"],
        "standard_error": crossed_spread(table).standard_error,
        "covered": low <= 0 <= high,
        "found": judge(weighed, settings),
    }


def _summary(scores: BenchmarkScores, size: int, pairs: list[Row]) -> Row:
    def root_mean_square(field: str) -> float:
        return float(np.sqrt(np.mean([pair[field] ** 2 for pair in pairs])))

    return {
        "benchmark": scores.benchmark,
        "seeds": size,
        "found": share(sum(pair["found"] for pair in pairs), len(pairs)),
        "covered": share(sum(pair["covered"] for pair in pairs), len(pairs)),
        "observed_spread": root_mean_square("difference"),
        "predicted_spread": root_mean_square("standard_error"),
        "pairs": pairs,
    }
