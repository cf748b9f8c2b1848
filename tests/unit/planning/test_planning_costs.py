"""Costs of a run whose figures can be added by hand."""

import csv
from pathlib import Path
from typing import Any

import pytest

from recap.compare.inputs import ComparisonInputs
from recap.energy import gpu_energy_joules
from recap.errors import RecapError
from recap.io import read_json, write_json
from recap.perf import PerfRecord
from recap.planning.accounting import comment_key, read_accounting
from recap.planning.costs import Plan, cost_document, read_plan, write_costs
from recap.planning.job_costs import job_costs

# JobIDRaw|State|ElapsedRaw|AllocTRES|WorkDir|ConsumedEnergyRaw|Comment, as sacct prints them
SACCT = """\
11|TIMEOUT|3600|billing=8,cpu=8,gres/gpu=2,mem=32G,node=1|/work|0|rule_pretrain_wildcards_exp_a_1
12|COMPLETED|1800|billing=8,cpu=8,gres/gpu=2,mem=32G,node=1|/work|360000|rule_pretrain_wildcards_exp_a_1
13|COMPLETED|60|cpu=1,mem=4G,node=1|/work||rule_predict_shard_wildcards_exp_a_1_bench_.blank_image_1_0
14|COMPLETED|500|cpu=1,gres/gpu=2|/elsewhere||rule_pretrain_wildcards_exp_a_1
15|COMPLETED|70|cpu=1|/work||
"""
# rule, job, arms, figures of its own, lines of Snakemake's benchmark
GPU = {"gpu": "H100", "world_size": 2, "gpu_peak_reserved_mib": 9000.0, "peak_rss_mib": 700.0}
JOBS: list[tuple[str, str, list[str], dict[str, Any] | None, str]] = [
    *(
        (
            *("pretrain", f"a.seed{seed}", ["a"]),
            GPU | {"wall_seconds": 500.0, "items": 800, "gpu_energy_joules": 7.2e6},
            f"s\th:m:s\tmax_rss\n{seconds}\t0:30:00\t800.5\n",
        )
        for seed, seconds in ((1, 1800), (2, 900))
    ),
    # without a benchmark file
    ("caption_shard", "corpus.basic.m.00000", ["a", "b"], {"wall_seconds": 36.0}, ""),
    # in a folder of its step
    ("map_shard", "arms/b/01_mapper.00000", ["b"], {"wall_seconds": 4.0}, ""),
    # too short for its memory to be seen
    (
        *("predict_shard", "a.seed1.bench.blank_image.1_0", ["a"], {"wall_seconds": 45.0}),
        "s\tmax_rss\n50\tNA\n",
    ),
    # rules that only Snakemake measures
    ("merge_lora_weights", "b.seed1", [], None, "s\tmax_rss\n10\t300\n"),
    ("validate_corpus", "corpus", [], None, "s\tmax_rss\n6\t200\n"),
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for stage, name, _, figures, benchmark in JOBS:
        path = tmp_path / "exp/perf" / stage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if figures is not None:
            write_json(Path(f"{path}.json"), figures)
        if benchmark:
            Path(f"{path}.tsv").write_text(benchmark)
    return tmp_path / "exp"


def document(results: Path, accounting=None, rules=None) -> dict[str, Any]:
    perf = results / "perf"
    entries = [
        {"label": name, "path": f"{perf}/{stage}/{name}.json", "stage": stage, "arms": arms}
        for stage, name, arms, figures, _ in JOBS
        if figures is not None
    ]
    score = {"benchmark": "b", "seed": 1, "score": "s", "scores": "s"}
    inputs = ComparisonInputs.model_validate(
        {
            "experiment": "exp",
            "reference": "a",
            "arms": [{"arm": "a"}, {"arm": "b"}],
            "seeds": [1],
            "benchmarks": [{"name": "b"}],
            "evaluations": [{"arm": "a", **score}, {"arm": "b", **score}],
            "perf": entries,
        }
    )
    jobs = job_costs(perf, inputs, accounting or {})
    plan = None if rules is None else Plan.model_validate({"rules": rules})
    return cost_document("exp", inputs.arm_names, jobs, plan)


def by_stage(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["stage"]: row for row in found["rows"]}


def test_costs_add_up_by_stage_and_arms(results: Path) -> None:
    found = document(results)
    rows = by_stage(found)
    assert {name: row["arms"] for name, row in rows.items()} == {
        "pretrain": ["a"],
        "caption_shard": ["a", "b"],
        "map_shard": ["b"],
        "predict_shard": ["a"],
        "merge_lora_weights": ["b"],
        "validate_corpus": [],
    }
    train = rows["pretrain"]
    assert (train["jobs"], train["seconds"], train["gpu_seconds"]) == (2, 2700.0, 5400.0)
    assert (train["joules"], train["rate"]) == (1.44e7, 1600 / 1000)
    assert (train["rss_mib"], train["gpu_mib"], train["gpus"]) == (800.5, 9000.0, ["H100"])
    assert (rows["predict_shard"]["rss_mib"], rows["predict_shard"]["joules"]) == (0.0, None)
    assert (rows["caption_shard"]["seconds"], rows["validate_corpus"]["rss_mib"]) == (36.0, 200.0)
    # caption_shard is halved; b has its merge and its mapper besides; validation is nobody's
    assert found["arms"] == [
        {"arm": "a", "seconds": 2768.0, "gpu_seconds": 5400.0, "joules": 1.44e7},
        {"arm": "b", "seconds": 32.0, "gpu_seconds": 0.0, "joules": None},
    ]
    assert found["total"] == {
        **{"jobs": 7, "attempts": 7, "seconds": 2806.0, "gpu_seconds": 5400.0, "joules": 1.44e7},
        **{"planned": None, "of_planned": 0},
    }


def test_accounting_counts_the_attempts_that_failed(results: Path) -> None:
    accounting = read_accounting(SACCT, Path("/work"))
    assert len(accounting) == 2
    train = accounting[comment_key("rule_pretrain_wildcards_exp_a_1")]
    assert (train.seconds, train.gpu_seconds, train.joules) == ([3600.0, 1800.0], 10_800.0, 3.6e5)
    rows = by_stage(document(results, accounting))
    row = rows["pretrain"]
    # 5400 s of seed 1 by SLURM, 900 s of seed 2 by its own figures; both on two cards
    assert (row["seconds"], row["gpu_seconds"]) == (6300.0, 12_600.0)
    assert (row["attempts"], row["source"]) == (3, "perf+sacct")
    # what was made was made in the time of the attempts that succeeded
    assert row["rate"] == 1600 / 1000
    assert rows["predict_shard"]["seconds"] == 60


def test_the_plan_is_held_against_what_it_took(results: Path) -> None:
    rules = [
        # one of the two was still to be done
        {"rule": "pretrain", "jobs": 1, "seconds": 1800.0, "measured": True},
        {"rule": "validate_corpus", "jobs": 2, "seconds": 24.0},
        {"rule": "never_ran", "jobs": 1, "seconds": 5.0},
    ]
    found = document(results, rules=rules)
    planned = {name: row["planned"] for name, row in by_stage(found).items()}
    assert planned == {
        **{"pretrain": 3600, "caption_shard": None, "map_shard": None, "predict_shard": None},
        **{"merge_lora_weights": None, "validate_corpus": 12},
    }
    assert (found["total"]["planned"], found["total"]["of_planned"]) == (3612, 2706)
    train, validation = found["predictions"]
    assert train == {
        **{"stage": "pretrain", "jobs": 2, "predicted_seconds": 3600, "actual_seconds": 2700},
        **{"ratio": 0.75, "measured": True},
    }
    assert (validation["ratio"], validation["measured"]) == (0.5, False)
    assert document(results)["predictions"] == []


def test_the_files_hold_the_same_rows(results: Path) -> None:
    found = document(results)
    write_costs(results / "costs.json", results / "costs.tsv", found)
    assert read_json(results / "costs.json") == found
    with (results / "costs.tsv").open() as stream:
        rows = {row["stage"]: row for row in csv.DictReader(stream, delimiter="\t")}
    assert list(rows) == [row["stage"] for row in found["rows"]]
    train, caption = rows["pretrain"], rows["caption_shard"]
    assert (train["wall_hours"], train["gpu_hours"], train["energy_kwh"]) == ("0.75", "1.5", "4.0")
    assert (caption["arms"], caption["energy_kwh"]) == ("a,b", "")


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


@pytest.mark.parametrize("text", ["{}", '{"rules": [{"rule": "x", "jobs": 1, "seconds": -1}]}'])
def test_a_broken_plan_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(RecapError, match=r"plan\.json: `rules"):
        read_plan(path)
    assert read_plan(tmp_path / "none.json") is None
