"""A recipe with mappers and deduplicators, before and after captioning, as the rules run it."""

import pyarrow.parquet as pq
import pytest

from recap.io import read_json, read_jsonl

from .conftest import Project, copy_repository

pytestmark = pytest.mark.workflow

EXPERIMENT = """
extends: smoke
corpus: steps
instructions: smoke
arms: [plain]
reference_arm: plain
funnel_arms: [stepped]
benchmarks: [textvqa_ocr_smoke]
sheets:
  arms: config/local/arms.tsv
corpora:
  steps: {source: world, root: smoke, jsonl: corpus.jsonl, original: original.json, records: %d}
"""
RECIPE = """
process:
  - words_num_filter: {min_num: 3}
  - remove_specific_chars_mapper: {chars_to_remove: "!?"}
  - document_deduplicator: {lowercase: true}
  - image_deduplicator:
  - text_length_filter: {max_len: 500}
"""
STEPS = {"map_shard", "hash_shard", "decide_duplicates", "drop_duplicates", "join_steps"}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A copy in which one arm has steps on both sides of captioning, and another filters alone."""
    project = copy_repository(tmp_path_factory.mktemp("steps"))
    local = project.path / "config" / "local"
    local.mkdir(exist_ok=True)
    corpus = next(
        line.split("\t")
        for line in (project.path / "config/corpora.tsv").read_text().splitlines()
        if line.startswith("smoke\t")
    )
    text = EXPERIMENT % int(next(cell for cell in corpus if cell.isdigit()))
    (local / "steps.yaml").write_text(text)
    (project.path / "config/recipes/stepped.yaml").write_text(RECIPE)
    sheet = (project.path / "config/arms.tsv").read_text().splitlines()
    head = next(line for line in sheet if line.startswith("arm\t"))
    names = head.split("\t")
    arms = [
        {"arm": "plain", "pre_recipe": "basic", "caption_policy": "keep", "description": "x"},
        {
            "arm": "stepped",
            "pre_recipe": "stepped",
            "caption_policy": "keep",
            "post_recipe": "stepped",
            "description": "x",
        },
    ]
    rows = ["\t".join(arm.get(name, "") for name in names) for arm in arms]
    (local / "arms.tsv").write_text("\n".join([head, *rows]) + "\n")
    return project


def test_only_recipes_with_steps_have_their_jobs(project):
    plan = project.plan("experiment=steps")
    assert set(plan) >= STEPS | {"measure_shard", "select_shard", "gather_funnel"}
    for rule in (*STEPS, "measure_step_shard", "select_step_shard"):
        assert all("place=arms/stepped" in w or "recipes/stepped" in w for w in plan[rule])
    for rule in ("measure_shard", "select_shard"):
        assert all("recipe=basic" in wildcards for wildcards in plan[rule])
    assert not {"measure_arm_shard", "select_arm_shard"} & set(plan)


def test_the_strict_experiment_plans_completely(project):
    plan = project.plan("experiment=strict_30k")
    counts = {rule: len(plan[rule]) for rule in ("hash_shard", "decide_duplicates", "join_steps")}
    assert counts == {"hash_shard": 9, "decide_duplicates": 3, "join_steps": 3}
    assert {"fetch_model", "finetune", "build_report"} <= set(plan)


@pytest.mark.slow
def test_steps_run_and_every_record_is_accounted_for(project):
    arm = "results/steps/arms/stepped"
    targets = [f"{arm}/funnel.{kind}" for kind in ("parquet", "json", "svg", "png")]
    project.snakemake("--", *targets, config=("experiment=steps",))
    stages = read_json(project.path / arm / "funnel.json")["stages"]
    operators = [stage["operator"] for stage in stages if stage["stage"] == "select"]
    assert operators == [
        "words_num_filter",
        "remove_specific_chars_mapper",
        "document_deduplicator",
        "image_deduplicator",
        "text_length_filter",
    ]
    rows = pq.read_table(project.path / arm / "funnel.parquet").to_pylist()
    lost = stages[0]["records_in"] - stages[-1]["records_out"]
    assert len(rows) == lost
    twins = [row for row in rows if row["duplicate_of"]]
    left = {row["id"] for row in read_jsonl(project.path / arm / "merged.jsonl")}
    assert twins
    assert all(row["id"] not in left for row in twins)
    # Nothing is left for the same recipe's deduplicators to find after captioning.
    assert all(row["step"] == "select" for row in twins)
    plan = project.plan("experiment=steps")
    assert not STEPS & set(plan)
