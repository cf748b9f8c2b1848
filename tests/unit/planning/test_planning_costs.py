"""Costs of a run whose figures can be added by hand."""

from pathlib import Path

import pytest

from recap.energy import gpu_energy_joules
from recap.io import read_json, write_json
from recap.perf import PerfRecord
from recap.planning.accounting import comment_key, read_accounting
from recap.planning.costs import cost_table, job_costs, predictions, write_costs

# JobIDRaw|State|ElapsedRaw|AllocTRES|WorkDir|ConsumedEnergyRaw|Comment, as sacct prints them
SACCT = """\
11|TIMEOUT|3600|billing=8,cpu=8,gres/gpu=2,mem=32G,node=1|/work|0|rule_pretrain_wildcards_exp_a_1
12|COMPLETED|1800|billing=8,cpu=8,gres/gpu=2,mem=32G,node=1|/work|360000|rule_pretrain_wildcards_exp_a_1
13|COMPLETED|60|cpu=1,mem=4G,node=1|/work||rule_predict_shard_wildcards_exp_a_1_bench_.blank_image_1_0
14|COMPLETED|500|cpu=1,gres/gpu=2|/elsewhere||rule_pretrain_wildcards_exp_a_1
15|COMPLETED|70|cpu=1|/work||
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    perf = tmp_path / "exp/perf"
    gpu = {"gpu": "H100", "world_size": 2, "gpu_peak_reserved_mib": 9000.0, "peak_rss_mib": 700.0}
    for name, seconds in (("a.seed1", 1800), ("a.seed2", 900)):
        path = perf / "pretrain" / name
        write_json(f"{path}.json", gpu | {"wall_seconds": 1.0, "gpu_energy_joules": 7.2e6})
        Path(f"{path}.tsv").write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:30:00\t800.5\n")
    # without a benchmark file, and too short for its memory to be seen
    write_json(perf / "caption_shard/corpus.basic.m.00000.json", {"wall_seconds": 36.0})
    (perf / "predict_shard").mkdir()
    (perf / "predict_shard/a.seed1.bench.blank_image.1_0.tsv").write_text("s\tmax_rss\n50\tNA\n")
    return tmp_path / "exp"


def table(results: Path, accounting=None):
    return cost_table(job_costs(results / "perf", ["a", "b"], accounting or {}))


def test_costs_add_up_by_arm_and_stage(results: Path) -> None:
    predict, train, caption = table(results)
    assert (train["arm"], train["stage"], train["jobs"]) == ("a", "pretrain", 2)
    assert train["wall_hours"] == 0.75
    assert train["gpu_hours"] == 1.5  # two cards each
    assert train["energy_kwh"] == 4.0
    assert (train["peak_rss_mib"], train["peak_gpu_mib"]) == (800.5, 9000.0)
    # what no arm owns is shared
    assert (caption["arm"], caption["wall_hours"], caption["gpu_hours"]) == ("shared", 0.01, 0.0)
    assert (predict["peak_rss_mib"], predict["energy_kwh"]) == (0.0, None)


def test_accounting_counts_the_attempts_that_failed(results: Path) -> None:
    accounting = read_accounting(SACCT, Path("/work"))
    assert len(accounting) == 2
    train = accounting[comment_key("rule_pretrain_wildcards_exp_a_1")]
    assert (train.seconds, train.gpu_seconds, train.joules) == ([3600.0, 1800.0], 10_800.0, 3.6e5)
    predict, train_row, _ = table(results, accounting)
    # 5400 s of seed 1 by SLURM, 900 s of seed 2 by its own figures
    assert train_row["wall_hours"] == 1.75
    assert train_row["gpu_hours"] == 3.5
    assert (train_row["attempts"], train_row["source"]) == (3, "perf+sacct")
    assert predict["wall_hours"] == pytest.approx(60 / 3600, abs=1e-4)


def test_the_plan_is_held_against_what_it_took(results: Path) -> None:
    plan = {
        "rules": [
            # one of the two was still to be done
            {"rule": "pretrain", "jobs": 1, "seconds": 1800.0, "measured": False},
            {"rule": "never_ran", "jobs": 1, "seconds": 5.0, "measured": False},
        ]
    }
    (row,) = predictions(plan, table(results))
    assert (row["stage"], row["jobs"]) == ("pretrain", 2)
    assert (row["predicted_hours"], row["actual_hours"], row["ratio"]) == (1.0, 0.75, 0.75)
    assert predictions(None, table(results)) == []


def test_the_files_hold_the_same_rows(results: Path) -> None:
    rows = table(results)
    write_costs(results / "costs.json", results / "costs.tsv", "exp", rows, None)
    document = read_json(results / "costs.json")
    assert document["rows"] == rows
    assert document["totals"]["gpu_hours"] == 1.5
    lines = [line.split("\t") for line in (results / "costs.tsv").read_text().splitlines()]
    assert [dict(zip(lines[0], line, strict=True))["stage"] for line in lines[1:]] == [
        *("predict_shard", "pretrain", "caption_shard"),
    ]


def test_without_a_card_there_is_no_energy(tmp_path: Path) -> None:
    assert gpu_energy_joules({"CUDA_VISIBLE_DEVICES": ""}) is None
    record = PerfRecord("stage", "things")
    record.write(tmp_path / "perf.json")
    assert "gpu_energy_joules" not in read_json(tmp_path / "perf.json")


class FakeNvml:
    """A driver with two cards that have used 5 and 7 kJ."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlShutdown(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetCount_v2(self, count) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle) -> int:  # noqa: N802
        handle._obj.value = 100 + index.value
        return 0 if index.value < 2 else 1

    def nvmlDeviceGetHandleByUUID(self, uuid, handle) -> int:  # noqa: N802
        handle._obj.value = 101
        return 0 if uuid == b"GPU-b" else 1

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, energy) -> int:  # noqa: N802
        energy._obj.value = {100: 5_000_000, 101: 7_000_000}[handle.value]
        return 0


@pytest.mark.parametrize(
    ("visible", "joules"),
    [
        ({}, 12_000.0),
        ({"CUDA_VISIBLE_DEVICES": "0"}, 5000.0),
        ({"CUDA_VISIBLE_DEVICES": "GPU-b"}, 7000.0),
        ({"CUDA_VISIBLE_DEVICES": "0, 1"}, 12_000.0),
        # half an answer would be a wrong one
        ({"CUDA_VISIBLE_DEVICES": "0,5"}, None),
    ],
)
def test_energy_is_that_of_the_jobs_own_cards(monkeypatch, visible, joules) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: FakeNvml())
    assert gpu_energy_joules(visible) == joules
