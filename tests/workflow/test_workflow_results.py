"""A finished run: results, the fate of bad input, nothing left to do."""

import json
import re
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from recap.io import read_json, read_jsonl

from .conftest import EXPERIMENT, RESULTS, WORLD

pytestmark = pytest.mark.workflow

# What the demo's corpus does wrong, and what the validation calls it.
REASONS = {
    "malformed_json": "malformed-json",
    "missing_id": "missing-id",
    "missing_text": "missing-text",
    "missing_images": "missing-images",
    "duplicate_id": "duplicate-id",
    "missing_image": "image-missing",
    "truncated_image": "image-truncated",
    "empty_image": "image-empty",
    "decompression_bomb": "image-too-large",
    "absolute_path": "unsafe-path",
    "parent_path": "unsafe-path",
    "empty_caption": "empty-caption",
    "two_image_tokens": "many-image-tokens",
    "not_utf8": "not-utf8",
    "long_caption": "caption-too-long",
}


def test_a_run_ends_with_report_and_verdict(smoke):
    assert f"{RESULTS}/report/report.html" in smoke.output
    verdict = (smoke.path / RESULTS / "report/verdict.txt").read_text(encoding="utf-8").strip()
    assert verdict
    assert verdict in smoke.output
    report = smoke.path / RESULTS / "report"
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "blip2-micro" in page, "the page must say which models stand in"
    assert not re.search(r"""(src|href)=["']https?://""", page), "the page must need no network"
    for name in ("training_comparison_analysis.md", "final_project_summary.md"):
        assert (report / name).stat().st_size > 200


def test_progress_is_a_line_a_stage_and_the_rest_is_in_files(smoke):
    lines = [line for line in smoke.output.splitlines() if "all stages" in line]
    assert any("pretrain" in line and "4 of 4" in line for line in lines)
    assert "Select jobs" not in smoke.output
    assert "Select jobs" in smoke.log
    # Plain Snakemake, whose own output this is, shows the same lines among the rest.
    plain = (smoke.path / ".snakemake/recap.log").read_text(encoding="utf-8").splitlines()
    lines = [line for line in plain if "all stages" in line]
    assert any("pretrain" in line and "4 of 4" in line for line in lines)
    assert any(line.startswith("Finished jobid") for line in plain)


def test_the_report_counts_the_cost_of_every_job(smoke):
    perf = smoke.path / RESULTS / "perf"
    left = {str(path.relative_to(smoke.path)) for path in perf.rglob("*.json")}
    inputs = read_json(smoke.path / RESULTS / "compare/comparison_inputs.json")
    assert {entry["path"] for entry in inputs["perf"]} == left


def test_figures_tables_card_and_leaderboard_are_beside_the_page(smoke):
    report = smoke.path / RESULTS / "report"
    page = (report / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == len(list((report / "figures").glob("*.svg")))
    assert len(list((report / "figures").glob("*.png"))) == page.count("<svg")
    assert len(list((report / "tables").glob("*.csv"))) == page.count('.csv"')
    card = read_json(report / "run_card.json")
    schema = read_json(smoke.path / "config/schemas/run_card.schema.json")
    Draft202012Validator(schema).validate(card)
    assert card["headline"] in smoke.output
    gallery = read_jsonl(smoke.path / RESULTS / "arms/blip2_enhanced/gallery.jsonl")
    assert all(-1 <= row["similarity_new"] <= 1 for row in gallery)
    board = (smoke.path / "results/leaderboard.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[2] for line in board[1:]] == [EXPERIMENT, EXPERIMENT]


def test_status_from_files_alone(smoke):
    result = smoke.run(sys.executable, "scripts/show_status.py", "--experiment", EXPERIMENT)
    assert f"Experiment {EXPERIMENT}: finished" in result.stdout
    assert re.search(r"predict_shard +16 +16 +[\d.]+ questions/s", result.stdout)


def test_snakemakes_own_report_has_every_result_with_labels(smoke, tmp_path):
    smoke.snakemake("--report", str(tmp_path / "report.zip"))
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        names = [Path(name).name for name in archive.namelist()]
        text = archive.read("report/report.html").decode()
    for name in ("report.html", "run_card.json", "comparison.json", "forest.png", "cost.csv"):
        assert name in names
    for name, count in (("funnel.json", 3), ("gates.json", 8), ("parity.json", 4)):
        assert names.count(name) == count
    assert names.count("score.json") == 8
    for word in ("Curation", "Captions", "Training", "Checkpoints", "Benchmarks", "Figures"):
        assert word in text


def test_a_second_run_has_nothing_to_do(smoke):
    assert smoke.plan() == {}
    again = smoke.run(sys.executable, "scripts/run_demo.py", "--experiment", EXPERIMENT)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_every_bad_line_is_quarantined_with_its_reason(smoke):
    world = smoke.path / WORLD
    bad = {row["line"]: row for row in read_json(world / "bad_lines.json")}
    rejects = read_jsonl(smoke.path / RESULTS / "corpus/smoke/rejects.jsonl")
    assert {row["line"] for row in rejects} == set(bad)
    assert {row["kind"] for row in bad.values()} == set(REASONS)
    for row in rejects:
        assert row["reason"] == REASONS[bad[row["line"]]["kind"]]
        assert row["fix"]
        expected = bad[row["line"]]["id"]
        assert expected is None or row["id"] == expected, row


def test_nothing_is_lost_between_the_stages(smoke):
    for arm in ("baseline", "blip2_enhanced", "filtered_only"):
        funnel = read_json(smoke.path / RESULTS / f"arms/{arm}/funnel.json")
        merged = read_jsonl(smoke.path / RESULTS / f"arms/{arm}/merged.jsonl")
        stages = funnel["stages"]
        lines = len((smoke.path / WORLD / "corpus.jsonl").read_bytes().splitlines())
        assert stages[0]["records_in"] == lines
        assert stages[-1]["records_out"] == len(merged) > 0
        for stage in stages:
            assert stage["records_in"] == stage["records_out"] + stage["rejected"], stage
        for before, after in pairwise(stages):
            assert before["records_out"] == after["records_in"]


def test_matched_arms_differ_only_in_their_captions(smoke):
    arms = {
        arm: json.loads((smoke.path / RESULTS / f"arms/{arm}/train.json").read_text())
        for arm in ("baseline", "blip2_enhanced")
    }
    base, new = arms["baseline"], arms["blip2_enhanced"]
    assert [s["id"] for s in base] == [s["id"] for s in new]
    assert [s["conversations"][0] for s in base] == [s["conversations"][0] for s in new]
    changed = sum(
        a["conversations"][1] != b["conversations"][1] for a, b in zip(base, new, strict=True)
    )
    assert changed > len(base) / 2


def test_captions_are_measured_and_compared_on_the_ids_they_share(smoke):
    """Seven raw captions in ten are spoilt and the captioner is right: new ones fit better."""
    arms = smoke.path / RESULTS / "arms"
    for arm in ("baseline", "blip2_enhanced", "filtered_only"):
        document = read_json(arms / arm / "quality.json")
        assert document["records"] == len(read_jsonl(arms / arm / "merged.jsonl"))
        assert ("similarity_shift" in document["measures"]) == (arm == "blip2_enhanced")
    pair = read_json(arms / "blip2_enhanced/quality_differences.json")
    assert pair["common_records"] == pair["arm_records"] == pair["reference_records"]
    readings = {row["measure"]: row["reading"] for row in pair["differences"]}
    assert readings["similarity"] == "higher"
    filtered = read_json(arms / "filtered_only/quality_differences.json")
    assert (filtered["changed_captions"], filtered["differences"]) == (0, [])


def test_every_run_trained_merged_and_answered(smoke):
    questions = read_jsonl(smoke.path / WORLD / "textvqa/llava_textvqa_val_v051_ocr.jsonl")
    for arm in ("baseline", "blip2_enhanced"):
        for seed in (1, 2):
            run = smoke.path / RESULTS / f"runs/{arm}/seed{seed}"
            for stage in ("pretrain", "finetune"):
                assert all(gate["passed"] for gate in _gates(run / stage / "gates.json"))
                assert len(read_jsonl(run / stage / "telemetry.jsonl")) >= 5
            answers = read_jsonl(
                smoke.path / RESULTS / f"eval/{arm}/seed{seed}/textvqa_ocr_smoke/merge.jsonl"
            )
            assert [a["question_id"] for a in answers] == [q["question_id"] for q in questions]


def _gates(path):
    document = read_json(path)
    return document["gates"] if isinstance(document, dict) else document


def test_scores_carry_count_and_protocol(smoke):
    score = read_json(smoke.path / RESULTS / "eval/baseline/seed1/textvqa_ocr_smoke/score.json")
    assert score["n"] == 60
    assert score["protocol"]["ocr"] is True
    comparison = read_json(smoke.path / RESULTS / "compare/evaluation_comparison_report.json")
    assert "simulated" in json.dumps(comparison)


@pytest.mark.parametrize("name", ["comparison", "evaluation_comparison_report"])
def test_documents_of_the_comparison_are_valid(smoke, name):
    schema = read_json(smoke.path / f"config/schemas/{name}.schema.json")
    document = read_json(smoke.path / RESULTS / f"compare/{name}.json")
    assert not list(Draft202012Validator(schema).iter_errors(document))
    for row in document["provenance"]["answers"]:
        assert None not in row.values(), row


def test_comparison_looked_for_its_pictures_in_the_training_sets(smoke):
    document = read_json(smoke.path / RESULTS / "compare/comparison.json")
    for row in document["comparisons"]:
        assert row["pictures"]["trained_on"] == 0
        assert row["pictures"]["found"] == row["images"]
        categories = {part["category"] for part in row["categories"]}
        assert {"question_type", "has_ocr"} <= categories


def test_every_run_is_exported_in_the_form_of_lmms_eval(smoke):
    for folder in (smoke.path / RESULTS / "compare/lmms_eval").iterdir():
        arm, seed = folder.name.split(".")
        score = read_json(smoke.path / RESULTS / f"eval/{arm}/{seed}/textvqa_ocr_smoke/score.json")
        figures = read_json(folder / "run_results.json")["results"]["textvqa_ocr_smoke"]
        assert 100 * figures["exact_match,none"] == pytest.approx(score["accuracy"], abs=0.006)
        assert len(read_jsonl(folder / "run_samples_textvqa_ocr_smoke.jsonl")) == score["n"]
