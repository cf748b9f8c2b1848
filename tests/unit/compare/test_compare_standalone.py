"""Both command lines: pipeline inputs, and two answer files made elsewhere."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from compare_experiment import Experiment

import build_report
import compare_evaluation_results
from recap.cli import run_cli
from recap.compare.standalone import AnswerFiles, compare_answer_files
from recap.errors import GateError
from recap.settings import CompareSettings

FAST = CompareSettings(bootstrap_samples=200, permutation_samples=200)
SCRIPTS = Path(__file__).parents[3] / "scripts"


def write_files(
    root: Path, old: Sequence[str], new: Sequence[str], metadata: dict[str, Any] | None = None
) -> AnswerFiles:
    """Write TextVQA annotations whose answer is always ``Nike``, and two answer files."""
    entries, paths = [], {}
    for number in range(len(old)):
        question = f"What is sign {number}?"
        entries.append(
            {"image_id": f"im{number // 2}", "question": question, "answers": ["nike"] * 10}
        )
    annotations = root / "annotations.json"
    annotations.write_text(json.dumps({"data": entries}))
    for name, answers in (("old", old), ("new", new)):
        rows = [
            {
                "question_id": entry["image_id"],
                "prompt": f"{entry['question']}\nReference OCR token: A, B\nAnswer shortly.",
                "text": text,
                "answer_id": f"{index:022d}",
                "model_id": name,
                "metadata": metadata or {},
            }
            for index, (entry, text) in enumerate(zip(entries, answers, strict=True))
        ]
        paths[name] = root / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return AnswerFiles(arm=paths["new"], reference=paths["old"], annotations=annotations)


def test_two_upstream_files_are_scored_and_compared(tmp_path: Path) -> None:
    old = ["Nike"] * 10 + [f"word {n}" for n in range(30)]
    new = ["nike."] * 30 + [f"word {n}" for n in range(10)]
    _, report = compare_answer_files(write_files(tmp_path, old, new), FAST)
    models = report["evaluation_comparison"]
    assert models["baseline_model"]["accuracy"] == 25
    assert models["blip2_enhanced_model"]["accuracy"] == 75
    (pair,) = report["comparison_metrics"]["pairs"]
    assert (pair["difference"], pair["verdict"]) == (50, "better")
    assert report["benchmark"] == "textvqa_ocr"
    assert report["provenance"]["baseline"]["path"].endswith("old.jsonl")
    notes = " ".join(report["technical_notes"])
    assert "was not checked" in notes
    assert "only these weights" in notes


def test_bare_letters_are_other_answers_than_wordy_ones(tmp_path: Path) -> None:
    """SEED-Bench scores the whole answer, so equal letters are not the same answers."""
    needed = {"question_type_id": 1, "answer": "A", "data_type": "image"}
    entries = [{"question_id": n, "data_id": str(n), **needed} for n in range(40)]
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps({"questions": entries}))
    paths = []
    for name, text in (("new", "A"), ("old", "(A)")):
        rows = [
            {"question_id": n, "prompt": f"What {n}?\nA. x", "text": text, "answer_id": "x"}
            | {"model_id": name, "metadata": {}}
            for n in range(40)
        ]
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = AnswerFiles(*paths, annotations, kind="seedbench")
    (row,) = compare_answer_files(files, FAST)[0]["comparisons"]
    assert row["changed_answers"] == {"answers": 40, "count": 40, "gained": 40, "lost": 0}
    assert "is better than baseline on seedbench" in row["sentence"]


def test_simulated_answers_are_refused(tmp_path: Path) -> None:
    note = {"model_type": "lora_mgm", "note": "simulated_answer_for_testing"}
    files = write_files(tmp_path, ["a", "b"], ["a", "c"], note)
    with pytest.raises(GateError, match="simulated"):
        compare_answer_files(files, FAST)


@pytest.mark.parametrize("control", ["blank_image", "text_only_majority"])
def test_answers_of_a_control_are_no_arm(tmp_path: Path, control: str) -> None:
    files = write_files(tmp_path, ["a", "b"], ["a", "c"], {"control": control})
    with pytest.raises(GateError, match=rf"old\.jsonl: answers of the control {control}"):
        compare_answer_files(files, FAST)


def test_five_distinct_answers_to_thousands_are_refused(tmp_path: Path) -> None:
    counts = {"text": 2950, "unknown": 855, "3": 642, "Nike": 485, "blue": 68}
    answers = [text for text, count in counts.items() for _ in range(count)]
    with pytest.raises(GateError, match="text 2950, unknown 855, 3 642, Nike 485, blue 68"):
        compare_answer_files(write_files(tmp_path, answers, answers), FAST)


def call(script: ModuleType, *arguments: str | Path) -> int:
    """Run an entry script in this process; return its exit code."""
    try:
        run_cli(script.main, script.parser(), list(map(str, arguments)))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_command_line_on_answer_files(tmp_path: Path) -> None:
    files = write_files(tmp_path, ["Nike", "x", "y", "z"], ["Nike", "Nike", "y", "w"])
    output = tmp_path / "report.json"
    code = call(
        compare_evaluation_results,
        *("--blip2_results", files.arm, "--baseline_results", files.reference),
        *("--annotations", files.annotations, "--output", output),
        *("--settings", FAST.model_dump_json()),
    )
    assert code == 0
    assert json.loads(output.read_text())["simulated"] is False


def test_command_lines_on_an_experiment(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, effect=0.3)
    inputs, comparison = experiment.write(), tmp_path / "comparison.json"
    code = call(
        compare_evaluation_results,
        *("--inputs", inputs, "--out", comparison),
        *("--evaluation-report", tmp_path / "evaluation_comparison_report.json"),
        *("--manifest", tmp_path / "manifest.json", "--settings", FAST.model_dump_json()),
    )
    assert code == 0
    code = call(
        build_report,
        *("--inputs", inputs, "--comparison", comparison, "--out", tmp_path / "report.html"),
        *("--training-analysis", tmp_path / "t.md", "--summary", tmp_path / "s.md"),
        *("--verdict", tmp_path / "verdict.txt", "--gallery", experiment.gallery()),
        *("--image-root", tmp_path),
    )
    assert code == 0
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert json.loads((tmp_path / "manifest.json").read_text())["stage"] == "compare"


def test_bad_use_is_explained_without_a_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(compare_evaluation_results, "--blip2_results", tmp_path / "x") == 2
    code = call(
        compare_evaluation_results,
        *("--inputs", tmp_path / "missing.json", "--out", "x", "--evaluation-report", "y"),
        *("--settings", '{"confidance": 0.9}'),
    )
    assert code == 2
    messages = capfd.readouterr().err
    assert "--baseline_results" in messages
    assert "confidance" in messages
    assert "Traceback" not in messages


@pytest.mark.parametrize("script", ["compare_evaluation_results", "build_report"])
def test_help_has_an_example_and_needs_no_heavy_import(script: str) -> None:
    command = [sys.executable, "-X", "importtime", str(SCRIPTS / f"{script}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert f"example:\n  {script}.py" in done.stdout
    assert not {"numpy", "scipy", "matplotlib"} & set(done.stderr.split())
