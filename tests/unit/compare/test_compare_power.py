"""The power planner against closed forms and simulated experiments."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_experiment import Experiment
from scipy import stats

from recap.compare.crossed import crossed_p_value, minimum_detectable_effect
from recap.compare.power import (
    Parts,
    describe,
    fewest_seeds,
    plan_power,
    scaled_spread,
    variance_parts,
)
from recap.compare.resampling import CrossedTable, crossed_spread
from recap.config.experiment import experiment_from_files
from recap.config.jobs import JobWiring
from recap.config.wiring import Wiring
from recap.errors import RecapError
from recap.settings import CompareSettings

ROOT = Path(__file__).parents[3]


def simulate(
    rng: np.random.Generator, parts: Parts, images: int, seeds: int, effect: float = 0.0
) -> CrossedTable:
    sums = effect + np.sqrt(parts.image) * rng.normal(size=(1, images))
    sums = sums + np.sqrt(parts.noise) * rng.normal(size=(seeds, images))
    sums = sums + np.sqrt(parts.seed) * rng.normal(size=(seeds, 1))
    return CrossedTable(sums=sums, sizes=np.ones(images))


def test_parts_are_found_again_in_a_pilot() -> None:
    truth = Parts(image=4.0, noise=9.0, seed=0.5)
    rng = np.random.default_rng(1)
    found = [variance_parts(crossed_spread(simulate(rng, truth, 200, 6))) for _ in range(300)]
    for name in ("image", "noise", "seed"):
        values = [getattr(parts, name) for parts in found]
        assert np.median(values) == pytest.approx(getattr(truth, name), rel=0.12)


@pytest.mark.parametrize("seeds", [2, 3, 6])
@pytest.mark.parametrize("seed_variance", [0.0, 0.5])
def test_plan_for_the_pilots_own_design_is_what_its_report_says(
    seeds: int, seed_variance: float
) -> None:
    truth = Parts(image=4.0, noise=9.0, seed=seed_variance)
    rng = np.random.default_rng(seeds)
    for _ in range(3):
        spread = crossed_spread(simulate(rng, truth, 150, seeds))
        again = scaled_spread(variance_parts(spread), images=150, seeds=seeds)
        effects = [minimum_detectable_effect(s, alpha=0.05, power=0.8)[0] for s in (spread, again)]
        assert effects[0] == pytest.approx(effects[1], rel=1e-6)


@pytest.mark.parametrize(("images", "seeds"), [(120, 3), (400, 5)])
def test_planned_effect_is_found_at_the_stated_power(images: int, seeds: int) -> None:
    truth = Parts(image=1.0, noise=4.0, seed=0.05)
    spread = scaled_spread(truth, images=images, seeds=seeds)
    effect, _ = minimum_detectable_effect(spread, alpha=0.05, power=0.8)
    rng = np.random.default_rng(images)
    found = 0
    for _ in range(500):
        table = simulate(rng, truth, images, seeds, effect)
        found += crossed_p_value(table.mean, crossed_spread(table)) < 0.05
    assert found / 500 == pytest.approx(0.8, abs=0.075)


def test_seeds_alone_give_the_power_of_the_noncentral_t() -> None:
    seeds, deviation = 5, 1.0
    spread = scaled_spread(Parts(image=0.0, noise=0.0, seed=deviation**2), images=1000, seeds=seeds)
    effect, _ = minimum_detectable_effect(spread, alpha=0.05, power=0.8)
    shift = effect / deviation * np.sqrt(seeds)
    power = stats.nct.sf(stats.t.isf(0.025, seeds - 1), seeds - 1, shift)
    assert power == pytest.approx(0.8, abs=0.01)


def test_many_seeds_that_agree_leave_the_normal_power_of_images() -> None:
    spread = scaled_spread(Parts(image=1.0, noise=0.0, seed=0.0), images=5000, seeds=4)
    effect, _ = minimum_detectable_effect(spread, alpha=0.05, power=0.8)
    expected = (stats.norm.isf(0.025) + stats.norm.ppf(0.8)) / np.sqrt(5000)
    assert effect == pytest.approx(expected, rel=2e-3)


def test_more_seeds_and_more_questions_never_need_a_larger_effect() -> None:
    parts = Parts(image=2.0, noise=5.0, seed=0.1)
    effects = [
        [
            minimum_detectable_effect(
                scaled_spread(parts, images=images, seeds=seeds), alpha=0.05, power=0.8
            )[0]
            for seeds in (2, 3, 5, 10)
        ]
        for images in (100, 400, 1600)
    ]
    assert (np.diff(effects, axis=0) < 0).all()
    assert (np.diff(effects, axis=1) < 0).all()


def test_fewest_seeds() -> None:
    assert fewest_seeds({2: 9.0, 3: 4.0, 5: 2.0}, 4.0) == 3
    assert fewest_seeds({2: 9.0, 3: 4.0, 5: 2.0}, 1.0) is None


def pilot(folder: Path, seeds: tuple[int, ...] = (1, 2)) -> Path:
    Experiment(folder, seeds=seeds, effect=0.3).write()
    (folder / "compare").mkdir()
    (folder / "comparison_inputs.json").rename(folder / "compare/comparison_inputs.json")
    return folder


def test_plan_of_a_pilot(tmp_path: Path) -> None:
    folder = pilot(tmp_path)
    plan = plan_power(folder, 5.0, None, CompareSettings())
    (arm,) = plan["arms"]
    assert arm["arm"] == "blip2_enhanced"
    assert [row["questions"] for row in arm["designs"]] == [30, 60, 120, 240]
    for row in arm["designs"]:
        assert row["fewest_seeds"] == next(
            (int(s) for s, v in row["detectable_by_seeds"].items() if v <= 5.0), None
        )
    with pytest.raises(RecapError, match="no benchmark gqa"):
        plan_power(folder, 5.0, "gqa", CompareSettings())


def with_costs(folder: Path, answers: dict[str, int] | None = None, **training: float) -> Path:
    """Add the pilot's jobs, labelled by the wiring of an experiment of two arms and seeds.

    A training of both stages takes half an hour on two devices, an answer file, with
    its control's, 6 minutes.
    """
    path = pilot(folder) / "compare/comparison_inputs.json"
    document = json.loads(path.read_text())
    figures = {
        "train": {"wall_seconds": 900.0, "world_size": 2, "gpu": "H100"} | training,
        "predict": {"wall_seconds": 180.0, "gpu": "H100"} | (answers or {}),
        "other": {"wall_seconds": 1e6},
    }
    for name, content in figures.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    document["perf"] = [
        entry | {"path": str(folder / f"{_kind(entry)}.json")} for entry in wired_jobs()
    ]
    path.write_text(json.dumps(document))
    return folder


def wired_jobs() -> list[dict[str, Any]]:
    """Return the jobs of the demo with two arms and seeds, a control and a released model."""
    experiment = experiment_from_files("demo", ROOT)
    values = {
        "arms": ["baseline", "blip2_enhanced"],
        "seeds": [1, 2],
        "benchmarks": ["textvqa_ocr", "textvqa_ocr_smoke"],
        "controls": ["blank_image"],
        "evaluation_shards": 1,
    }
    changed = replace(experiment, config=experiment.config.model_copy(update=values))
    released = {"label": "predict mgm-2b.textvqa_ocr.1_0", "stage": "positive_control", "arms": []}
    return [*JobWiring(Wiring(changed)).entries(), released]


def _kind(job: dict[str, Any]) -> str:
    if job["stage"] in ("pretrain", "finetune"):
        return "train"
    return "predict" if re.search(r"seed\d\.textvqa_ocr\.", job["label"]) else "other"


def test_hours_are_of_training_and_answers_of_both_arms(tmp_path: Path) -> None:
    plan = plan_power(with_costs(tmp_path), 30.0, None, CompareSettings())
    assert plan["cost_of_a_run"] == {
        "training_hours": pytest.approx(1.0),
        "answering_hours": pytest.approx(0.1),
        "device": "GPU",
    }
    (arm,) = plan["arms"]
    enough = [row for row in arm["designs"] if row["fewest_seeds"]]
    assert enough
    for row in enough:
        # 60 questions in the pilot; their answers grow with them, training doesn't.
        a_run = 1.0 + 0.1 * row["questions"] / 60
        assert row["hours"] == pytest.approx(2 * row["fewest_seeds"] * a_run)
    assert arm["cheapest"]["hours"] == min(row["hours"] for row in enough)
    assert "GPU hours of training and answering for both arms" in describe(plan)[-1]


def test_training_that_went_on_after_a_kill_is_counted_whole(tmp_path: Path) -> None:
    folder = with_costs(tmp_path, updates=10, resumed_from_update=30)
    cost = plan_power(folder, 30.0, None, CompareSettings())["cost_of_a_run"]
    assert cost["training_hours"] == pytest.approx(4.0)


def test_training_that_had_no_update_left_says_nothing_of_its_cost(tmp_path: Path) -> None:
    folder = with_costs(tmp_path, updates=0, resumed_from_update=40)
    assert plan_power(folder, 30.0, None, CompareSettings())["cost_of_a_run"] is None
    path = folder / "compare/comparison_inputs.json"
    document = json.loads(path.read_text())
    first = next(job for job in document["perf"] if job["label"].startswith("finetune"))
    first["path"] = str(folder / "whole.json")
    whole = {"wall_seconds": 900.0, "world_size": 2, "gpu": "H100", "updates": 40}
    (folder / "whole.json").write_text(json.dumps(whole))
    path.write_text(json.dumps(document))
    cost = plan_power(folder, 30.0, None, CompareSettings())["cost_of_a_run"]
    assert cost["training_hours"] == pytest.approx(1.0)


def test_answering_that_went_on_after_a_kill_is_counted_whole(tmp_path: Path) -> None:
    folder = with_costs(tmp_path, {"items": 10, "resumed_answers": 30})
    cost = plan_power(folder, 30.0, None, CompareSettings())["cost_of_a_run"]
    assert cost["answering_hours"] == pytest.approx(0.4)


def test_cost_that_was_not_recorded_is_not_made_up(tmp_path: Path) -> None:
    plan = plan_power(pilot(tmp_path), 30.0, None, CompareSettings())
    assert plan["cost_of_a_run"] is None
    assert {row["hours"] for row in plan["arms"][0]["designs"]} == {None}
    assert not any("hours" in line for line in describe(plan))


def test_effects_are_those_of_the_pilots_family(tmp_path: Path) -> None:
    """With two benchmarks the level is halved, as in the report of the pilot."""
    found = {}
    for names in (("textvqa_ocr",), ("textvqa_ocr", "textvqa_noocr")):
        folder = tmp_path / str(len(names))
        folder.mkdir()
        Experiment(folder, seeds=(1, 2, 3), effect=0.3, benchmarks=names).write()
        (folder / "compare").mkdir()
        (folder / "comparison_inputs.json").rename(folder / "compare/comparison_inputs.json")
        plan = plan_power(folder, 5.0, "textvqa_ocr", CompareSettings())
        designs = plan["arms"][0]["designs"]
        found[plan["comparisons"]] = [r["detectable_by_seeds"]["3"] for r in designs]
    for one, two in zip(found[1], found[2], strict=True):
        assert 1.02 < two / one < 2.0


def test_a_pilot_of_one_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecapError, match="cannot show how much seeds differ"):
        plan_power(pilot(tmp_path, seeds=(1,)), 2.0, None, CompareSettings())


def test_command_line_says_the_need_in_words(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/plan_power.py"), "--pilot", str(pilot(tmp_path))]
    done = subprocess.run(
        [*command, "--effect", "50"], env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "blip2_enhanced against baseline, 60 questions: 50 points need" in done.stderr
    wrong = subprocess.run(
        [*command, "--effect", "0"], env=os.environ, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2 and "above 0 points" in wrong.stderr
