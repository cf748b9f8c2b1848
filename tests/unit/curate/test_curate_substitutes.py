"""Operators whose models or packages Data-Juicer would fetch work from this machine alone."""

import pytest

from recap.curate.measure import measure_shard
from recap.curate.records import original_text
from recap.curate.select import select_shard
from recap.curate.statistics import read_statistics
from recap.curate.substitutes import local_model
from recap.errors import RecapError
from recap.io import read_jsonl, write_jsonl

LANGUAGE = {"language_id_score_filter": {"lang": "en", "min_score": 0.3, "recap_text": "clean"}}


def test_the_language_of_captions_is_found_without_a_network(tmp_path):
    captions = ["the cat sleeps on the old wooden table", "der Hund liegt unter dem Tisch"]
    rows = [{"id": f"l{i}", "text": original_text(c), "images": []} for i, c in enumerate(captions)]
    write_jsonl(tmp_path / "in.jsonl", rows)
    table = tmp_path / "stats.parquet"
    measure_shard(
        tmp_path / "in.jsonl",
        image_root=tmp_path,
        operators=[{"language_id_score_filter": {"recap_text": "clean"}}],
        out=table,
        perf=tmp_path / "perf.json",
    )
    assert read_statistics(table).columns["lang[recap_text=clean]"] == ["en", "de"]
    select_shard(
        tmp_path / "in.jsonl",
        stats=table,
        operators=[LANGUAGE],
        kept=tmp_path / "kept.jsonl",
        drops=tmp_path / "drops.jsonl",
        counts=tmp_path / "counts.json",
    )
    assert [row["id"] for row in read_jsonl(tmp_path / "kept.jsonl")] == ["l0"]
    [drop] = read_jsonl(tmp_path / "drops.jsonl")
    assert (drop["id"], drop["operator"]) == ("l1", "language_id_score_filter")
    assert "lang=en" in drop["bound"]
    assert "de" in drop["value"]


def test_nothing_is_downloaded(tmp_path):
    (tmp_path / "here.bin").write_text("x")
    assert local_model(str(tmp_path / "here.bin")) == str(tmp_path / "here.bin")
    assert local_model("lid.176.bin").endswith("lid.176.ftz")
    for arguments in (("en.arpa.bin",), ("lid.176.bin", True)):
        with pytest.raises(RecapError, match=r"wants to download|cannot load"):
            local_model(*arguments)
