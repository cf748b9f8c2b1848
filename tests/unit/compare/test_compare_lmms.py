"""Results in lmms-eval's form: its numbers are ours, and its own code reads them."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_experiment import FAST, Experiment

from recap.compare.comparison import compare
from recap.compare.inputs import load_inputs
from recap.compare.lmms_export import export_runs, metric_name
from recap.compare.lmms_names import run_files
from recap.compare.scores import BenchmarkScores

NAMES = ("textvqa_ocr", "textvqa_noocr")


def export(folder: Path, **knobs: Any) -> tuple[Path, dict[str, BenchmarkScores]]:
    inputs = load_inputs(Experiment(folder, effect=0.3, benchmarks=NAMES, **knobs).write())
    _, scores = compare(inputs, FAST)
    written = export_runs(inputs, scores, folder / "lmms")
    assert sorted(written) == sorted((folder / "lmms").rglob("*.json*"))
    return folder / "lmms", scores


def test_results_hold_metric_count_and_errors_of_one_run(tmp_path: Path) -> None:
    folder, scores = export(tmp_path)
    document = json.loads((folder / "blip2_enhanced.seed2/run_results.json").read_text())
    for name in NAMES:
        values = scores[name].accuracy["blip2_enhanced"][1] / 100
        figures = document["results"][name]
        assert figures["exact_match,none"] == pytest.approx(values.mean())
        naive = values.std(ddof=1) / np.sqrt(60)
        assert figures["exact_match_stderr_clt,none"] == pytest.approx(naive)
        assert document["n-samples"][name] == {"original": 60, "effective": 60}
        assert document["higher_is_better"][name] == {"exact_match": True}
    assert document["config"]["random_seed"] == 2
    assert document["configs"]["textvqa_ocr"]["generation_kwargs"]["max_new_tokens"] == 16


def test_samples_hold_every_question_in_one_order(tmp_path: Path) -> None:
    folder, scores = export(tmp_path)
    lines = {}
    for arm in ("baseline", "blip2_enhanced"):
        path = folder / f"{arm}.seed1/run_samples_textvqa_ocr.jsonl"
        lines[arm] = [json.loads(line) for line in path.read_text().splitlines()]
        accuracy = scores["textvqa_ocr"].accuracy[arm][0]
        assert [row["exact_match"] for row in lines[arm]] == pytest.approx(list(accuracy / 100))
        assert [row["doc_id"] for row in lines[arm]] == list(range(60))
    hashes = [[row["doc_hash"] for row in rows] for rows in lines.values()]
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 60


def test_the_same_results_give_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        export(tmp_path / name)
    for path in run_files("baseline", 1, NAMES):
        assert (tmp_path / "a/lmms" / path).read_bytes() == (
            tmp_path / "b/lmms" / path
        ).read_bytes()


@pytest.mark.parametrize(
    ("kind", "metric", "name"),
    [
        ("textvqa", "vqa_accuracy", "exact_match"),
        ("pope", "yes_no_accuracy", "pope_accuracy"),
        ("mmbench", "circular_accuracy", "circular_accuracy"),
    ],
)
def test_metrics_that_mean_something_else_keep_our_name(kind: str, metric: str, name: str) -> None:
    assert metric_name({"metric": metric, "protocol": {"kind": kind}}) == name


@pytest.fixture
def lmms_eval(fetch_wheels: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return lmms-eval's folder, with what its modules import and we lack replaced."""
    root: Path = fetch_wheels("lmms-eval==0.7.3")
    package = types.ModuleType("lmms_eval")
    package.__path__ = [str(root / "lmms_eval")]
    monkeypatch.setitem(sys.modules, "lmms_eval", package)
    return root


@pytest.mark.oracle
def test_its_loader_of_baselines_reads_our_samples(tmp_path: Path, lmms_eval: Path) -> None:
    from importlib import import_module

    folder, scores = export(tmp_path)
    load_baseline = import_module("lmms_eval.baselines.loader").load_baseline
    path = folder / "baseline.seed1/run_samples_textvqa_ocr.jsonl"
    by_question, results = load_baseline(str(path), "textvqa_ocr")
    expected = scores["textvqa_ocr"].accuracy["baseline"][0] / 100
    assert [by_question[number] for number in range(60)] == pytest.approx(list(expected))
    assert results["results"]["textvqa_ocr"]["exact_match,none"] == pytest.approx(expected.mean())


@pytest.mark.oracle
def test_its_table_prints_our_numbers(
    tmp_path: Path, lmms_eval: Path, fetch_wheels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its function that prints results, taken out of its file: the rest imports torch and more."""
    import ast

    source = (lmms_eval / "lmms_eval/utils.py").read_text()
    wanted = [
        node
        for node in ast.parse(source).body
        if (isinstance(node, ast.FunctionDef) and node.name == "make_table")
        or (isinstance(node, ast.Assign) and "HIGHER_IS_BETTER" in ast.unparse(node.targets[0]))
    ]
    writer = types.ModuleType("pytablewriter")
    tables: list[Any] = []

    class Table:
        headers: list[str]
        value_matrix: list[list[Any]]

        def dumps(self) -> str:
            tables.append(self)
            return ""

    writer.MarkdownTableWriter = writer.LatexTableWriter = Table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pytablewriter", writer)
    space: dict[str, Any] = {}
    exec(compile(ast.Module(wanted, []), "utils", "exec"), space)  # noqa: S102
    folder, scores = export(tmp_path)
    space["make_table"](json.loads((folder / "baseline.seed1/run_results.json").read_text()))
    rows = [dict(zip(tables[0].headers, row, strict=False)) for row in tables[0].value_matrix]
    assert [row["Tasks"] for row in rows] == list(NAMES)
    for row in rows:
        values = scores[row["Tasks"]].accuracy["baseline"][0] / 100
        assert (row["Metric"], row["Value"]) == ("exact_match", f"{values.mean():.4f}")
        assert float(row["Stderr"]) == pytest.approx(values.std(ddof=1) / np.sqrt(60), abs=1e-4)


@pytest.mark.oracle
def test_its_clustered_error_is_ours(tmp_path: Path, lmms_eval: Path) -> None:
    """It divides by n - 1 within and not by clusters: equal up to a factor near 1."""
    import ast
    import collections
    import math

    source = (lmms_eval / "lmms_eval/api/metrics.py").read_text()
    names = ("clustered_stderr",)
    wanted = [n for n in ast.parse(source).body if getattr(n, "name", "") in names]
    space: dict[str, Any] = {"collections": collections, "math": math, "List": list, "Any": Any}
    exec(compile(ast.Module(wanted, []), "metrics", "exec"), space)  # noqa: S102
    folder, scores = export(tmp_path, questions=600)
    document = json.loads((folder / "baseline.seed1/run_results.json").read_text())
    table = scores["textvqa_ocr"]
    values = list(table.accuracy["baseline"][0] / 100)
    theirs = space["clustered_stderr"](values, list(table.images))
    ours = document["results"]["textvqa_ocr"]["exact_match_stderr_clustered,none"]
    assert ours == pytest.approx(theirs, rel=0.005)
