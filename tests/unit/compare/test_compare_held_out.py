"""Held-out losses: same ids for every run, mean and spread over seeds."""

from pathlib import Path

import pytest
from compare_experiment import Experiment, build_page

from recap.compare.held_out import held_out_rows
from recap.compare.inputs import load_inputs
from recap.errors import GateError


def test_mean_and_spread_by_hand(tmp_path: Path) -> None:
    rows = held_out_rows(load_inputs(Experiment(tmp_path).write()), "pretrain")
    assert [(r["style"], r["arm"]) for r in rows] == [
        ("original", "baseline"),
        ("original", "blip2_enhanced"),
        ("blip2", "baseline"),
        ("blip2", "blip2_enhanced"),
    ]
    # seeds 1 and 2 give 2.1 and 2.2, or 3.1 and 3.2: deviation 0.1 / sqrt(2)
    assert [r["loss"] for r in rows] == pytest.approx([2.15, 3.15, 2.15, 3.15])
    assert all(r["spread"] == pytest.approx(0.0707107, abs=1e-6) for r in rows)
    assert {(r["style"], r["samples"], r["tokens"], r["seeds"]) for r in rows} == {
        ("original", 24, 301, 2),
        ("blip2", 24, 211, 2),
    }


@pytest.mark.parametrize("change", [{"ids_sha256": "j"}, {"supervised_tokens": 300}])
def test_runs_that_were_asked_other_samples_are_not_compared(tmp_path: Path, change) -> None:
    experiment = Experiment(tmp_path)
    path = experiment.write()
    name = "runs/blip2_enhanced/seed2/finetune/metrics.json"
    experiment.edit(name, lambda m: m["held_out"][0].update(change))
    inputs = load_inputs(path)
    assert held_out_rows(inputs, "pretrain")
    with pytest.raises(GateError, match=r"held-out set original is not the one"):
        held_out_rows(inputs, "finetune")


def test_the_page_and_the_analysis_show_them(tmp_path: Path) -> None:
    page = build_page(Experiment(tmp_path))
    assert 'id="table-held-out-pretrain"' in page.read_text()
    text = page.with_name("training_comparison_analysis.md").read_text()
    assert "| blip2 | blip2_enhanced | 24 | 211 | 2 | 3.150 | 0.071 |" in text
