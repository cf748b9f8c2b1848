"""The comparison document: verdicts on planted effects, contract, schema, determinism."""

import json
from pathlib import Path
from typing import Any

import pytest
from compare_experiment import Experiment
from jsonschema import Draft202012Validator

from recap.compare.comparison import compare
from recap.compare.evaluation_report import evaluation_report
from recap.compare.inputs import load_inputs
from recap.compare.verdicts import decide, headline, verdict_line
from recap.errors import GateError, RecapError
from recap.io import dump_json
from recap.settings import CompareSettings

FAST = CompareSettings(bootstrap_samples=300, permutation_samples=400)
SCHEMA = Path(__file__).parents[3] / "config" / "schemas" / "comparison.schema.json"
REPORT_SCHEMA = SCHEMA.with_name("evaluation_comparison_report.schema.json")


def run(experiment: Experiment) -> dict[str, Any]:
    return compare(load_inputs(experiment.write()), FAST)[0]


def test_planted_effect_is_found_and_its_size_is_right(tmp_path: Path) -> None:
    document = run(Experiment(tmp_path, questions=400, effect=0.3, seeds=(1, 2, 3)))
    (row,) = document["comparisons"]
    assert row["verdict"] == "better"
    # A wrong answer (60 of 100) is turned right with a chance of 0.3.
    assert row["interval"][0] < 18 < row["interval"][1]
    assert row["changed_answers"]["gained"] == row["changed_answers"]["count"] > 0
    assert row["changed_answers"]["lost"] == row["mcnemar"]["only_reference"] == 0
    assert "blip2_enhanced is better than baseline on textvqa_ocr" in document["headline"]


def test_no_effect_is_not_distinguishable_and_the_limit_is_stated(tmp_path: Path) -> None:
    document = run(Experiment(tmp_path, effect=0.01))
    (row,) = document["comparisons"]
    assert row["verdict"] == "not distinguishable"
    assert f"{row['minimum_detectable_effect']:.2f} points" in document["headline"]


def test_twin_gives_the_noise_floor_and_stays_out_of_the_family(tmp_path: Path) -> None:
    document = run(Experiment(tmp_path, effect=0.3, twin=True))
    ordinary, twin = document["comparisons"]
    assert twin["identical_pair"]
    assert twin["difference"] == twin["changed_answers"]["count"] == 0
    assert ordinary["noise_floor"] == document["benchmarks"][0]["noise_floor"] == 0
    assert ordinary["p_adjusted"] == ordinary["p_value"]
    assert "baseline_twin" not in document["headline"]
    assert "both gave the same 120 answers" in twin["sentence"]


def test_the_reports_head_is_about_the_first_pair_that_is_no_twin(tmp_path: Path) -> None:
    arms = ["baseline", "baseline_twin", "blip2_enhanced"]
    inputs = load_inputs(Experiment(tmp_path, effect=0.3, arms=arms).write())
    document, scores = compare(inputs, FAST)
    metrics = evaluation_report(document, scores, inputs)["comparison_metrics"]
    twin, ordinary = metrics["pairs"]
    assert (twin["arm"], ordinary["arm"]) == ("baseline_twin", "blip2_enhanced")
    assert metrics["answer_consistency"] == ordinary["answer_consistency"] < 1
    assert metrics["diversity_improvement"] == ordinary["diversity_improvement"]


def test_holm_covers_benchmarks_and_arms(tmp_path: Path) -> None:
    names = ("textvqa_ocr", "textvqa_noocr")
    document = run(Experiment(tmp_path, effect=0.3, benchmarks=names))
    raw = sorted(row["p_value"] for row in document["comparisons"])
    adjusted = sorted(row["p_adjusted"] for row in document["comparisons"])
    assert adjusted == pytest.approx([2 * raw[0], max(2 * raw[0], raw[1])])


@pytest.mark.parametrize(
    ("seeds", "text"), [((1,), "variance between seeds is unknown"), ((1, 2), "from 2 values")]
)
def test_few_seeds_are_admitted(tmp_path: Path, seeds: tuple[int, ...], text: str) -> None:
    document = run(Experiment(tmp_path, seeds=seeds))
    assert text in document["scope"]
    line = verdict_line(document)
    assert text in line
    assert "Stand-in models" in line
    assert "\n" not in line
    deviations = [arm["seed_standard_deviation"] for arm in document["benchmarks"][0]["arms"]]
    assert all((value is None) == (len(seeds) == 1) for value in deviations)


@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize("seeds", [(7,), (1, 2, 3)])
def test_document_is_valid_and_the_same_twice(
    tmp_path: Path, twin: bool, seeds: tuple[int, ...]
) -> None:
    path = Experiment(tmp_path, seeds=seeds, twin=twin, effect=0.2).write()
    first, second = (compare(load_inputs(path), FAST)[0] for _ in range(2))
    assert dump_json(first) == dump_json(second)
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    errors = list(Draft202012Validator(schema).iter_errors(json.loads(dump_json(first))))
    assert not errors


def test_schema_refuses_what_is_not_a_comparison(tmp_path: Path) -> None:
    validator = Draft202012Validator(json.loads(SCHEMA.read_text()))
    document = run(Experiment(tmp_path))
    assert not validator.is_valid(document | {"simulated": True})
    assert not validator.is_valid({**document, "extra": 1})
    document["comparisons"][0]["verdict"] = "great"
    assert not validator.is_valid(document)


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("train.manifest.json", lambda m: m["details"].update(ids_sha256="x"), "ids, in order"),
        ("train.manifest.json", lambda m: m["details"].update(questions_sha256="x"), "question of"),
        ("train.manifest.json", lambda m: m["details"].pop("images_sha256"), "not recorded"),
        ("pretrain", lambda m: m["counts"].update(updates=9), "pretrain: optimizer updates"),
        ("pretrain", lambda m: m["settings"].update(micro_batch_size=4), "micro-batch"),
        ("finetune", lambda m: m["settings"].update(global_batch_size=4), "global batch"),
        ("finetune", lambda m: m["inputs"]["data"].update(sha256="x"), "instruction data"),
    ],
)
def test_violated_contract_is_named_and_stops(
    tmp_path: Path, file: str, change: Any, named: str
) -> None:
    experiment = Experiment(tmp_path)
    path = experiment.write()
    manifest = (
        f"arms/blip2_enhanced/{file}"
        if file.startswith("train")
        else f"runs/blip2_enhanced/seed1/{file}/manifest.json"
    )
    experiment.edit(manifest, change)
    with pytest.raises(GateError, match=named) as caught:
        compare(load_inputs(path), FAST)
    assert "blip2_enhanced" in str(caught.value)


def test_other_seeds_break_the_contract(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    path = experiment.write()
    experiment.edit(path.name, lambda d: d["runs"].pop())
    with pytest.raises(GateError, match="training seeds"):
        compare(load_inputs(path), FAST)


def test_arm_without_a_manifest_cannot_prove_anything(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    path = experiment.write()
    experiment.edit(path.name, lambda d: d["arms"][1].update(dataset_manifest=None))
    with pytest.raises(GateError, match="blip2_enhanced: ids, in order is not recorded"):
        compare(load_inputs(path), FAST)


def test_declared_mismatch_is_compared_but_said(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    path = experiment.write()
    manifest = "arms/blip2_enhanced/train.manifest.json"
    experiment.edit(manifest, lambda m: m["details"].update(ids_sha256="x"))
    experiment.edit(path.name, lambda d: d["arms"][1].update(matched=False))
    document = compare(load_inputs(path), FAST)[0]
    assert not document["contract"]["ok"]
    assert not document["comparisons"][0]["matched"]


def test_twin_with_other_captions_is_no_twin(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, twin=True)
    path = experiment.write()
    manifest = "arms/baseline_twin/train.manifest.json"
    experiment.edit(manifest, lambda m: m["details"].update(captions_sha256="x"))
    with pytest.raises(GateError, match="captions of an A/A pair"):
        compare(load_inputs(path), FAST)


def test_missing_question_stops(tmp_path: Path) -> None:
    path = Experiment(tmp_path).write()
    scores = tmp_path / "eval/blip2_enhanced/seed2/textvqa_ocr/scores.jsonl"
    scores.write_text("".join(scores.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(GateError, match="seed 2 lacks 1 questions"):
        compare(load_inputs(path), FAST)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"accuracy": 99.0}, "score the run again"),
        ({"n": 3}, "score the run again"),
        ({"simulated": True}, "simulated"),
    ],
)
def test_score_file_must_agree_with_its_questions(
    tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    experiment = Experiment(tmp_path)
    path = experiment.write()
    score = "eval/baseline/seed1/textvqa_ocr/score.json"
    experiment.edit(score, lambda document: document.update(change))
    with pytest.raises(GateError, match=text):
        compare(load_inputs(path), FAST)


def test_degenerate_runs_are_named_in_the_warning(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, stand_ins=())
    path = experiment.write()
    assert compare(load_inputs(path), FAST)[0]["warning"] == ""
    score = "eval/baseline/seed2/textvqa_ocr/score.json"
    experiment.edit(score, lambda document: document.update(degenerate=True))
    warning = compare(load_inputs(path), FAST)[0]["warning"]
    assert "baseline seed 2 on textvqa_ocr" in warning
    assert "seed 1" not in warning


def test_inputs_name_what_is_missing(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    path = experiment.write()
    experiment.edit(path.name, lambda d: d["evaluations"].pop())
    with pytest.raises(RecapError, match="blip2_enhanced"):
        load_inputs(path)
    experiment.edit(path.name, lambda d: d.update(refrence="x"))
    with pytest.raises(RecapError, match="refrence"):
        load_inputs(path)


@pytest.mark.parametrize(
    ("difference", "interval", "p_value", "floor", "verdict"),
    [
        (3.0, (1.0, 5.0), 0.01, None, "better"),
        (-3.0, (-5.0, -1.0), 0.01, None, "worse"),
        (3.0, (1.0, 5.0), 0.06, None, "not distinguishable"),
        (3.0, (-0.1, 6.0), 0.01, None, "not distinguishable"),
        (3.0, (1.0, 5.0), 0.01, 3.5, "not distinguishable"),
        (3.0, (1.0, 5.0), 0.01, 2.5, "better"),
    ],
)
def test_verdict_needs_all_three(
    difference: float,
    interval: tuple[float, float],
    p_value: float,
    floor: float | None,
    verdict: str,
) -> None:
    assert decide(difference, interval, p_value, alpha=0.05, noise_floor=floor) == verdict


def test_single_arm_has_nothing_to_compare() -> None:
    assert "only arm" in headline({"comparisons": [], "reference": "baseline"})


def test_evaluation_report_has_the_old_fields_and_the_missing_ones(tmp_path: Path) -> None:
    inputs = load_inputs(Experiment(tmp_path, effect=0.3).write())
    document, scores = compare(inputs, FAST)
    report = evaluation_report(document, scores, inputs)
    models = report["evaluation_comparison"]
    assert set(models) == {"baseline_model", "blip2_enhanced_model"}
    model = models["blip2_enhanced_model"]
    old = {"results_file", "total_questions", "unique_answers", "diversity_score", "top_answers"}
    assert old | {"accuracy", "n", "interval"} <= set(model)
    assert sum(model["top_answers"].values()) <= model["total_questions"] == 60
    assert model["diversity_score"] == pytest.approx(model["unique_answers"] / 60, abs=1e-6)
    metrics = report["comparison_metrics"]
    improvement = model["diversity_score"] / models["baseline_model"]["diversity_score"] - 1
    assert metrics["diversity_improvement"] == f"{100 * improvement:+.1f}%"
    assert metrics["question_type_coverage"] == 5
    assert report["key_findings"] == [row["sentence"] for row in document["comparisons"]]
    assert report["simulated"] is False
    assert report["protocol"] == {"kind": "textvqa", "ocr_tokens": True}
    assert report["provenance"]["score_files"]


@pytest.mark.parametrize("names", [("textvqa_ocr",), ("textvqa_ocr", "textvqa_noocr")])
@pytest.mark.parametrize("twin", [False, True])
def test_evaluation_report_is_valid(tmp_path: Path, names: tuple[str, ...], twin: bool) -> None:
    inputs = load_inputs(Experiment(tmp_path, effect=0.3, twin=twin, benchmarks=names).write())
    document, scores = compare(inputs, FAST)
    report = json.loads(dump_json(evaluation_report(document, scores, inputs)))
    schema = json.loads(REPORT_SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    assert not list(Draft202012Validator(schema).iter_errors(report))
    validator = Draft202012Validator(schema)
    assert not validator.is_valid(report | {"simulated": True})
    del report["evaluation_comparison"]["baseline_model"]["accuracy"]
    assert not validator.is_valid(report)


def test_provenance_tells_weights_answers_and_questions_apart(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    path = experiment.write()
    rows = compare(load_inputs(path), FAST)[0]["provenance"]["answers"]
    assert len({row["weights_sha256"] for row in rows}) == len(rows) == 4
    assert len({row["answers_sha256"] for row in rows}) == 4
    assert len({row["questions_sha256"] for row in rows}) == 1
    assert (
        rows[0]["generation"] | {"max_new_tokens": 16, "do_sample": False} == rows[0]["generation"]
    )
    experiment.edit("runs/baseline/seed1/finetune/manifest.json", lambda m: m.pop("outputs"))
    rows = compare(load_inputs(path), FAST)[0]["provenance"]["answers"]
    assert [row["weights_sha256"] is None for row in rows] == [True, False, False, False]
