"""Which jobs measure their cost, for which arms, and which files say that a stage is done."""

from collections import Counter

from recap.config.experiment import experiment_from_files
from recap.config.jobs import JobWiring
from recap.config.stages import stage_files
from recap.config.wiring import Wiring

PERF = "results/demo/perf"


def test_jobs_of_the_demo_counted_by_hand():
    """Three shards, three seeds, three arms of which one repeats another, one arm curated only."""
    entries = JobWiring(Wiring(experiment_from_files("demo"))).entries()
    paths = [entry["path"] for entry in entries]
    assert len(paths) == len(set(paths))
    assert Counter(entry["stage"] for entry in entries) == {
        "measure_shard": 3,
        "caption_shard": 3,
        "score_similarity": 3,
        "measure_arm_shard": 6,
        "measure_quality": 3,
        "compare_quality": 2,
        "pretrain": 9,
        "finetune": 9,
        "check_parity": 9,
        "predict_shard": 18,
    }
    arms = {entry["path"]: entry["arms"] for entry in entries}
    assert arms[f"{PERF}/measure_shard/demo.basic.00000.json"] == [
        "baseline",
        "blip2_enhanced",
        "filtered_only",
    ]
    assert arms[f"{PERF}/caption_shard/demo.basic.blip2-micro.00002.json"] == ["blip2_enhanced"]
    assert arms[f"{PERF}/pretrain/baseline_again.seed3.json"] == ["baseline_again"]


def test_a_recipe_in_steps_has_a_file_a_step():
    wiring = Wiring(experiment_from_files("strict_30k"))
    entries = JobWiring(wiring).entries()
    stages = {entry["stage"] for entry in entries}
    assert "measure_step_shard" in stages
    assert "hash_shard" in stages
    assert all(entry["arms"] for entry in entries)


def test_stages_are_in_the_order_of_the_flow():
    stages = stage_files(Wiring(experiment_from_files("smoke")))
    names = list(stages)
    order = ["validate_corpus", "caption_shard", "convert_llava", "pretrain", "finetune"]
    order += ["merge_lora_weights", "predict_shard", "score_answers", "compare_runs"]
    assert [name for name in names if name in order] == order
    assert names[-1] == "build_report"
    assert len(stages["predict_shard"]) == 16
    assert all(files for files in stages.values())
    for files in stages.values():
        assert len(files) == len(set(files))
