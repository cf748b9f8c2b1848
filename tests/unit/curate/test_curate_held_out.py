"""Held-out draws against sets worked out by hand."""

import json
from pathlib import Path

import pytest
from PIL import Image

from recap.curate.held_out import convert_held_out, draw_held_out, split_instructions
from recap.curate.merge import merge_arm
from recap.curate.records import original_text
from recap.errors import RecapError
from recap.io import read_json, read_jsonl, write_json, write_jsonl


def merged(path: Path, ids) -> Path:
    write_jsonl(
        path,
        ({"id": i, "text": original_text(f"old {i}"), "images": [f"images/{i}.png"]} for i in ids),
    )
    return path


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    (tmp_path / "images").mkdir()
    for i in "abcdef":
        Image.new("RGB", (4, 4)).save(tmp_path / f"images/{i}.png")
    return [merged(tmp_path / "0.jsonl", "abcd"), merged(tmp_path / "1.jsonl", "ef")]


def draw(shards: list[Path], size: int, seed: int = 1) -> list[str]:
    out = shards[0].with_name(f"ids{size}.json")
    draw_held_out(shards, size=size, seed=seed, out=out)
    return read_json(out)["ids"]


def test_the_draw_depends_on_ids_and_seed_alone(shards: list[Path]) -> None:
    three = draw(shards, 3)
    assert len(set(three) & set("abcdef")) == 3
    assert draw(shards, 2) == three[:2], "a smaller draw is part of a larger one"
    assert draw(shards[::-1], 3) == three
    assert len({tuple(draw(shards, 3, seed)) for seed in range(20)}) > 5
    with pytest.raises(RecapError, match=r"the reference arm has only 6 records"):
        draw(shards, 6)


def test_every_arm_leaves_them_out_before_it_is_matched(shards: list[Path], tmp_path: Path) -> None:
    ids = draw(shards, 2)
    report = {"lines": 6, "accepted": 6, "rejected": 0, "rejects": {}}
    write_json(tmp_path / "validate.json", report)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    for out, changes in ((first, {"max_records": 3}), (second, {"match_ids": first})):
        funnel = merge_arm(
            "arm",
            list(shards),
            out=out,
            funnel=tmp_path / "funnel.json",
            manifest=tmp_path / "manifest.json",
            validate_report=tmp_path / "validate.json",
            pre_counts=[],
            post_counts=[],
            held_out=tmp_path / "ids2.json",
            **changes,
        )
        assert [stage["stage"] for stage in funnel["stages"]][1] == "held_out"
        assert funnel["stages"][1]["records_out"] == 4
        kept = [row["id"] for row in read_jsonl(out)]
        assert len(kept) == 3
        assert not set(kept) & set(ids)


def test_both_styles_ask_the_same_ids_and_questions(shards: list[Path], tmp_path: Path) -> None:
    ids = draw(shards, 3)
    captions = tmp_path / "captions.jsonl"
    write_jsonl(captions, ({"id": i, "caption": f"new {i}\n"} for i in "abcdef"))
    for name, new in (("original", []), ("blip2", [captions])):
        convert_held_out(
            tmp_path / "ids3.json",
            shards,
            captions=new,
            image_root=tmp_path,
            out=tmp_path / f"{name}.json",
        )
    old, new = (read_json(tmp_path / f"{name}.json") for name in ("original", "blip2"))
    assert [s["id"] for s in old] == [s["id"] for s in new] == ids
    assert [s["conversations"][0] for s in old] == [s["conversations"][0] for s in new]
    assert [s["conversations"][1]["value"] for s in old] == [f"old {i}" for i in ids]
    assert [s["conversations"][1]["value"] for s in new] == [f"new {i}" for i in ids]
    write_jsonl(captions, [])
    with pytest.raises(RecapError, match="not among the records and captions"):
        convert_held_out(
            tmp_path / "ids3.json",
            shards,
            captions=[captions],
            image_root=tmp_path,
            out=tmp_path / "none.json",
        )


def test_instructions_are_split_by_picture(tmp_path: Path) -> None:
    samples = [{"id": str(i), "image": f"{i // 3}.png", "conversations": []} for i in range(30)]
    samples += [{"id": f"t{i}", "conversations": []} for i in range(5)]
    write_json(tmp_path / "all.json", samples)
    train, held = tmp_path / "train.json", tmp_path / "held.json"
    split_instructions(tmp_path / "all.json", size=11, seed=3, train=train, held_out=held)
    kept, out = json.loads(train.read_text()), json.loads(held.read_text())
    assert sorted(s["id"] for s in kept + out) == sorted(s["id"] for s in samples)
    assert 9 <= len(out) <= 11
    assert not {s["image"] for s in kept if "image" in s} & {s.get("image") for s in out}
    with pytest.raises(RecapError, match=r"35 of 35 samples would be held out"):
        split_instructions(tmp_path / "all.json", size=35, seed=3, train=train, held_out=held)


@pytest.mark.parametrize("entry", [{"conversations": []}, {"id": None}, {"image": ["a.png"]}, "a"])
def test_a_sample_with_neither_picture_nor_id_is_refused(tmp_path: Path, entry) -> None:
    write_json(tmp_path / "all.json", [{"id": 0}, entry, {"id": "b"}])
    sides = {"train": tmp_path / "train.json", "held_out": tmp_path / "held.json"}
    with pytest.raises(RecapError, match=r"all\.json, entry 1: expected an object with"):
        split_instructions(tmp_path / "all.json", size=1, seed=3, **sides)
    write_json(tmp_path / "all.json", {"id": "a"})
    with pytest.raises(RecapError, match="must hold a JSON list"):
        split_instructions(tmp_path / "all.json", size=1, seed=3, **sides)
