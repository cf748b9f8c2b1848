"""The world is a function of its settings, and holds what its summary says."""

import csv
import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from recap.cli import parse_settings
from recap.curate.questions import STAGE1_QUESTIONS
from recap.demo.badlines import BAD_KINDS, LONG_CAPTION_CHARS
from recap.demo.corpus import build_corpus, record_id
from recap.demo.settings import WorldSettings
from recap.demo.tree import Tree
from recap.demo.world import build_world
from recap.errors import RecapError
from recap.io import read_json, read_jsonl

ROOT = Path(__file__).resolve().parents[3]
SMALL = {
    "records": 40,
    "sft_samples": 30,
    "questions": 20,
    "images": {"tiny": 0.06, "duplicate": 0.06, "near_duplicate": 0.06, "watermark": 0.1},
    "mmbench_questions": 6,
    "pope_images": 4,
    "image_max_side": 256,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    build_world(folder, WorldSettings(**SMALL), folder / "perf.json")
    return folder


def corpus_lines(folder):
    return (folder / "corpus.jsonl").read_bytes().split(b"\n")[:-1]


def tree_bytes(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "perf.json")
    }


def test_same_seed_same_bytes_whatever_lay_there_before(world, tmp_path):
    (tmp_path / "images" / "00000").mkdir(parents=True)
    (tmp_path / "images" / "00000" / "stale.jpg").write_bytes(b"old")
    build_world(tmp_path, WorldSettings(**SMALL))
    assert tree_bytes(tmp_path) == tree_bytes(world)


def test_another_process_and_hash_seed_write_the_same_bytes(world, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "build_demo_world.py"), "--out"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "77"}
    subprocess.run(
        [*command, str(tmp_path / "w"), "--settings", json.dumps(SMALL)], env=env, check=True
    )
    assert tree_bytes(tmp_path / "w") == tree_bytes(world)


def test_another_seed_draws_other_pictures_and_ids(world, tmp_path):
    build_world(tmp_path, WorldSettings(**SMALL, seed=7))
    assert (
        read_json(tmp_path / "world.json")["tree_sha256"]
        != (read_json(world / "world.json")["tree_sha256"])
    )
    ours, theirs = ({row["id"] for row in read_jsonl(f / "truth.jsonl")} for f in (world, tmp_path))
    assert not ours & theirs


def test_a_larger_world_begins_with_the_smaller_one(tmp_path):
    flawed = {"tiny": 0.2, "duplicate": 0.2, "near_duplicate": 0.2, "watermark": 0.3}
    settings = {"images": flawed, "image_max_side": 230}
    few, many = (
        build_corpus(WorldSettings(records=n, **settings), Tree(tmp_path / str(n), ["images"]))
        for n in (20, 31)
    )
    assert many.truth[:20] == few.truth
    bad = [{row["line"] - 1 for row in corpus.bad_lines} for corpus in (few, many)]
    good = [
        [line for number, line in enumerate(corpus.lines) if number not in skip]
        for corpus, skip in zip((few, many), bad, strict=True)
    ]
    assert good[1][:20] == good[0]
    assert [many.lines[n] for n in sorted(bad[1])] == [few.lines[n] for n in sorted(bad[0])]
    small, large = tree_bytes(tmp_path / "20"), tree_bytes(tmp_path / "31")
    assert small == {name: large[name] for name in small}
    assert len(large) > len(small)


def test_summary_counts_what_is_there(world):
    summary = read_json(world / "world.json")
    lines = corpus_lines(world)
    images = [p for p in world.rglob("*") if p.suffix in (".jpg", ".png")]
    assert summary["counts"] == {
        "corpus_lines": len(lines),
        "records": 40,
        "bad_lines": len(BAD_KINDS),
        "sft": 30,
        "questions": 20,
        "question_images": len({q["image"] for q in read_questions(world)}),
        "images": len(images),
        "pope": 24,
        "mmbench_rows": len(read_table(world)),
    }
    assert len(lines) == 40 + len(BAD_KINDS)
    assert summary["bad_lines_by_kind"] == dict.fromkeys(BAD_KINDS, 1)
    assert read_json(world / "perf.json")["items"] == len(images)


def test_good_records_are_fit(world):
    bad = {row["line"] for row in read_json(world / "bad_lines.json")}
    good = [json.loads(b) for n, b in enumerate(corpus_lines(world), 1) if n not in bad]
    truth = read_jsonl(world / "truth.jsonl")
    assert [record["id"] for record in good] == [row["id"] for row in truth]
    assert len({record["id"] for record in good}) == 40
    for record, row in zip(good, truth, strict=True):
        assert list(record) == ["id", "text", "images"]
        caption = record["text"].removeprefix("<__dj__image>\n").removesuffix(" <|__dj__eoc|>")
        assert len(record["text"]) == len(caption) + 28
        if row["corruption"] == "none":
            assert caption == row["caption"]
        path = world / record["images"][0]
        assert path.stat().st_size < 15_000
        with Image.open(path) as image:
            image.load()
            assert image.size == (row["width"], row["height"])
            tiny = row["image_kind"] == "tiny"
            assert (max(image.size) < 224) if tiny else (min(image.size) >= 224)
    names = {row["id"]: row for row in truth}
    for row in truth:
        same = row["image_kind"] == "duplicate"
        assert (row["duplicate_of"] is not None) == (same or row["image_kind"] == "near_duplicate")
        if row["duplicate_of"] is not None:
            first = names[row["duplicate_of"]]
            assert first["image_kind"] == "normal"
            assert [first[k] for k in ("scene", "watermark")] == [row["scene"], row["watermark"]]
            ours, theirs = ((world / r["image"]).read_bytes() for r in (row, first))
            assert (ours == theirs) == same
    summary = read_json(world / "world.json")
    assert summary["images_by_kind"] == Counter(row["image_kind"] for row in truth)
    assert set(summary["images_by_kind"]) == {"normal", "tiny", "duplicate", "near_duplicate"}
    assert summary["watermarked_images"] == sum(row["watermark"] for row in truth) > 0


def read_table(folder):
    path = folder / "mmbench" / "mmbench_dev_20230712.tsv"
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def bad_line(folder, kind):
    [row] = [row for row in read_json(folder / "bad_lines.json") if row["kind"] == kind]
    assert 10 < row["line"] < len(corpus_lines(folder)) - 10
    return corpus_lines(folder)[row["line"] - 1], row


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_each_bad_line_is_bad_in_its_own_way_only(world, kind):
    data, row = bad_line(world, kind)
    if kind == "not_utf8":
        with pytest.raises(UnicodeDecodeError):
            data.decode("utf-8")
        assert json.loads(data.decode("latin-1"))["id"]
        return
    if kind == "malformed_json":
        with pytest.raises(json.JSONDecodeError):
            json.loads(data)
        return
    record = json.loads(data)
    assert record.get("id") == row["id"]
    keys = {"id", "text", "images"} - {kind.removeprefix("missing_")}
    assert set(record) == keys
    text, [image] = record.get("text", "<__dj__image> x"), record.get("images", ["-"])
    caption = text.replace("<__dj__image>", "").replace("<|__dj__eoc|>", "").strip()
    path = world / image
    assert (text.count("<__dj__image>") == 2) == (kind == "two_image_tokens")
    assert (caption == "") == (kind == "empty_caption")
    assert (len(caption) == LONG_CAPTION_CHARS) == (kind == "long_caption")
    assert image.startswith("/") == (kind == "absolute_path")
    assert (".." in image) == (kind == "parent_path")
    assert loads(path) == (kind not in BROKEN)
    earlier = [json.loads(line)["id"] for line in corpus_lines(world)[:10]]
    assert (record.get("id") in earlier) == (kind == "duplicate_id")


BROKEN = {
    "missing_images", "missing_image", "truncated_image", "empty_image", "decompression_bomb",
    "absolute_path", "parent_path",
}  # fmt: skip


def loads(path):
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            image.load()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return False
    return True


def test_the_bomb_is_small_and_claims_to_be_huge(world):
    data, _ = bad_line(world, "decompression_bomb")
    path = world / json.loads(data)["images"][0]
    assert path.stat().st_size < 1000
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert int.from_bytes(path.read_bytes()[16:20], "big") == 30_000


def test_bad_lines_can_be_repeated_or_left_out(tmp_path):
    settings = {**SMALL, "records": 8}
    none = build_corpus(WorldSettings(**settings, bad_lines=0), Tree(tmp_path / "0", ["images"]))
    twice = build_corpus(WorldSettings(**settings, bad_lines=2), Tree(tmp_path / "2", ["images"]))
    assert (len(none.lines), none.bad_lines) == (8, [])
    assert Counter(row["kind"] for row in twice.bad_lines) == dict.fromkeys(BAD_KINDS, 2)
    ids = [row["id"] for row in twice.bad_lines if row["id"] and row["kind"] != "duplicate_id"]
    assert len(set(ids)) == len(ids)


def test_original_has_llavas_first_stage_form(world):
    bad = {row["line"] for row in read_json(world / "bad_lines.json")}
    good = [json.loads(b) for n, b in enumerate(corpus_lines(world), 1) if n not in bad]
    original = read_json(world / "original.json")
    assert [row["id"] for row in original] == [record["id"] for record in good]
    for row, record in zip(original, good, strict=True):
        assert list(row) == ["id", "conversations", "image"]
        human, answer = row["conversations"]
        assert human["from"] == "human"
        assert human["value"].removeprefix("<image>\n") in STAGE1_QUESTIONS
        assert answer == {"from": "gpt", "value": record["text"][14:-14]}
        assert row["image"] == record["images"][0]
    asked = {row["conversations"][0]["value"] for row in original}
    assert len(asked) >= 8


def test_instructions_have_llavas_form(world):
    samples = read_json(world / "sft.json")
    for sample in samples:
        turns = sample["conversations"]
        assert [t["from"] for t in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert turns[0]["value"].startswith("<image>\n") == ("image" in sample)
        assert sum("<image>" in turn["value"] for turn in turns) == ("image" in sample)
        if "image" in sample:
            assert loads(world / sample["image"])
    with_ocr = sum("Reference OCR token:" in s["conversations"][0]["value"] for s in samples)
    assert 5 < with_ocr < 25
    assert 1 <= sum("image" not in sample for sample in samples) <= 8


def read_questions(folder):
    return read_jsonl(folder / "textvqa" / "llava_textvqa_val_v051_ocr.jsonl")


def test_benchmark_has_textvqas_form(world):
    annotations = read_json(world / "textvqa" / "TextVQA_0.5.1_val.json")
    questions = read_questions(world)
    assert len(annotations["data"]) == len(questions) == 20
    for row, question in zip(annotations["data"], questions, strict=True):
        assert list(question) == ["question_id", "image", "text"]
        assert question["question_id"] == row["image_id"]
        assert len(row["image_id"]) == 16
        assert int(row["image_id"], 16) >= 0
        assert question["image"] == f"{row['image_id']}.jpg"
        assert loads(world / "textvqa" / "train_images" / question["image"])
        assert len(row["answers"]) == 10
        first, second, third = question["text"].split("\n")
        assert first.lower() == row["question"].lower()
        assert second.startswith("Reference OCR token: ")
        assert third == "Answer the question using a single word or phrase."
    keys = {(row["image_id"], row["question"].lower()) for row in annotations["data"]}
    assert len(keys) == 20
    assert 1.2 < 20 / len({q["image"] for q in questions}) <= 2


def test_an_empty_token_list_keeps_the_trailing_space(tmp_path):
    settings = WorldSettings(
        records=2, bad_lines=0, sft_samples=0, questions=3, pope_images=0, mmbench_questions=0,
        questions_no_ocr_share=1.0, image_max_side=230,
    )  # fmt: skip
    build_world(tmp_path, settings)
    assert all("\nReference OCR token: \n" in q["text"] for q in read_questions(tmp_path))


def test_record_ids_are_distinct_and_keep_leading_zeros():
    ids = [record_id(3, index) for index in range(20_000)]
    assert len(set(ids)) == len(ids)
    assert {len(name) for name in ids} == {9}
    assert all(name.startswith("00") for name in ids)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recrods": 3}, "recrods"),
        ({"corruption": {"off_topic": 0.9}}, "corruption rates sum to 1.4"),
        ({"image_min_side": 300, "image_max_side": 200}, "image_max_side"),
        ({"images": {"tiny": 0.6, "duplicate": 0.6}}, "duplicate rates sum to 1.2"),
    ],
)
def test_wrong_settings_say_which_key(values, message):
    with pytest.raises(RecapError, match=message):
        parse_settings(WorldSettings, json.dumps(values))


def test_command_line_builds_and_refuses(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "build_demo_world.py"), "--out"]
    tiny = json.dumps({**SMALL, "records": 5, "sft_samples": 2, "questions": 2})
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path / "w"), "--settings", tiny], env=env, check=False)
    assert done.returncode == 0
    assert read_json(tmp_path / "w" / "manifest.json")["stage"] == "world"
    wrong = subprocess.run(
        [*command, str(tmp_path / "x"), "--settings", '{"seed": -1}'],
        env=env, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert "seed" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert not (tmp_path / "x").exists()


def test_images_are_not_all_alike(world):
    rows = read_jsonl(world / "truth.jsonl")[:10]
    means = [np.asarray(Image.open(world / row["image"])).mean() for row in rows]
    assert np.std(means) > 5
