"""Controls in the comparison, same-size draws, A/A contract, choices of captions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_experiment import Experiment
from jsonschema import Draft202012Validator

from recap.compare.choices import caption_choice
from recap.compare.comparison import compare
from recap.compare.inputs import load_inputs
from recap.errors import GateError, RecapError
from recap.io import dump_json, read_jsonl
from recap.settings import CompareSettings

FAST = CompareSettings(bootstrap_samples=300, permutation_samples=400)
SCHEMA = Path(__file__).parents[3] / "config" / "schemas" / "comparison.schema.json"


def with_control(
    experiment: Experiment, change: Any, control: str = "blank_image", stated: str = ""
) -> Path:
    """Write the experiment and, for every run, its answers changed by ``change``."""
    path = experiment.write()
    document = json.loads(path.read_text())
    document["controls"] = []
    for item in document["evaluations"]:
        rows = read_jsonl(item["scores"])
        rows = [{**row, **change(number, row)} for number, row in enumerate(rows)]
        folder = Path(item["scores"]).parent / control
        folder.mkdir()
        scores, score = folder / "scores.jsonl", folder / "score.json"
        scores.write_text("".join(json.dumps(row) + "\n" for row in rows))
        score.write_text(json.dumps({"control": stated or control}))
        names = {key: item[key] for key in ("arm", "seed", "benchmark")}
        files = {"score": str(score), "scores": str(scores)}
        document["controls"].append({"control": control, **names, **files})
    path.write_text(json.dumps(document))
    return path


def controls_of(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    document = compare(load_inputs(path), FAST)[0]
    errors = list(Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(document))
    assert not errors
    return document, document["benchmarks"][0]["controls"]


def test_a_model_that_sees_beats_its_blank_control(tmp_path):
    wrong = {"accuracy": 0.0, "normalized": "x", "prediction": "x"}
    path = with_control(Experiment(tmp_path, questions=200, seeds=(1, 2, 3)), lambda n, row: wrong)
    document, rows = controls_of(path)
    assert [row["arm"] for row in rows] == ["baseline", "blip2_enhanced"]
    for row in rows:
        assert row["beats_control"] and not row["image_ignored"]
        assert row["accuracy"] == 0
        assert row["difference"] == pytest.approx(row["model_accuracy"])
        assert "beats its control" in row["sentence"]
    assert "Controls" not in document["warning"]
    assert document == compare(load_inputs(path), FAST)[0]


@pytest.mark.parametrize(("questions", "beaten"), [(2, False), (14, False), (16, True)])
def test_few_images_show_no_spread_and_beat_nothing(tmp_path, questions, beaten):
    """Two questions an image, each right with its picture and wrong without."""
    wrong = {"accuracy": 0.0, "normalized": "x", "prediction": "x"}
    path = with_control(Experiment(tmp_path, questions=questions), lambda n, row: wrong)
    for item in json.loads(path.read_text())["evaluations"]:
        rows = [row | {"accuracy": 1.0} for row in read_jsonl(item["scores"])]
        Path(item["scores"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        score = {"accuracy": 100, "n": questions}
        Path(item["score"]).write_text(json.dumps(score))
    document, rows = controls_of(path)
    for row in rows:
        assert (row["difference"], row["interval"], row["beats_control"]) == (100, None, beaten)
        assert f"no interval, {questions // 2} images show no spread" in row["sentence"]
    assert ("Controls" in document["warning"]) != beaten


def test_a_model_that_ignores_the_image_is_said_to(tmp_path):
    path = with_control(Experiment(tmp_path), lambda n, row: {})
    document, rows = controls_of(path)
    for row in rows:
        assert row["image_ignored"] and not row["beats_control"]
        assert row["difference"] == 0 and row["same_answers"]["count"] == 120
        assert "does not use the image" in row["sentence"]
    assert "baseline does not use the image on textvqa_ocr" in document["warning"]


def test_the_difference_is_paired_by_question_whatever_the_order(tmp_path):
    experiment = Experiment(tmp_path, questions=80)
    flip = {"accuracy": 0.0, "normalized": "x", "prediction": "x"}
    path = with_control(experiment, lambda n, row: flip if n % 4 == 0 else {})
    document = json.loads(path.read_text())
    for item in document["controls"]:
        lines = Path(item["scores"]).read_text().splitlines()
        Path(item["scores"]).write_text("\n".join(reversed(lines)) + "\n")
    (first, _) = controls_of(path)[1]
    real = [read_jsonl(e["scores"]) for e in document["evaluations"] if e["arm"] == "baseline"]
    values = np.array([[row["accuracy"] for row in rows] for rows in real])
    values[:, np.arange(80) % 4 != 0] = 0
    assert first["difference"] == pytest.approx(100 * values.mean(), abs=1e-4)


def test_one_constant_answer_serves_every_run(tmp_path):
    experiment = Experiment(tmp_path, questions=200, seeds=(1, 2, 3))
    wrong = {"accuracy": 0.0, "normalized": "red", "prediction": "red"}
    path = with_control(experiment, lambda n, row: wrong, "text_only_majority")
    document = json.loads(path.read_text())
    (only,) = document["controls"][:1]
    document["controls"] = [{**only, "arm": None, "seed": None}]
    path.write_text(json.dumps(document))
    rows = controls_of(path)[1]
    assert [row["arm"] for row in rows] == ["baseline", "blip2_enhanced"]
    assert all(row["beats_control"] for row in rows)


def test_a_missing_or_mislabelled_control_stops(tmp_path):
    path = with_control(Experiment(tmp_path), lambda n, row: {}, stated="none")
    with pytest.raises(GateError, match="made under none, not under blank_image"):
        compare(load_inputs(path), FAST)
    document = json.loads(path.read_text())
    document["controls"].pop()
    path.write_text(json.dumps(document))
    for item in document["controls"]:
        Path(item["score"]).write_text(json.dumps({"control": "blank_image"}))
    with pytest.raises(GateError, match="0 files of the control blank_image for arm blip2"):
        compare(load_inputs(path), FAST)
    document["controls"][0]["seed"] = 77
    path.write_text(json.dumps(document))
    with pytest.raises(RecapError, match="of no evaluated run"):
        load_inputs(path)


def test_a_controls_score_is_no_arms(tmp_path):
    path = Experiment(tmp_path).write()
    score = json.loads(path.read_text())["evaluations"][-1]["score"]
    document = json.loads(Path(score).read_text()) | {"control": "blank_image"}
    Path(score).write_text(json.dumps(document))
    with pytest.raises(GateError, match=r"score\.json: answers of the control blank"):
        compare(load_inputs(path), FAST)


def test_a_twin_with_the_same_seeds_is_refused(tmp_path):
    experiment = Experiment(tmp_path, twin=True)
    path = experiment.write()
    contract = compare(load_inputs(path), FAST)[0]["contract"]
    rows = {row["fact"]: row for row in contract["rows"] if row["arm"] == "baseline_twin"}
    assert rows["weight_seeds"]["value"] == [1001, 1002]
    assert rows["dataset.captions"]["ok"] and "pretrain.order" not in rows
    for stage in ("pretrain", "finetune"):
        name = f"runs/baseline_twin/seed1/{stage}/manifest.json"
        experiment.edit(name, lambda m: m.update(seed=2))
    with pytest.raises(GateError, match="seeds of an A/A pair, none in common"):
        compare(load_inputs(path), FAST)


def test_no_twin_is_exempt_from_the_contract(tmp_path):
    experiment = Experiment(tmp_path, twin=True)
    path = experiment.write()
    experiment.edit(path.name, lambda d: d["arms"][2].update(matched=False))
    manifest = "arms/baseline_twin/train.manifest.json"
    experiment.edit(manifest, lambda m: m["details"].update(ids_sha256="other"))
    with pytest.raises(GateError, match="baseline_twin: ids, in order is other"):
        compare(load_inputs(path), FAST)


def same_size(experiment: Experiment) -> Path:
    path = experiment.write()

    def declare(document):
        document["arms"][1] |= {"compared_with": "random_control", "matched": False}
        document["arms"][2]["matched"] = False

    experiment.edit(path.name, declare)
    for name in ("ids", "images", "questions"):
        key = f"{name}_sha256"
        experiment.edit(
            "arms/random_control/train.manifest.json",
            lambda m, key=key: m["details"].update({key: "other"}),
        )
    return path


def test_an_arm_is_compared_with_its_random_draw_alone(tmp_path):
    names = ["baseline", "blip2_enhanced", "random_control"]
    experiment = Experiment(tmp_path, effect=0.4, questions=300, seeds=(1, 2, 3), arms=names)
    path = same_size(experiment)
    document = compare(load_inputs(path), FAST)[0]
    (row,) = document["comparisons"]
    assert (row["arm"], row["reference"]) == ("blip2_enhanced", "random_control")
    assert document["contract"]["ok"]
    assert dump_json(document).count("random_control") > 3


def test_a_draw_of_another_size_is_refused(tmp_path):
    experiment = Experiment(tmp_path, arms=["baseline", "blip2_enhanced", "random_control"])
    path = same_size(experiment)
    manifest = "arms/random_control/train.manifest.json"
    experiment.edit(manifest, lambda m: m["details"].update(records=63))
    with pytest.raises(GateError, match="records in the training set is 64, but 63"):
        compare(load_inputs(path), FAST)


def test_choices_are_counted_and_averaged(tmp_path):
    rows = [
        {"id": "a", "similarity_original": 0.1, "similarity_new": 0.3, "replaced": True},
        {"id": "b", "similarity_original": 0.5, "similarity_new": 0.4, "replaced": False},
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({**row, "threshold": 0.2}) + "\n" for row in rows))
    found = caption_choice([path])
    assert (found["records"], found["replaced"], found["kept"], found["threshold"]) == (
        2,
        1,
        1,
        0.2,
    )
    assert found["similarity_original"] == pytest.approx(0.3)
    assert found["similarity_new"] == pytest.approx(0.35)
    assert found["similarity_chosen"] == pytest.approx(0.4)
    assert caption_choice([]) is None
