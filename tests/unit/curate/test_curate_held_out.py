"""Held-out draws against sets worked out by hand."""

import json
from pathlib import Path

import pytest
from PIL import Image

from recap.curate.convert import convert_llava
from recap.curate.held_out import convert_held_out, draw_held_out, split_instructions
from recap.curate.records import original_text
from recap.errors import RecapError
from recap.io import read_json, write_json, write_jsonl


def merged(path: Path, ids) -> Path:
    write_jsonl(
        path,
        ({"id": i, "text": original_text(f"old {i}"), "images": [f"images/{i}.png"]} for i in ids),
    )
    return path


@pytest.fixture
def arms(tmp_path: Path) -> list[Path]:
    (tmp_path / "images").mkdir()
    for i in "abcdefgh":
        Image.new("RGB", (4, 4)).save(tmp_path / f"images/{i}.png")
    return [merged(tmp_path / "one.jsonl", "abcdef"), merged(tmp_path / "two.jsonl", "hfedcg")]


def draw(arms: list[Path], size: int, seed: int = 1) -> list[str]:
    out = arms[0].with_name(f"ids{size}.json")
    draw_held_out(arms, size=size, seed=seed, out=out)
    return read_json(out)["ids"]


def test_only_ids_of_all_arms_are_drawn_whatever_their_order(arms: list[Path]) -> None:
    three = draw(arms, 3)
    assert set(three) < set("cdef")
    assert draw(arms, 2) == three[:2], "a smaller draw is part of a larger one"
    assert draw(arms[::-1], 3) == three
    assert len({tuple(draw(arms, 3, seed)) for seed in range(20)}) > 5
    with pytest.raises(RecapError, match=r"the 2 arms share only 4 records"):
        draw(arms, 4)


def test_what_is_held_out_is_not_trained_on(arms: list[Path], tmp_path: Path) -> None:
    ids = draw(arms, 2)
    for arm in arms:
        convert_llava(
            arm,
            image_root=tmp_path,
            out=tmp_path / "train.json",
            manifest=tmp_path / "manifest.json",
            held_out=tmp_path / "ids2.json",
        )
        trained = [sample["id"] for sample in read_json(tmp_path / "train.json")]
        assert len(trained) == 4
        assert not set(trained) & set(ids)
        manifest = read_json(tmp_path / "manifest.json")
        assert manifest["counts"] == {"records_in": 6, "records_out": 4}
        assert manifest["details"]["records"] == 4


def test_both_styles_ask_the_same_ids_and_questions(arms: list[Path], tmp_path: Path) -> None:
    ids = draw(arms, 3)
    captions = tmp_path / "captions.jsonl"
    write_jsonl(captions, ({"id": i, "caption": f"new {i}\n"} for i in "abcdef"))
    for name, shards in (("original", []), ("blip2", [captions])):
        convert_held_out(
            tmp_path / "ids3.json",
            [arms[0]],
            captions=shards,
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
            [arms[0]],
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
