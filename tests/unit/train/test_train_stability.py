"""Spikes, convergence and variation against values worked out by hand."""

import pytest

from recap.train.stability import convergence, is_spike, smoothed, stability, variation
from recap.train.telemetry import Telemetry


def row(step: int, loss: float, norm: float = 1.0) -> dict:
    return {"step": step, "loss": loss, "grad_norm": norm}


def test_a_spike_is_six_deviations_above_the_median() -> None:
    # median 10, absolute deviations 1 1 1 1 1 1 1 1: the bound is 10 + 6 * 1.4826
    before = [9.0, 11.0] * 4
    assert not is_spike(before, 18.89)
    assert is_spike(before, 18.90)
    assert not is_spike(before, 0.1)


def test_a_steady_loss_spikes_a_fifth_above() -> None:
    assert not is_spike([5.0] * 8, 6.0)
    assert is_spike([5.0] * 8, 6.01)
    assert not is_spike([5.0] * 7, 60.0), "seven losses are no history"


def test_only_the_last_32_losses_count() -> None:
    falling = [100.0] * 40 + [1.0] * 32
    assert is_spike(falling, 1.3)
    assert not is_spike(falling[:-16], 1.3)


def test_convergence_is_the_last_entry_into_the_band() -> None:
    # fewer than 20 values are smoothed over one: the band is [0.95, 1.05]
    assert convergence([1, 2, 3, 4, 5, 6], [4.0, 1.04, 1.2, 1.04, 0.96, 1.0]) == 4
    assert convergence([10, 20], [3.0, 1.0]) == 20
    assert convergence([1, 2, 3], [2.0, 2.0, 2.0]) == 1


def test_smoothing_is_over_a_tenth() -> None:
    values = [float(v) for v in range(20)]
    assert smoothed(values)[:3] == [0.0, 0.5, 1.5]
    assert smoothed(values)[-1] == 18.5


def test_variation_is_of_the_later_half() -> None:
    # mean 4, deviations -2 and 2: sqrt(4) / 4
    assert variation([900.0, 7.0, 2.0, 6.0]) == pytest.approx(0.5)
    assert variation([0.0, 0.0]) == 0.0


def test_telemetry_marks_spikes_and_never_thins_them_out(tmp_path) -> None:
    telemetry = Telemetry(tmp_path)
    for step in range(1, 13):
        telemetry.append(row(step, 20.0 if step == 10 else 5.0))
    assert [r["step"] for r in telemetry.rows if r["spike"]] == [10]
    telemetry.write(tmp_path / "thin.jsonl", every=8)
    text = (tmp_path / "thin.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in text] == [
        *('{"step": 1', '{"step": 8', '{"step": 10', '{"step": 12')
    ]
    numbers = stability(telemetry.rows)
    assert numbers == {
        "updates": 12,
        "final_loss": 5.0,
        "updates_to_convergence": 11,
        "grad_norm_variation": 0.0,
        "spikes": 1,
    }
