"""The benchmarks sheet, and benchmarks that only a server scores."""

import pytest
from test_config_experiments import raw_config

from recap.config import load_experiment
from recap.config.comparison import ComparisonWiring
from recap.config.positive import PositiveControlWiring
from recap.config.rows import BenchmarkRow, DownloadRow, PositiveControlRow
from recap.config.sheets import read_sheet
from recap.config.wiring import Wiring
from recap.errors import RecapError
from recap.evaluate.benchmarks import get_benchmark
from recap.evaluate.protocol import BenchmarkProtocol, available_kinds

ROWS = read_sheet("config/benchmarks.tsv", "benchmark", BenchmarkRow)
DOWNLOADS = read_sheet("config/downloads.tsv", "download", DownloadRow)


def experiment(**changes):
    return load_experiment({**raw_config("blip2_30k"), "evaluation_shards": 2, **changes})


@pytest.mark.parametrize("name", ROWS)
def test_every_row_has_a_protocol_and_files_with_a_source(name):
    row = ROWS[name]
    BenchmarkProtocol(kind=row.kind, ocr=row.ocr, max_new_tokens=row.max_new_tokens)
    if row.source != "fetched":
        return
    targets = [d.target for d in DOWNLOADS.values() if d.folder == row.root]
    for file in [row.questions, *row.annotations.split(",")]:
        assert any(file == target or file.startswith(target) for target in targets), file


def test_every_kind_has_a_row_and_real_files_upstreams_names():
    assert {row.kind for row in ROWS.values()} == set(available_kinds())
    real = {name for name, row in ROWS.items() if row.source == "fetched"}
    assert real == {
        "textvqa_ocr", "textvqa_noocr", "mmbench_dev_en", "pope", "gqa", "vqav2", "mme",
        "seedbench",
    }  # fmt: skip
    assert [name for name, row in ROWS.items() if not row.scored] == ["vqav2"]
    assert get_benchmark(ROWS["vqav2"].kind).submission_format


def test_files_to_submit_are_one_a_run_and_answered_but_not_compared():
    wiring = Wiring(experiment(submissions=["vqav2", "mmbench_dev_en"], seeds=[1, 2]))
    names = [path.removeprefix("results/blip2_30k/eval/") for path in wiring.submissions()]
    assert names[0] == "baseline/seed1/vqav2/submission.json"
    assert "blip2_enhanced/seed2/mmbench_dev_en/submission.xlsx" in names
    assert len(names) == 2 * 2 * len(wiring.config.arms)
    assert wiring.questions("vqav2").endswith("vqav2/llava_vqav2_mscoco_test-dev2015.jsonl")
    document = ComparisonWiring(wiring).document()
    assert [row["name"] for row in document["benchmarks"]] == wiring.config.benchmarks
    assert Wiring(experiment()).submissions() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmarks": ["vqav2"]}, "`vqav2` is scored by a server alone"),
        ({"submissions": ["pope"]}, "`pope` is of kind pope, which is scored here"),
        ({"submissions": ["gqa", "gqa"]}, "`submissions`: lists a value twice"),
        ({"submissions": ["okvqa"]}, "`okvqa` is not a row of config/benchmarks.tsv"),
    ],
)
def test_what_cannot_be_scored_or_submitted_is_refused(changes, message):
    with pytest.raises(RecapError, match=message):
        experiment(**changes)


def test_the_published_scores_are_those_of_the_reference():
    rows = read_sheet("config/positive_controls.tsv", "positive_control", PositiveControlRow)
    assert {(row.benchmark, row.published) for row in rows.values()} == {
        ("textvqa_ocr", 56.2),
        ("mmbench_dev_en", 59.8),
    }
    assert all(ROWS[row.benchmark].ocr == row.benchmark.endswith("_ocr") for row in rows.values())


def test_a_positive_control_is_asked_for_where_its_weights_are(tmp_path):
    def entries():
        changes = {"positive_controls": ["mgm_2b_textvqa_ocr"], "data_root": str(tmp_path)}
        wiring = Wiring(experiment(**changes))
        (entry,) = PositiveControlWiring(wiring).entries()
        comparison = ComparisonWiring(wiring)
        return entry, comparison.results() + comparison.perf()

    entry, files = entries()
    folder = tmp_path / "models" / "mgm-2b-released"
    assert entry["report"] is None and entry["missing"] == str(folder)
    assert not any("positive_controls" in path for path in files)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    entry, files = entries()
    report = "results/blip2_30k/positive_controls/mgm-2b-released/textvqa_ocr/agreement.json"
    assert entry["report"] == report and entry["missing"] == "" and report in files
    perf = "results/blip2_30k/perf/positive_control/mgm-2b-released.textvqa_ocr."
    assert any(path.startswith(perf) for path in files)


@pytest.mark.parametrize(
    ("benchmark", "row", "message"),
    [
        ("textvqa_noocr", "", "`textvqa_ocr` is not among `benchmarks`"),
        ("textvqa_ocr", "x\tblip2-opt-2.7b\ttextvqa_ocr\t50\tus", "no model of role `checkpoint`"),
        ("textvqa_ocr", "x\tmgm-2b-released\ttextvqa_ocr\t562\tus", "published"),
    ],
)
def test_a_contradictory_positive_control_is_refused(tmp_path, benchmark, row, message):
    head = "positive_control\tmodel\tbenchmark\tpublished\tcitation"
    row = row or "x\tmgm-2b-released\ttextvqa_ocr\t56.2\tus"
    sheet = tmp_path / "positive_controls.tsv"
    sheet.write_text(f"{head}\n{row}\n")
    raw = raw_config("blip2_30k")
    raw |= {"benchmarks": [benchmark], "positive_controls": ["x"]}
    raw["sheets"]["positive_controls"] = str(sheet)
    with pytest.raises(RecapError, match=message):
        load_experiment(raw)
