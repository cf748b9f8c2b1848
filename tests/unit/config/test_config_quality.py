"""Which arms' captions are measured, scored and compared, and with what."""

from pathlib import Path

import pytest
from test_config_experiments import raw_config

from recap.compare.inputs import ComparisonInputs
from recap.config import load_experiment
from recap.config.comparison import ComparisonWiring
from recap.config.wiring import Wiring

ARMS = "results/demo_full/arms"


@pytest.fixture(scope="module")
def wiring():
    return Wiring(load_experiment(raw_config("demo_full")))


def test_every_arm_that_recaptions_is_scored(wiring):
    scored = {arm for arm in wiring.experiment.arms if wiring.quality_similarity(arm)}
    assert scored == {"blip2_enhanced", "blip2_low_similarity", "mixed"}
    tables = {arm: wiring.quality_similarity(arm) for arm in scored}
    shards = wiring.shards("demo")
    assert all(len(paths) == len(shards) for paths in tables.values())
    # One captioner on one selection of records: scored once for all three.
    assert len({path for paths in tables.values() for path in paths}) == len(shards)


def test_each_arm_with_data_of_its_own_is_compared_with_the_reference(wiring):
    found = {arm: wiring.quality_differences(arm) for arm in wiring.experiment.arms}
    assert found.pop("baseline") is None
    assert found.pop("baseline_again") is None
    assert all(path == f"{ARMS}/{arm}/quality_differences.json" for arm, path in found.items())
    assert len(found) == 5


def test_arms_of_another_corpus_have_no_common_ids(tmp_path):
    raw = raw_config("demo_full")
    sheet = tmp_path / "arms.tsv"
    text = Path(raw["sheets"]["arms"]).read_text(encoding="utf-8")
    for arm in ("filtered_only", "random_control"):
        text = text.replace(f"{arm}\t\tbasic", f"{arm}\tclean\tbasic")
    sheet.write_text(text)
    raw["sheets"]["arms"] = str(sheet)
    raw["worlds"]["clean"] = {}
    wiring = Wiring(load_experiment(raw))
    assert wiring.quality_differences("filtered_only") is None
    assert wiring.quality_differences("mixed")


def test_the_report_reads_what_was_measured(wiring):
    comparison = ComparisonWiring(wiring)
    files = comparison.quality()
    assert f"{ARMS}/baseline/quality.json" in files
    assert sum(path.endswith("quality_differences.json") for path in files) == 5
    assert len(files) == len(set(files)) == 11
    assert not set(files) & set(comparison.results())
    inputs = ComparisonInputs.model_validate(comparison.document())
    twin = next(arm for arm in inputs.arms if arm.identical_to)
    assert twin.quality is None
    assert inputs.settings["quality"]["token_budget"] == 200


def test_scoring_is_among_the_costs_of_every_recaptioning(wiring):
    labels = [entry["label"] for entry in ComparisonWiring(wiring).document()["perf"]]
    assert labels.count("similarity blip2-micro shard 00000") == 1
