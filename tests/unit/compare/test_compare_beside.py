"""Beside the page: figures and tables as files, the run card, the leaderboard and costs."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from compare_experiment import Experiment, build_page
from jsonschema import Draft202012Validator, ValidationError
from PIL import Image

from recap.compare.leaderboard import build_leaderboard
from recap.planning.accounting import Attempts, comment_key

SCHEMA = Path(__file__).parents[3] / "config" / "schemas" / "run_card.schema.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("beside")
    return build_page(Experiment(root, effect=0.5, questions=120, twin=True)).parent


def test_every_figure_is_an_svg_and_a_png_on_paper(folder: Path) -> None:
    files = sorted((folder / "figures").iterdir())
    names = {path.stem for path in files}
    assert names == {
        *("forest", "pretrain-loss", "pretrain-grad_norm", "finetune-loss"),
        *("finetune-grad_norm", "accuracy-textvqa_ocr"),
    }
    assert len(files) == 2 * len(names)
    for path in files:
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")  # noqa: S314
            assert "var(--" not in path.read_text(encoding="utf-8")
        else:
            with Image.open(path) as picture:
                colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
                assert picture.width >= 1000
            assert (255, 255, 255) in colors
            markers = {(1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)}
            assert not colors & markers, "colours that only stand for the page's own"


def test_the_png_has_the_bands_of_the_page(folder: Path) -> None:
    with Image.open(folder / "figures" / "forest.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
    assert {(0xE3, 0xE6, 0xEA), (0xC3, 0xC9, 0xD1)} <= colors, "A/A interval and difference"


def test_every_table_of_the_page_is_a_csv(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    files = {path.name for path in (folder / "tables").iterdir()}
    assert files == {name for name in page.split('"') if name.endswith(".csv") and "/" not in name}
    assert {"accuracy-textvqa_ocr.csv", "captions.csv", "cost.csv", "cost-arms.csv"} <= files
    with (folder / "tables" / "captions.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["original_text"].startswith("Totally <script>alert('x')</script>")


def test_files_of_an_earlier_page_are_removed(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    old = tmp_path / "report" / "tables" / "accuracy-gone.csv"
    old.parent.mkdir(parents=True)
    old.write_text("a,b\n")
    build_page(experiment)
    assert not old.exists()


def test_the_run_card_keeps_its_schema_and_the_numbers(folder: Path) -> None:
    card = json.loads((folder / "run_card.json").read_text(encoding="utf-8"))
    comparison = json.loads((folder.parent / "comparison.json").read_text(encoding="utf-8"))
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    check = Draft202012Validator(schema)
    check.validate(card)
    with pytest.raises(ValidationError):
        check.validate({**card, "simulated": True})
    with pytest.raises(ValidationError):
        check.validate({**card, "surprise": 1})
    assert card["headline"] == comparison["headline"]
    for pair, row in zip(card["comparisons"], comparison["comparisons"], strict=True):
        assert {name: row[name] for name in pair} == pair
    assert card["arms"][0]["records"] == 64
    assert card["contract"] == "kept"
    assert card["cost"] == {
        "jobs": 3,
        "seconds": 37.5,
        "gpu_seconds": 0.0,
        "planned_seconds": None,
    }
    assert card["gates"] == {"passed": 30, "failed": 0}
    assert card["commands"][-1] == "snakemake --config experiment=demo"


def test_the_leaderboard_ranks_within_a_benchmark(folder: Path, tmp_path: Path) -> None:
    card = json.loads((folder / "run_card.json").read_text(encoding="utf-8"))
    for pair in card["comparisons"]:
        pair["verdict"] = "not distinguishable" if pair["identical_pair"] else "better"
    for name, gain in (("one", 0.0), ("two", 100.0)):
        rows = [{**row, "accuracy": row["accuracy"] + gain} for row in card["accuracies"]]
        path = tmp_path / name / "report" / "run_card.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({**card, "experiment": name, "accuracies": rows}))
    assert build_leaderboard(tmp_path, tmp_path / "leaderboard.tsv") == 6
    with (tmp_path / "leaderboard.tsv").open(encoding="utf-8") as stream:
        table = list(csv.DictReader(stream, delimiter="\t"))
    assert [row["rank"] for row in table] == ["1", "2", "3", "4", "5", "6"]
    assert [row["experiment"] for row in table] == ["two"] * 3 + ["one"] * 3
    values = [float(row["accuracy"]) for row in table]
    assert values == sorted(values, reverse=True)
    verdicts = {row["arm"]: row["verdict"] for row in table}
    assert verdicts == {
        "baseline": "reference",
        "blip2_enhanced": "better",
        "baseline_twin": "not distinguishable (A/A)",
    }
    assert {row["stand_ins"] for row in table} == {"micro_gemma, micro_clip"}


def test_a_card_of_another_form_is_left_out(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The table is written after every successful run, which an older card must not fail."""
    sound = (folder / "run_card.json").read_text(encoding="utf-8")
    for name, text in (("old", '{"experiment": "x"}'), ("torn", sound[:99]), ("new", sound)):
        path = tmp_path / name / "report" / "run_card.json"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert build_leaderboard(tmp_path, tmp_path / "leaderboard.tsv") == 3
    assert "old/report/run_card.json: not a run card of this version" in caplog.text
    assert "torn/report/run_card.json is not valid JSON" in caplog.text


def test_a_plan_is_shown_where_it_exists(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    text = build_page(experiment).read_text(encoding="utf-8")
    assert "no plan was written before the run" in text
    assert ">actual / planned<" not in text
    plan = {"rules": [{"rule": "finetune", "seconds": 50.0, "jobs": 2}], "other": 1}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    text = build_page(experiment, "planned").read_text(encoding="utf-8")
    assert "50.0 s were planned for jobs that took 25.0 s" in text
    assert ">actual / planned<" in text


def test_what_slurm_accounts_for_is_on_the_page(tmp_path: Path, monkeypatch) -> None:
    experiment = Experiment(tmp_path)
    key = comment_key("rule_finetune_wildcards_demo_baseline")
    lost_and_found = Attempts(seconds=[3600.0, 7200.0], gpu_seconds=21_600.0, joules=7.2e6)
    monkeypatch.setattr("recap.planning.accounting.ask_accounting", lambda _: {key: lost_and_found})
    text = build_page(experiment).read_text(encoding="utf-8")
    # 3 h of SLURM's, 12.5 s of the other job; 2 kWh
    assert "2 jobs took 3.0 h in sum, 6.0 h of it on GPUs, each counted, and 2.00 kWh" in text
    assert "over several nodes, of the first one alone, unless SLURM measured it" in text
    assert "3 attempts, those that failed included" in text
    with (tmp_path / "report/tables/cost.csv").open(encoding="utf-8") as stream:
        baseline, other = csv.DictReader(stream)
    assert (baseline["attempts"], other["attempts"]) == ("2", "1")
    assert (float(baseline["energy"]), other["energy"]) == (7.2e6, "")
