"""Rerun precision: what a change invalidates, read from dry runs of the finished smoke run."""

import shutil

import pytest

from recap.io import read_json

from .conftest import CONFIG, RESULTS, WORLD, Project

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
    "score_similarity",
    "measure_quality",
    "compare_quality",
}
QUALITY = {"measure_quality", "compare_quality", "build_report", "account_costs"}
TRAIN = {"pretrain", "finetune", "check_lora_model", "merge_lora_weights", "check_parity"}
ANSWER = {"predict_shard", "gather_answers", "score_answers"}
COMPARE = {"compare_runs", "build_report"}
# What jobs cost is added up again after those that leave figures.
AFTER = COMPARE | {"account_costs"}


def test_a_threshold_recomputes_no_statistics_and_no_captions(smoke):
    with smoke.edited("config/recipes/blip2_30k.yaml", "max_num: 60", "max_num: 59"):
        jobs = set(smoke.plan())
    assert "select_arm_shard" in jobs
    assert not jobs & {"measure_shard", "measure_arm_shard", "caption_shard", "select_shard"}


def test_a_threshold_before_captioning_measures_nothing_again(smoke):
    with smoke.edited("config/recipes/basic.yaml", "max_len: 200", "max_len: 199"):
        jobs = set(smoke.plan())
    assert "select_shard" in jobs
    assert "measure_shard" not in jobs
    assert not jobs & {"validate_corpus", "split_shard", "register_local_model"}


def test_a_narrower_filter_takes_every_caption_from_the_store(smoke, tmp_path):
    """The captioner's job runs again, but no image goes through the model."""
    copy = Project(shutil.copytree(smoke.path, tmp_path / "copy", symlinks=True))
    perf = f"{RESULTS}/perf/caption_shard/smoke.basic.blip2-micro.00000.json"
    before = read_json(copy.path / perf)
    with copy.edited("config/recipes/basic.yaml", "max_len: 200", "max_len: 100"):
        copy.snakemake("--", perf)
    after = read_json(copy.path / perf)
    assert before["captioned"] > 0
    assert after["captioned"] == 0
    assert 0 < after["from_store"] < before["captioned"]


def test_a_caption_prompt_leaves_the_original_text_alone(smoke):
    with smoke.edited(CONFIG, "worlds:\n", 'caption:\n  prompt: "a photo of"\nworlds:\n'):
        plan = smoke.plan()
    jobs = set(plan)
    assert {"caption_shard", "measure_arm_shard", "pretrain"} <= jobs
    assert not jobs & {"validate_corpus", "split_shard", "measure_shard", "select_shard"}
    touched = {w for rule in ("measure_arm_shard", "select_arm_shard") for w in plan[rule]}
    assert not any("filtered_only" in wildcards for wildcards in touched)


def test_an_evaluation_setting_recomputes_no_training(smoke):
    with smoke.edited(CONFIG, "worlds:\n", "evaluate:\n  batch_size: 5\nworlds:\n"):
        jobs = set(smoke.plan())
    assert jobs >= ANSWER
    assert not jobs & (DATA | TRAIN)


def test_what_fits_training_to_a_card_trains_nothing_again(smoke):
    """The report shows these settings, so it is made again."""
    free = "{memory_gib: 9, micro_batch_size: 4, gradient_checkpointing: true, save_steps: 3}"
    jobs = set(smoke.plan(f"train={{pretrain: {free}, finetune: {free}}}"))
    assert jobs == AFTER | {"list_comparison_inputs"}
    assert jobs < set(smoke.plan("train={pretrain: {learning_rate: 0.001}}"))


def test_a_plot_setting_redoes_only_the_report(smoke):
    assert set(smoke.plan("report={image_width: 99}")) == {"build_report"}


def test_a_quality_setting_measures_captions_again_and_nothing_else(smoke):
    assert set(smoke.plan("quality={token_budget: 100}")) == QUALITY | COMPARE | {
        "list_comparison_inputs"
    }


def test_an_added_arm_runs_only_that_arm(smoke):
    with (
        smoke.edited(
            CONFIG,
            "arms: [baseline, blip2_enhanced]",
            "arms: [baseline, blip2_enhanced, filtered_only]",
        ),
        smoke.edited(CONFIG, "funnel_arms: [filtered_only]", "funnel_arms: []"),
    ):
        plan = smoke.plan()
    assert {"pretrain", "predict_shard"} <= set(plan)
    for rule, jobs in plan.items():
        if rule not in AFTER | {"list_comparison_inputs"}:
            assert all("arm=filtered_only" in wildcards for wildcards in jobs), rule


def test_an_added_control_asks_only_under_that_control(smoke):
    with smoke.edited(
        "config/config.yaml", "controls: [blank_image]", "controls: [blank_image, shuffled_images]"
    ):
        plan = smoke.plan()
    assert set(plan) >= ANSWER
    for rule, jobs in plan.items():
        if rule not in AFTER | {"list_comparison_inputs"}:
            assert all("control=.shuffled_images" in wildcards for wildcards in jobs), rule


def test_an_added_twin_trains_again_and_curates_nothing(smoke):
    with smoke.edited(
        CONFIG,
        "arms: [baseline, blip2_enhanced]",
        "arms: [baseline, blip2_enhanced, baseline_again]",
    ):
        plan = smoke.plan()
    assert not set(plan) & DATA
    for rule, jobs in plan.items():
        if rule not in AFTER | {"list_comparison_inputs"}:
            assert all("arm=baseline_again" in wildcards for wildcards in jobs), rule


def test_an_added_seed_runs_only_that_seed(smoke):
    with smoke.edited(CONFIG, "seeds: [1, 2]", "seeds: [1, 2, 3]"):
        plan = smoke.plan()
    for rule, jobs in plan.items():
        if rule not in AFTER | {"list_comparison_inputs"}:
            assert all("seed=3" in wildcards for wildcards in jobs), rule


@pytest.mark.parametrize(
    "path",
    ["scripts/recap/curate/measure.py", "scripts/measure_shard.py", "scripts/train_stage.py"],
)
def test_a_comment_in_the_code_reruns_nothing(smoke, path):
    with smoke.edited(path, '"""', '# A comment.\n"""'):
        assert smoke.plan() == {}


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("score", {"gather_answers", "score_answers"} | COMPARE),
        ("predict", ANSWER | AFTER),
        ("merge", TRAIN - {"pretrain", "finetune"} | ANSWER | AFTER),
        ("train", TRAIN | ANSWER | AFTER),
        ("report", {"build_report", "build_gallery"}),
        ("quality", QUALITY),
        ("similarity", QUALITY | {"score_similarity", "build_gallery"}),
    ],
)
def test_a_stage_version_reruns_exactly_that_stage_onward(smoke, stage, expected):
    with smoke.raised(stage):
        assert set(smoke.plan()) == expected


def test_a_touched_input_with_the_same_content_reruns_nothing(smoke):
    (smoke.path / WORLD / "sft.json").touch()
    assert smoke.plan() == {}


def test_changed_instruction_data_redo_stage_two_onward(smoke):
    with smoke.edited(f"{WORLD}/sft.json", "[", "[ "):
        jobs = set(smoke.plan())
    assert jobs == TRAIN - {"pretrain"} | ANSWER | AFTER | {"split_instructions"}


def test_broken_configuration_stops_before_any_job(smoke):
    with smoke.edited(CONFIG, "evaluation_shards: 2", "evaluation_shard: 2"):
        code, output = smoke.dry_run()
    assert code != 0
    assert "`evaluation_shard`: unknown key" in output


@pytest.mark.parametrize(("experiment", "jobs"), [("blip2_30k", 150), ("full_400k", 600)])
def test_the_real_experiments_plan_completely(smoke, experiment, jobs):
    plan = smoke.plan(f"experiment={experiment}")
    assert sum(map(len, plan.values())) >= jobs
    assert {"fetch_model", "fetch_benchmark", "import_file", "caption_shard"} <= set(plan)
    assert {"finetune", "build_report"} <= set(plan)
