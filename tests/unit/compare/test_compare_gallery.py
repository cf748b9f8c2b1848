"""The gallery knows the truth where a corpus has it, and what was decided and why."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from recap.curate.gallery import GalleryExtras, build_gallery
from recap.errors import RecapError


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def record(identity: str, text: str, source: str | None = None) -> dict[str, Any]:
    row = {"id": identity, "text": f"<__dj__image> {text} <|__dj__eoc|>", "images": ["a.png"]}
    return row if source is None else {**row, "caption_source": source}


def gallery(folder: Path, extras: GalleryExtras | None) -> dict[str, dict[str, Any]]:
    names = ("a", "b", "c")
    records = lines(folder / "records.jsonl", [record(name, f"old {name}") for name in names])
    captions = lines(
        folder / "captions.jsonl", [{"id": name, "caption": f"new {name}\n"} for name in names]
    )
    kept = [record("a", "new a", "blip2"), record("b", "old b", "original")]
    rows = build_gallery(
        [records],
        captions=[captions],
        kept=lines(folder / "kept.jsonl", kept),
        size=3,
        seed=1,
        out=folder / "gallery.jsonl",
        extras=extras,
    )
    return {row["id"]: row for row in rows}


def test_fate_of_each_record(tmp_path: Path) -> None:
    rows = gallery(tmp_path, None)
    fates = {name: (row["kept"], row["replaced"]) for name, row in rows.items()}
    assert fates == {"a": (True, True), "b": (True, False), "c": (False, False)}
    assert "truth" not in rows["a"]


def test_truth_and_similarities_where_known(tmp_path: Path) -> None:
    truth = [
        {"id": name, "canonical": f"true {name}", "corruption": "none", "caption": "x"}
        for name in ("c", "b", "a", "unused")
    ]
    decisions = [
        {"id": "a", "replaced": True, "similarity_original": 0.12345, "similarity_new": 0.5},
        {"id": "b", "replaced": False, "similarity_original": None, "similarity_new": None},
    ]
    extras = GalleryExtras(
        lines(tmp_path / "truth.jsonl", truth), [lines(tmp_path / "d.jsonl", decisions)]
    )
    rows = gallery(tmp_path, extras)
    assert [row["truth"] for row in rows.values()] == ["true a", "true b", "true c"]
    assert (rows["a"]["similarity_original"], rows["a"]["similarity_new"]) == (0.1235, 0.5)
    assert "similarity_new" not in rows["b"]


def test_truth_must_cover_the_gallery(tmp_path: Path) -> None:
    truth = lines(tmp_path / "truth.jsonl", [{"id": "a", "canonical": "x", "corruption": "none"}])
    with pytest.raises(RecapError, match="id 'b' lacks canonical, corruption"):
        gallery(tmp_path, GalleryExtras(truth))


def test_similarities_of_policies_that_do_not_read_them(tmp_path: Path) -> None:
    """They come from the tables of score_similarity.py; an unscored caption has none."""
    from recap.curate.similarity import NEW_COLUMN, ORIGINAL_COLUMN
    from recap.curate.statistics import StatisticsTable, write_statistics

    columns = {
        ORIGINAL_COLUMN: [0.25, math.nan, 0.5],
        NEW_COLUMN: [0.75, 0.9, 0.123456],
    }
    table = tmp_path / "similarity.parquet"
    write_statistics(table, StatisticsTable(["b", "c", "unused"], columns, {}))
    rows = gallery(tmp_path, GalleryExtras(similarity=[table]))
    assert (rows["b"]["similarity_original"], rows["b"]["similarity_new"]) == (0.25, 0.75)
    assert rows["c"]["similarity_new"] == 0.9
    assert "similarity_original" not in rows["c"]
    assert "similarity_new" not in rows["a"]
