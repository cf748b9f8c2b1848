"""The known answer: what the pipeline must find where the captions are spoilt, and where not."""

import sys

import pytest

from recap.io import read_json

from .conftest import copy_repository

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_repository(tmp_path_factory.mktemp("verdicts"))


def run(project, experiment):
    """Run an experiment; return its comparison and the verdict of each arm."""
    project.run(sys.executable, "scripts/run_demo.py", "--experiment", experiment)
    folder = project.path / "results" / experiment
    report = read_json(folder / "compare" / "evaluation_comparison_report.json")
    pairs = report["comparison_metrics"]["pairs"]
    return report, {pair["arm"]: pair["verdict"] for pair in pairs}


def accuracies(project, experiment, arm, control=""):
    return [
        read_json(path)["accuracy"]
        for path in sorted(
            (project.path / "results" / experiment / "eval" / arm).glob(
                f"seed*/textvqa_ocr_demo{control}/score.json"
            )
        )
    ]


def test_true_captions_are_better_than_spoilt_ones_and_twins_are_not_told_apart(project):
    report, verdicts = run(project, "demo")
    assert verdicts == {"baseline_again": "not distinguishable", "blip2_enhanced": "better"}
    assert report["simulated"] is False
    enhanced = accuracies(project, "demo", "blip2_enhanced")
    blank = accuracies(project, "demo", "blip2_enhanced", ".blank_image")
    baseline = accuracies(project, "demo", "baseline")
    assert len(enhanced) == len(blank) == len(baseline) == 3
    assert min(enhanced) > max(blank) + 5
    assert min(enhanced) > max(baseline)


def test_captions_that_were_true_are_not_improved(project):
    _, verdicts = run(project, "demo_clean")
    assert verdicts["blip2_enhanced"] != "better"
