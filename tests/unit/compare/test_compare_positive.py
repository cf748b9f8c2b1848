"""Positive controls: a published score must lie in the interval of ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from compare_experiment import Experiment, build_page
from jsonschema import Draft202012Validator

from recap.compare.comparison import compare
from recap.compare.inputs import PositiveControlInputs, load_inputs
from recap.compare.positive import check_positive_control
from recap.errors import GateError
from recap.settings import CompareSettings

FAST = CompareSettings(bootstrap_samples=2000, permutation_samples=300)
ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "config" / "schemas" / "comparison.schema.json"
NAMED = {
    "name": "mgm_2b_textvqa_ocr",
    "model": "mgm-2b-released",
    "benchmark": "textvqa_ocr",
    "citation": "a paper",
}
QUESTIONS = 400


def control(published, **more):
    return PositiveControlInputs.model_validate({**NAMED, "published": published, **more})


@pytest.fixture
def files(tmp_path):
    """400 questions about as many pictures, half of them right: standard error 2.5 points."""
    rows = [
        {
            "question_id": f"i{n}",
            "image_id": f"i{n}",
            "question": "what?",
            "prediction": "x",
            "normalized": "x",
            "accuracy": float(n % 2),
        }
        for n in range(QUESTIONS)
    ]
    scores, score = tmp_path / "scores.jsonl", tmp_path / "score.json"
    scores.write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {"control": "none", "benchmark": "textvqa_ocr", "n": QUESTIONS, "accuracy": 50.0}
    score.write_text(json.dumps(document))
    return score, scores, tmp_path / "agreement.json"


@pytest.mark.parametrize("published", [46.0, 50.0, 54.0])
def test_a_published_score_within_the_interval_agrees(files, published):
    check_positive_control(control(published), files[0], files[1], FAST, files[2])
    report = json.loads(files[2].read_text())
    low, high = report["interval"]
    assert (low, high) == pytest.approx((45.1, 54.9), abs=0.4)  # 50 +- 1.96 * 2.5
    assert report["agrees"] and report["accuracy"] == 50 and report["questions"] == QUESTIONS
    assert f"which agrees with the published {published:g}." in report["sentence"]


@pytest.mark.parametrize("published", [44.0, 56.2])
def test_another_score_stops_and_leaves_the_evidence(files, published):
    with pytest.raises(GateError, match=r"does not agree with the published .* can be trusted"):
        check_positive_control(control(published), files[0], files[1], FAST, files[2])
    evidence = json.loads(files[2].with_suffix(".failed.json").read_text())
    assert evidence["agrees"] is False and evidence["published"] == published


def test_rounding_of_the_published_score_is_allowed_for(files):
    check_positive_control(control(50.0), files[0], files[1], FAST, files[2])
    low, _ = json.loads(files[2].read_text())["interval"]
    check_positive_control(control(round(low - 0.04, 4)), files[0], files[1], FAST, files[2])
    with pytest.raises(GateError):
        check_positive_control(control(round(low - 0.06, 4)), files[0], files[1], FAST, files[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control": "blank_image"}, "not about all answers"),
        ({"benchmark": "pope"}, "not about all answers"),
        ({"n": 5}, "not about all answers"),
        ({"accuracy": 51.0}, "states another accuracy"),
    ],
)
def test_files_that_contradict_each_other_are_refused(files, change, message):
    files[0].write_text(json.dumps({**json.loads(files[0].read_text()), **change}))
    with pytest.raises(GateError, match=message):
        check_positive_control(control(50.0), files[0], files[1], FAST, files[2])


def with_control(path, **more):
    document = json.loads(path.read_text())
    document["positive_controls"] = [{**NAMED, "published": 50.0, **more}]
    path.write_text(json.dumps(document))
    return path


def valid(document):
    schema = json.loads(SCHEMA.read_text())
    assert not list(Draft202012Validator(schema).iter_errors(document))
    return document


def test_missing_weights_are_said_to_be_missing(tmp_path):
    path = with_control(Experiment(tmp_path).write(), missing="data/models/mgm-2b-released")
    document = valid(compare(load_inputs(path), FAST)[0])
    (row,) = document["positive_controls"]
    assert row["checked"] is False and row["agrees"] is None
    expected = (
        "The evaluation was not checked against a published score: mgm-2b-released should score "
        "50 points on textvqa_ocr, but its weights are not at data/models/mgm-2b-released."
    )
    assert row["sentence"] == expected and expected in document["warning"]


def test_an_agreement_is_shown_and_warns_of_nothing(tmp_path, files):
    check_positive_control(control(50.0), files[0], files[1], FAST, files[2])
    path = with_control(Experiment(tmp_path / "e").write(), report=str(files[2]))
    document = valid(compare(load_inputs(path), FAST)[0])
    assert document["positive_controls"][0]["agrees"] is True
    assert "published" not in document["warning"]
    for change in ({"agrees": False}, {"published": 49.0}):
        files[2].write_text(json.dumps({**json.loads(files[2].read_text()), **change}))
        with pytest.raises(GateError, match="does not show that mgm_2b_textvqa_ocr is met"):
            compare(load_inputs(path), FAST)


def test_the_page_shows_both_cases(tmp_path, files, monkeypatch):
    check_positive_control(control(50.0), files[0], files[1], FAST, files[2])
    write = Experiment.write
    for number, more in enumerate(({"missing": "data/x"}, {"report": str(files[2])})):
        monkeypatch.setattr(
            Experiment, "write", lambda self, more=more: with_control(write(self), **more)
        )
        page = build_page(Experiment(tmp_path / f"e{number}")).read_text()
        shown = ("was not checked against a published", "which agrees with the published 50.")
        assert [text in page for text in shown] == [number == 0, number == 1]


def test_command_line(files):
    named = json.dumps({**NAMED, "published": 60.0})
    command = [sys.executable, str(ROOT / "scripts" / "check_positive_control.py")]
    command += ["--control", named, "--score", str(files[0]), "--scores", str(files[1])]
    command += ["--out", str(files[2])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "does not agree with the published 60." in done.stderr
