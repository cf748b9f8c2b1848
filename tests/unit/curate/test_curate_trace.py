"""Every lost record of an arm in one table, and the funnel's figure."""

import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from recap.compare.funnel_figure import draw_funnel
from recap.curate.funnel import stage
from recap.curate.trace import gather_funnel
from recap.errors import GateError
from recap.io import read_json, write_json, write_jsonl


def record(name: str) -> dict:
    return {"id": name, "text": "t", "images": []}


@pytest.fixture
def arm(tmp_path):
    """Ten lines: one refused, two filtered, one repeated, one rewritten too short, 2 + 1 more."""
    rejects = [{"line": 3, "id": 7, "reason": "no_image", "detail": "gone", "fix": "find it"}]
    write_jsonl(tmp_path / "rejects.jsonl", rejects)
    words = {"operator": "words_num_filter", "statistic": "num_words"}
    pre = [
        {"id": "a", **words, "value": 3, "bound": "min_num=6"},
        {"id": "b", **words, "value": [1.5, 2], "bound": "max_num=1"},
        {
            "id": "c",
            "operator": "document_deduplicator",
            "statistic": "hash",
            "value": "ff",
            "bound": "first of its group: e",
            "duplicate_of": "e",
        },
    ]
    write_jsonl(tmp_path / "pre0.jsonl", pre[:1])
    write_jsonl(tmp_path / "pre1.jsonl", pre[1:])
    write_jsonl(tmp_path / "post.jsonl", [{"id": "d", **words, "value": 1, "bound": "min_num=4"}])
    write_jsonl(tmp_path / "s0.jsonl", map(record, "efg"))
    write_jsonl(tmp_path / "s1.jsonl", map(record, "hi"))
    write_jsonl(tmp_path / "merged.jsonl", map(record, "ef"))
    write_jsonl(tmp_path / "other.jsonl", map(record, "efg"))
    stages = [
        stage("validate", None, 10, 9),
        stage("select", "words_num_filter", 9, 7),
        stage("select", "document_deduplicator", 7, 6),
        stage("reselect", "words_num_filter", 6, 5),
        stage("match", None, 5, 3),
        stage("budget", None, 3, 2),
    ]
    write_json(tmp_path / "funnel.json", {"arm": "x", "stages": stages, "rejects_by_reason": {}})
    return tmp_path


def gather(folder, **changed):
    files = {
        "rejects": folder / "rejects.jsonl",
        "pre_drops": [folder / "pre0.jsonl", folder / "pre1.jsonl"],
        "post_drops": [folder / "post.jsonl"],
        "shards": [folder / "s0.jsonl", folder / "s1.jsonl"],
        "merged": folder / "merged.jsonl",
        "match_ids": folder / "other.jsonl",
        "out": folder / "funnel.parquet",
    }
    return gather_funnel(folder / "funnel.json", **{**files, **changed})


def test_every_lost_record_has_its_step_statistic_value_and_bound(arm):
    assert gather(arm) == {
        "validate": 1,
        "select / words_num_filter": 2,
        "select / document_deduplicator": 1,
        "reselect / words_num_filter": 1,
        "match": 2,
        "budget": 1,
    }
    rows = pq.read_table(arm / "funnel.parquet").to_pylist()
    by_id = {row["id"]: row for row in rows}
    assert len(rows) == 8
    assert by_id["a"] == {
        "arm": "x",
        "step": "select",
        "operator": "words_num_filter",
        "id": "a",
        "statistic": "num_words",
        "value": 3.0,
        "value_text": "3",
        "bound": "min_num=6",
        "duplicate_of": None,
    }
    assert (by_id["b"]["value"], by_id["b"]["value_text"]) == (None, "[1.5, 2]")
    assert (by_id["c"]["duplicate_of"], by_id["c"]["value_text"]) == ("e", '"ff"')
    assert by_id["7"]["statistic"] == "no_image"
    assert {name: by_id[name]["step"] for name in "dghi"} == {
        "d": "reselect",
        "g": "budget",
        "h": "match",
        "i": "match",
    }
    counts = json.loads(pq.read_schema(arm / "funnel.parquet").metadata[b"recap_counts"])
    assert [row["records_out"] for row in counts] == [9, 7, 6, 5, 3, 2]


def test_what_was_held_out_is_not_taken_for_unmatched(arm):
    document = read_json(arm / "funnel.json")
    document["stages"][4:] = [
        stage("held_out", None, 5, 4),
        stage("match", None, 4, 3),
        stage("budget", None, 3, 2),
    ]
    write_json(arm / "funnel.json", document)
    write_json(arm / "ids.json", {"ids": ["h", "z"]})
    found = gather(arm, held_out=arm / "ids.json")
    assert (found["held_out"], found["match"], found["budget"]) == (1, 1, 1)
    rows = pq.read_table(arm / "funnel.parquet").to_pylist()
    assert [row["step"] for row in rows if row["id"] == "h"] == ["held_out"]


def test_an_arm_that_lost_nothing_has_an_empty_table(arm):
    write_json(arm / "funnel.json", {"arm": "x", "stages": [stage("validate", None, 2, 2)]})
    (arm / "none.jsonl").write_text("")
    gather(
        arm, rejects=arm / "none.jsonl", pre_drops=[], post_drops=[], shards=[arm / "merged.jsonl"]
    )
    assert pq.read_table(arm / "funnel.parquet").num_rows == 0


def test_a_loss_that_is_not_on_record_stops_the_job(arm):
    with pytest.raises(GateError, match="words_num_filter lost 2 records, but 1 are on record"):
        gather(arm, pre_drops=[arm / "pre1.jsonl"])
    assert not (arm / "funnel.parquet").exists()


def test_the_figure_names_every_step_and_count(arm):
    draw_funnel(arm / "funnel.json", svg=arm / "f.svg", png=arm / "f.png")
    svg = (arm / "f.svg").read_text(encoding="utf-8")
    for text in ("words num filter", "document deduplicator", "budget", "−2, 22.2%", "x: kept"):
        assert text in svg
    with Image.open(arm / "f.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
    first = [(arm / name).read_bytes() for name in ("f.svg", "f.png")]
    draw_funnel(arm / "funnel.json", svg=arm / "f.svg", png=arm / "f.png")
    assert [(arm / name).read_bytes() for name in ("f.svg", "f.png")] == first
