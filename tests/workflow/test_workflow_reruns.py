"""Rerun precision: what a change invalidates, read from dry runs of the finished demo."""

import shutil

import pytest

from recap.io import read_json

from .conftest import Project

pytestmark = pytest.mark.workflow

DATA = {
    "validate_corpus",
    "split_shard",
    "measure_shard",
    "select_shard",
    "caption_shard",
    "apply_caption_policy",
    "measure_arm_shard",
    "select_arm_shard",
    "merge_arm",
    "convert_llava",
}
TRAIN = {"pretrain", "finetune", "check_lora_model", "merge_lora_weights", "check_parity"}
ANSWER = {"predict_shard", "gather_answers", "score_answers"}
COMPARE = {"compare_runs", "build_report"}


def test_a_threshold_recomputes_no_statistics_and_no_captions(demo):
    with demo.edited("config/recipes/blip2_30k.yaml", "max_num: 60", "max_num: 59"):
        jobs = set(demo.plan())
    assert "select_arm_shard" in jobs
    assert not jobs & {"measure_shard", "measure_arm_shard", "caption_shard", "select_shard"}


def test_a_threshold_before_captioning_measures_nothing_again(demo):
    with demo.edited("config/recipes/basic.yaml", "max_len: 200", "max_len: 199"):
        jobs = set(demo.plan())
    assert "select_shard" in jobs
    assert "measure_shard" not in jobs
    assert not jobs & {"validate_corpus", "split_shard", "build_micro_model"}


def test_a_narrower_filter_takes_every_caption_from_the_store(demo, tmp_path):
    """The captioner's job runs again, but no image goes through the model."""
    copy = Project(shutil.copytree(demo.path, tmp_path / "copy", symlinks=True))
    perf = "results/demo/perf/caption_shard/demo.basic.blip2-micro.00000.json"
    before = read_json(copy.path / perf)
    with copy.edited("config/recipes/basic.yaml", "max_len: 200", "max_len: 100"):
        copy.run("snakemake", "--profile", "profiles/default", "--", perf)
    after = read_json(copy.path / perf)
    assert before["captioned"] > 0
    assert after["captioned"] == 0
    assert 0 < after["from_store"] < before["captioned"]


def test_a_caption_prompt_leaves_the_original_text_alone(demo):
    with demo.edited(
        "config/experiments/demo.yaml", "caption:\n", 'caption:\n  prompt: "a photo of"\n'
    ):
        plan = demo.plan()
    jobs = set(plan)
    assert {"caption_shard", "measure_arm_shard", "pretrain"} <= jobs
    assert not jobs & {"validate_corpus", "split_shard", "measure_shard", "select_shard"}
    touched = {w for rule in ("measure_arm_shard", "select_arm_shard") for w in plan[rule]}
    assert not any("filtered_only" in wildcards for wildcards in touched)


def test_an_evaluation_setting_recomputes_no_training(demo):
    with demo.edited("config/experiments/demo.yaml", "evaluate:\n", "evaluate:\n  batch_size: 5\n"):
        jobs = set(demo.plan())
    assert jobs >= ANSWER
    assert not jobs & (DATA | TRAIN)


def test_a_plot_setting_redoes_only_the_report(demo):
    assert set(demo.plan("--config", "report={image_width: 99}")) == {"build_report"}


def test_an_added_arm_runs_only_that_arm(demo):
    with (
        demo.edited(
            "config/experiments/demo.yaml",
            "arms: [baseline, blip2_enhanced]",
            "arms: [baseline, blip2_enhanced, filtered_only]",
        ),
        demo.edited(
            "config/experiments/demo.yaml", "funnel_arms: [filtered_only]", "funnel_arms: []"
        ),
    ):
        plan = demo.plan()
    assert {"pretrain", "predict_shard"} <= set(plan)
    for rule, jobs in plan.items():
        if rule not in COMPARE | {"list_comparison_inputs"}:
            assert all("arm=filtered_only" in wildcards for wildcards in jobs), rule


def test_an_added_control_asks_only_under_that_control(demo):
    with demo.edited(
        "config/config.yaml", "controls: [blank_image]", "controls: [blank_image, shuffled_images]"
    ):
        plan = demo.plan()
    assert set(plan) >= ANSWER
    for rule, jobs in plan.items():
        if rule not in COMPARE | {"list_comparison_inputs"}:
            assert all("control=.shuffled_images" in wildcards for wildcards in jobs), rule


def test_an_added_twin_trains_again_and_curates_nothing(demo):
    with demo.edited(
        "config/experiments/demo.yaml",
        "arms: [baseline, blip2_enhanced]",
        "arms: [baseline, blip2_enhanced, baseline_again]",
    ):
        plan = demo.plan()
    assert not set(plan) & DATA
    for rule, jobs in plan.items():
        if rule not in COMPARE | {"list_comparison_inputs"}:
            assert all("arm=baseline_again" in wildcards for wildcards in jobs), rule


def test_an_added_seed_runs_only_that_seed(demo):
    with demo.edited("config/experiments/demo.yaml", "seeds: [1, 2]", "seeds: [1, 2, 3]"):
        plan = demo.plan()
    for rule, jobs in plan.items():
        if rule not in COMPARE | {"list_comparison_inputs"}:
            assert all("seed=3" in wildcards for wildcards in jobs), rule


@pytest.mark.parametrize(
    "path",
    ["scripts/recap/curate/measure.py", "scripts/measure_shard.py", "scripts/train_stage.py"],
)
def test_a_comment_in_the_code_reruns_nothing(demo, path):
    with demo.edited(path, '"""', '# A comment.\n"""'):
        assert demo.plan() == {}


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("score", {"gather_answers", "score_answers"} | COMPARE),
        ("predict", ANSWER | COMPARE),
        ("merge", TRAIN - {"pretrain", "finetune"} | ANSWER | COMPARE),
        ("train", TRAIN | ANSWER | COMPARE),
        ("report", {"build_report", "build_gallery"}),
    ],
)
def test_a_stage_version_reruns_exactly_that_stage_onward(demo, stage, expected):
    with demo.edited("scripts/recap/versions.py", f'"{stage}": 1', f'"{stage}": 2'):
        assert set(demo.plan()) == expected


def test_a_touched_input_with_the_same_content_reruns_nothing(demo):
    (demo.path / "resources/worlds/demo/sft.json").touch()
    assert demo.plan() == {}


def test_changed_instruction_data_redo_stage_two_onward(demo):
    with demo.edited("resources/worlds/demo/sft.json", "[", "[ "):
        jobs = set(demo.plan())
    assert jobs == TRAIN - {"pretrain"} | ANSWER | COMPARE


def test_broken_configuration_stops_before_any_job(demo):
    with demo.edited("config/experiments/demo.yaml", "evaluation_shards: 3", "evaluation_shard: 3"):
        result = demo.run("snakemake", "--profile", "profiles/default", "--dry-run", check=False)
    assert result.returncode != 0
    assert "`evaluation_shard`: unknown key" in result.stdout + result.stderr


@pytest.mark.parametrize(("experiment", "jobs"), [("blip2_30k", 150), ("full_400k", 600)])
def test_the_real_experiments_plan_completely(demo, experiment, jobs):
    plan = demo.plan("--config", f"experiment={experiment}")
    assert sum(map(len, plan.values())) >= jobs
    assert {"fetch_model", "import_file", "caption_shard", "finetune", "build_report"} <= set(plan)
