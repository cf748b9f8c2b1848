"""The finished demo: results, the fate of bad input, nothing left to do."""

import json
import re
import sys
from itertools import pairwise

import pytest

from recap.io import read_json, read_jsonl

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


def test_the_demo_ends_with_report_and_verdict(demo):
    assert "results/demo/report/report.html" in demo.demo_output
    verdict = (demo.path / "results/demo/report/verdict.txt").read_text(encoding="utf-8").strip()
    assert verdict
    assert verdict in demo.demo_output
    report = demo.path / "results/demo/report"
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "blip2-micro" in page, "the page must say which models stand in"
    assert not re.search(r"""(src|href)=["']https?://""", page), "the page must need no network"
    for name in ("training_comparison_analysis.md", "final_project_summary.md"):
        assert (report / name).stat().st_size > 200


def test_a_second_run_has_nothing_to_do(demo):
    assert demo.plan() == {}
    again = demo.run(sys.executable, "scripts/run_demo.py")
    assert "Nothing to be done" in again.stdout + again.stderr


def test_every_bad_line_is_quarantined_with_its_reason(demo):
    world = demo.path / "resources/worlds/demo"
    bad = {row["line"]: row for row in read_json(world / "bad_lines.json")}
    rejects = read_jsonl(demo.path / "results/demo/corpus/demo/rejects.jsonl")
    assert {row["line"] for row in rejects} == set(bad)
    assert {row["kind"] for row in bad.values()} == set(REASONS)
    for row in rejects:
        assert row["reason"] == REASONS[bad[row["line"]]["kind"]]
        assert row["fix"]
        expected = bad[row["line"]]["id"]
        assert expected is None or row["id"] == expected, row


def test_nothing_is_lost_between_the_stages(demo):
    for arm in ("baseline", "blip2_enhanced", "filtered_only"):
        funnel = read_json(demo.path / f"results/demo/arms/{arm}/funnel.json")
        merged = read_jsonl(demo.path / f"results/demo/arms/{arm}/merged.jsonl")
        stages = funnel["stages"]
        lines = len((demo.path / "resources/worlds/demo/corpus.jsonl").read_bytes().splitlines())
        assert stages[0]["records_in"] == lines
        assert stages[-1]["records_out"] == len(merged) > 0
        for stage in stages:
            assert stage["records_in"] == stage["records_out"] + stage["rejected"], stage
        for before, after in pairwise(stages):
            assert before["records_out"] == after["records_in"]


def test_matched_arms_differ_only_in_their_captions(demo):
    arms = {
        arm: json.loads((demo.path / f"results/demo/arms/{arm}/train.json").read_text())
        for arm in ("baseline", "blip2_enhanced")
    }
    base, new = arms["baseline"], arms["blip2_enhanced"]
    assert [s["id"] for s in base] == [s["id"] for s in new]
    assert [s["conversations"][0] for s in base] == [s["conversations"][0] for s in new]
    changed = sum(
        a["conversations"][1] != b["conversations"][1] for a, b in zip(base, new, strict=True)
    )
    assert changed > len(base) / 2


def test_every_run_trained_merged_and_answered(demo):
    questions = read_jsonl(
        demo.path / "resources/worlds/demo/textvqa/llava_textvqa_val_v051_ocr.jsonl"
    )
    for arm in ("baseline", "blip2_enhanced"):
        for seed in (1, 2):
            run = demo.path / f"results/demo/runs/{arm}/seed{seed}"
            for stage in ("pretrain", "finetune"):
                assert all(gate["passed"] for gate in _gates(run / stage / "gates.json"))
                assert len(read_jsonl(run / stage / "telemetry.jsonl")) >= 5
            answers = read_jsonl(
                demo.path / f"results/demo/eval/{arm}/seed{seed}/textvqa_ocr_demo/merge.jsonl"
            )
            assert [a["question_id"] for a in answers] == [q["question_id"] for q in questions]


def _gates(path):
    document = read_json(path)
    return document["gates"] if isinstance(document, dict) else document


def test_scores_carry_count_and_protocol(demo):
    score = read_json(demo.path / "results/demo/eval/baseline/seed1/textvqa_ocr_demo/score.json")
    assert score["n"] == 90
    assert score["protocol"]["ocr"] is True
    comparison = read_json(demo.path / "results/demo/compare/evaluation_comparison_report.json")
    assert "simulated" in json.dumps(comparison)
