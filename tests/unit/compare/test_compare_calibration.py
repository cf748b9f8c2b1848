"""Calibration: known variances give known rates, and a wrong verdict is found out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_experiment import Experiment
from scipy import stats

from recap.compare.calibration import (
    SETTINGS,
    Plan,
    binomial_interval,
    calibrate,
    try_design,
    try_effect,
)
from recap.compare.calibration_pool import Design, StatedModel, draw, results_pool, stated_pool
from recap.compare.calibration_real import calibrate_on_runs, deal
from recap.compare.calibration_run import run_simulated
from recap.compare.calibration_tables import replace_section, simulated_tables
from recap.compare.contrast import weigh_difference
from recap.compare.resampling import CrossedTable, crossed_spread
from recap.errors import GateError, RecapError
from recap.settings import CompareSettings

SMALL = StatedModel(images=300, questions=480, runs=12)
FAST = CompareSettings(bootstrap_samples=200, permutation_samples=200)
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (1, 20), (7, 31), (50, 1000), (20, 20)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_binomial_interval_is_scipys_exact_one(hits: int, count: int, confidence: float) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(confidence, method="exact")
    assert binomial_interval(hits, count, confidence) == pytest.approx(tuple(expected))


def test_drawn_differences_have_the_stated_effect_and_seed_spread() -> None:
    pool = stated_pool(3, SMALL)
    rng = np.random.default_rng(4)
    design = Design(seeds=4, images=300, seed_sd=3.0)
    drawn = [draw(pool, design, 5.0, rng) for _ in range(300)]
    means = np.array([table.mean for table, _ in drawn])
    these = np.array([value for _, value in drawn])
    assert means.mean() == pytest.approx(5.0, abs=4 * means.std() / np.sqrt(300))
    assert these.std() == pytest.approx(3.0 * np.sqrt(2 / 4), rel=0.15)
    within = (means - these).std()
    noise = np.mean([crossed_spread(table).image_variance for table, _ in drawn])
    assert within == pytest.approx(np.sqrt(noise), rel=0.15)


def test_no_effect_and_no_spread_leave_only_the_noise_of_runs() -> None:
    """The variance between questions' answers is known from the pool itself."""
    pool = stated_pool(5, SMALL)
    rng = np.random.default_rng(6)
    tables = [draw(pool, Design(3, 300, 0.0), 0.0, rng)[0] for _ in range(300)]
    between_runs = pool.accuracy.var(axis=0).mean()
    questions = np.mean([table.sizes.sum() for table in tables])
    expected = np.sqrt(2 * between_runs / (3 * questions))
    assert np.std([table.mean for table in tables]) == pytest.approx(expected, rel=0.15)


def test_verdict_keeps_its_level_and_its_interval_covers() -> None:
    pool = stated_pool(7, SMALL)
    plan = Plan(replicates=250, seed=8)
    for design in (Design(1, 150, 0.0), Design(2, 150, 6.0), Design(3, 150, 3.0)):
        for effect in (0.0, 6.0):
            row = try_effect(pool, design, effect, plan, settings=FAST)
            assert stats.binomtest(row["covered"]["hits"], 250, 0.95, "less").pvalue > 1e-3
            if effect == 0:
                assert stats.binomtest(row["found"]["hits"], 250, 0.05, "greater").pvalue > 1e-3


def test_one_seed_covers_these_weights_but_not_the_recipe() -> None:
    pool = stated_pool(7, SMALL)
    row = try_effect(pool, Design(1, 300, 8.0), 0.0, Plan(replicates=150), settings=FAST)
    assert row["covered_weights"]["share"] > 0.9
    assert row["covered"]["share"] < 0.8


def test_power_of_one_seed_is_that_of_the_normal_distribution() -> None:
    """A known standard error gives a known power at any effect."""
    pool = stated_pool(9, SMALL)
    design = Design(1, 300, 0.0)
    effect = 5.0
    rng = np.random.default_rng(10)
    error = np.std([draw(pool, design, effect, rng)[0].mean for _ in range(600)])
    expected = stats.norm.sf(1.96 - effect / error)
    row = try_effect(pool, design, effect, Plan(replicates=300), settings=FAST)
    assert row["found"]["share"] == pytest.approx(expected, abs=0.11)
    assert 0.3 < expected < 0.95


def half_as_wide(table: CrossedTable, settings: CompareSettings, seed: int) -> dict[str, Any]:
    """A verdict function that is wrong on purpose."""
    right = weigh_difference(table, settings, seed)
    low, high = right["interval"]
    middle, half = (low + high) / 2, (high - low) / 4
    p_value = stats.norm.sf(abs(table.mean) / half * 1.96) * 2 if half > 0 else 1.0
    return right | {"interval": [middle - half, middle + half], "p_value": p_value}


def test_an_interval_of_half_the_width_is_found_out() -> None:
    pool = stated_pool(11, SMALL)
    plan = Plan(replicates=200)
    wrong = try_effect(pool, Design(1, 200, 0.0), 0.0, plan, settings=FAST, weigh=half_as_wide)
    assert wrong["found"]["interval"][0] > 0.15
    assert wrong["covered"]["interval"][1] < 0.85


def test_students_t_is_found_out_where_two_seeds_differ_somewhat() -> None:
    row = try_effect(
        stated_pool(12, SMALL), Design(2, 300, 3.0), 0.0, Plan(replicates=300), settings=FAST
    )
    assert row["student"]["interval"][0] > 0.07
    assert row["found"]["interval"][0] < 0.05


def test_same_seed_same_rows_whatever_the_number_of_processes() -> None:
    pool = stated_pool(13, SMALL)
    plan = Plan(seeds=(2,), images=(50,), seed_sds=(0.0, 2.0), replicates=6, pilots=2, seed=3)
    first = calibrate(pool, plan, jobs=1)
    assert json.dumps(first) == json.dumps(calibrate(pool, plan, jobs=2))
    other = Plan(seeds=(2,), images=(50,), seed_sds=(0.0, 2.0), replicates=6, pilots=2, seed=4)
    assert first["designs"] != calibrate(pool, other, jobs=1)["designs"]


def test_effects_beyond_the_scale_are_left_out() -> None:
    row = try_design(Design(2, 30, 10.0), stated_pool(14, SMALL), Plan(replicates=5, pilots=5))
    assert row["predicted_effect_quartiles"][1] > 40
    assert list(row["by_effect"]) == ["0"]


def test_too_many_false_positives_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(seeds=(1,), images=(100,), seed_sds=(0.0,), replicates=120, pilots=3)
    page, out = tmp_path / "page.md", tmp_path / "calibration.json"
    page.write_text(
        "before\n<!-- simulated:begin -->\nof the last run\n<!-- simulated:end -->\nafter\n"
    )
    run_simulated(None, None, plan, 1, out, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "last run" not in text
    monkeypatch.setattr(try_effect, "__kwdefaults__", {"settings": SETTINGS, "weigh": half_as_wide})
    with pytest.raises(GateError, match="told apart more often than promised: 1 seeds, 100 images"):
        run_simulated(None, None, plan, 1, out, page)


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(RecapError, match="lacks the marks"):
        replace_section(tmp_path / "page.md", "simulated", "x")


def test_pool_of_results_holds_every_run_sorted_by_image(tmp_path: Path) -> None:
    Experiment(tmp_path, seeds=(1, 2, 3)).write()
    (tmp_path / "compare").mkdir()
    (tmp_path / "comparison_inputs.json").rename(tmp_path / "compare/comparison_inputs.json")
    pool = results_pool(tmp_path, None)
    assert pool.accuracy.shape == (3, 60)
    assert pool.sizes.sum() == 60
    draw(pool, Design(2, 20, 1.0), 2.0, np.random.default_rng(1))
    with pytest.raises(RecapError, match="no benchmark gqa; it has textvqa_ocr"):
        results_pool(tmp_path, "gqa")


def test_groups_of_runs_share_nothing() -> None:
    runs = [("baseline", seed) for seed in range(23)]
    for size, expected in ((1, 11), (2, 5), (3, 3), (5, 2), (12, 0)):
        pairs = deal(runs, size, seed=1)
        used = [run for pair in pairs for group in pair for run in group]
        assert len(pairs) == expected
        assert len(set(used)) == len(used) == 2 * size * expected


def experiment_of_runs(folder: Path) -> Path:
    Experiment(folder, seeds=tuple(range(1, 7)), twin=True).write()
    (folder / "compare").mkdir()
    (folder / "comparison_inputs.json").rename(folder / "compare/comparison_inputs.json")
    for seed in range(1, 7):
        for arm in ("baseline", "blip2_enhanced", "baseline_twin"):
            path = folder / f"eval/{arm}/seed{seed}/textvqa_ocr/scores.jsonl"
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            rng = np.random.default_rng([seed, len(arm)])
            for row, right in zip(rows, rng.random(len(rows)) < 0.5, strict=True):
                row["accuracy"] = float(right)
                row["prediction"] = row["normalized"] = f"{right}"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_twins_and_seeds_of_an_arm_are_compared(tmp_path: Path) -> None:
    document = calibrate_on_runs(experiment_of_runs(tmp_path), FAST)
    assert document["families"] == {"baseline": 12, "blip2_enhanced": 6}
    pairs = {row["seeds"]: row["found"]["count"] for row in document["groups"]}
    assert pairs == {1: 9, 2: 4, 3: 3, 5: 1}
    for row in document["groups"]:
        assert row["covered"]["hits"] == sum(
            pair["interval"][0] <= 0 <= pair["interval"][1] for pair in row["pairs"]
        )
        assert 0.2 < row["observed_spread"] / row["predicted_spread"] < 3
        for pair in row["pairs"]:
            names = {name.split()[0] for name in pair["first"] + pair["second"]}
            assert names <= {"baseline", "baseline_twin"} or names == {"blip2_enhanced"}


def test_one_training_under_two_names_is_refused(tmp_path: Path) -> None:
    folder = experiment_of_runs(tmp_path)
    source = folder / "eval/baseline/seed2/textvqa_ocr/scores.jsonl"
    (folder / "eval/baseline_twin/seed2/textvqa_ocr/scores.jsonl").write_text(source.read_text())
    with pytest.raises(GateError, match="baseline seed 2 and baseline_twin seed 2 gave the same"):
        calibrate_on_runs(folder, FAST)


def test_command_line_fills_the_page_from_real_runs(tmp_path: Path) -> None:
    folder = experiment_of_runs(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("<!-- real:begin -->\n<!-- real:end -->\n")
    command = [sys.executable, str(ROOT / "scripts/calibrate.py"), "--real", str(folder)]
    command += ["--out", str(tmp_path / "c.json"), "--page", str(page)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "baseline: 12 runs" in page.read_text()
    assert json.loads((tmp_path / "c.json").read_text())["volatile"]["git_commit"]


def test_tables_are_complete(tmp_path: Path) -> None:
    plan = Plan(seeds=(1, 2), images=(500,), seed_sds=(0.0, 1.0), replicates=3, pilots=2)
    text = simulated_tables(calibrate(stated_pool(1, SMALL), plan, jobs=1))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 * (2 + 3) + 2 + 1
    assert all(line.count("|") >= 7 for line in lines)
