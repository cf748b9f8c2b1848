import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from caption_models import build
from PIL import Image

from recap.caption.fingerprint import captioner_fingerprint, describe_captioner, model_digest
from recap.caption.shard import Machine, caption_shard
from recap.caption.store import CaptionStore
from recap.errors import RecapError
from recap.io import read_json, read_jsonl, write_jsonl
from recap.settings import CaptionSettings


@pytest.fixture(scope="module")
def blip2(tmp_path_factory) -> Path:
    """A random BLIP-2 of a few thousand parameters with the real file layout."""
    return build(tmp_path_factory.mktemp("blip2"))


def make_shard(folder: Path, count: int, repeats: int = 0) -> Path:
    rng = np.random.default_rng(7)
    (folder / "images").mkdir(parents=True)
    rows = []
    for index in range(count):
        pixels = np.zeros((20 + index % 3, 24, 3), dtype=np.uint8)
        pixels[:, : 2 + 2 * index] = rng.integers(0, 255, 3)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        rows.append({"id": str(index), "text": "t", "images": [f"images/{index}.png"]})
    for index in range(repeats):
        data = (folder / "images" / f"{index}.png").read_bytes()
        (folder / "images" / f"again{index}.png").write_bytes(data)
        rows.append({"id": f"again{index}", "text": "t", "images": [f"images/again{index}.png"]})
    write_jsonl(folder / "shard.jsonl", rows)
    return folder / "shard.jsonl"


def settings(**changes) -> CaptionSettings:
    return CaptionSettings(**{"dtype": "float32", "max_new_tokens": 6, "batch_size": 4, **changes})


def run(shard: Path, model: Path, out: Path, store: Path, **changes) -> list[dict]:
    caption_shard(
        shard,
        image_root=shard.parent,
        model=model,
        captioner="tiny",
        store=store,
        settings=settings(**changes),
        out=out,
        perf=out.with_suffix(".perf.json"),
        machine=Machine("cpu"),
    )
    return read_jsonl(out)


@pytest.mark.parametrize("changes", [{}, {"num_beams": 3}, {"prompt": "w1 w2"}])
def test_the_batch_changes_no_caption(tmp_path, blip2, changes):
    shard = make_shard(tmp_path / "data", 11)
    alone = run(shard, blip2, tmp_path / "a.jsonl", tmp_path / "s1", batch_size=1, **changes)
    together = run(shard, blip2, tmp_path / "b.jsonl", tmp_path / "s2", batch_size=11, **changes)
    uneven = run(shard, blip2, tmp_path / "c.jsonl", tmp_path / "s3", batch_size=4, **changes)
    assert alone == together == uneven
    assert [row["id"] for row in alone] == [str(index) for index in range(11)]
    assert len({row["caption"] for row in alone}) > 3  # they do depend on the image
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_captions_are_those_of_the_plain_transformers_call(tmp_path, blip2):
    import torch
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    shard = make_shard(tmp_path / "data", 5)
    ours = run(shard, blip2, tmp_path / "a.jsonl", tmp_path / "store")
    model = Blip2ForConditionalGeneration.from_pretrained(blip2).eval()
    processor = Blip2Processor.from_pretrained(blip2)
    for row in ours:
        image = Image.open(tmp_path / "data" / "images" / f"{row['id']}.png").convert("RGB")
        inputs = processor(images=[image], return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        assert processor.batch_decode(ids, skip_special_tokens=True) == [row["caption"]]


def test_prompt_and_decoding_make_another_captioner(tmp_path, blip2):
    names = {
        captioner_fingerprint(describe_captioner(blip2, settings(**changes), tmp_path))
        for changes in ({}, {"prompt": "w1"}, {"num_beams": 2}, {"max_new_tokens": 7})
    }
    same = captioner_fingerprint(describe_captioner(blip2, settings(batch_size=9), tmp_path))
    assert len(names) == 4
    assert same in names


def test_weights_make_another_captioner(tmp_path, blip2):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in blip2.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert model_digest(copy, tmp_path / "cache") == model_digest(blip2, tmp_path / "cache")
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert model_digest(copy, tmp_path / "cache") != model_digest(blip2, tmp_path / "cache")


def test_known_images_never_reach_the_model(tmp_path, blip2):
    shard = make_shard(tmp_path / "data", 6, repeats=2)
    first = run(shard, blip2, tmp_path / "a.jsonl", tmp_path / "store")
    perf = read_json(tmp_path / "a.perf.json")
    assert (perf["captioned"], perf["from_store"], perf["repeated_images"]) == (6, 0, 2)
    assert first[6]["caption"] == first[0]["caption"]
    again = run(shard, blip2, tmp_path / "b.jsonl", tmp_path / "store", batch_size=2)
    perf = read_json(tmp_path / "b.perf.json")
    assert (perf["captioned"], perf["from_store"], perf["items"]) == (0, 6, 0)
    assert again == first


def test_without_missing_images_no_model_is_loaded(tmp_path, blip2):
    shard = make_shard(tmp_path / "data", 3)
    run(shard, blip2, tmp_path / "a.jsonl", tmp_path / "store")
    code = (
        "import sys; from recap.cli import run_cli; import caption_shard as c;"
        "run_cli(c.main, c.parser()); assert 'torch' not in sys.modules"
    )
    arguments = ["--records", shard, "--image-root", shard.parent, "--model", blip2]
    arguments += ["--captioner", "tiny", "--store", tmp_path / "store"]
    arguments += ["--settings", settings().model_dump_json(), "--out", tmp_path / "b.jsonl"]
    arguments += ["--perf", tmp_path / "p.json"]
    scripts = Path(__file__).parents[3] / "scripts"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(scripts)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()


def test_a_stopped_shard_goes_on_where_it_was(tmp_path, blip2):
    shard = make_shard(tmp_path / "data", 10)
    rows = read_jsonl(shard)
    whole = run(shard, blip2, tmp_path / "whole.jsonl", tmp_path / "other")
    good = (tmp_path / "data" / "images" / "9.png").read_bytes()
    (tmp_path / "data" / "images" / "9.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(RecapError, match="id '9'"):
        run(shard, blip2, tmp_path / "a.jsonl", tmp_path / "store")
    assert not (tmp_path / "a.jsonl").exists()
    (tmp_path / "data" / "images" / "9.png").write_bytes(good)
    resumed = run(shard, blip2, tmp_path / "a.jsonl", tmp_path / "store")
    perf = read_json(tmp_path / "a.perf.json")
    assert (perf["captioned"], perf["from_store"]) == (2, 8)  # two full batches of four were kept
    assert resumed == whole
    assert len(resumed) == len(rows)


def test_a_missing_image_names_its_record(tmp_path, blip2):
    shard = make_shard(tmp_path / "data", 2)
    (tmp_path / "data" / "images" / "1.png").unlink()
    with pytest.raises(RecapError, match="id '1'"):
        run(shard, blip2, tmp_path / "a.jsonl", tmp_path / "store")


def test_an_empty_shard_gives_an_empty_file(tmp_path, blip2):
    (tmp_path / "shard.jsonl").write_text("")
    assert run(tmp_path / "shard.jsonl", blip2, tmp_path / "a.jsonl", tmp_path / "store") == []


def test_exif_rotation_is_applied(tmp_path):
    from recap.caption.pixels import ImageFile, load_image
    from recap.hashing import sha256_file

    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("L", (30, 10)).save(buffer, "JPEG", exif=exif)
    path = tmp_path / "a.jpg"
    path.write_bytes(buffer.getvalue())
    image = load_image(ImageFile("1", path, sha256_file(path)))
    assert (image.size, image.mode) == ((10, 30), "RGB")


def test_two_writers_share_a_store(tmp_path):
    with CaptionStore(tmp_path, "f") as one, CaptionStore(tmp_path, "f") as two:
        one.append({"a": ["1"]})
        two.append({"b": ["2\n", "x"]})
        one.append({"c": ["3"]})
        assert two.lookup(["a", "b", "c", "d"]) == {"a": ["1"], "b": ["2\n", "x"], "c": ["3"]}
    assert len(list((tmp_path / "f" / "segments").iterdir())) == 2
    assert CaptionStore(tmp_path, "other").lookup(["a"]) == {}


def test_torn_and_damaged_rows_are_never_read(tmp_path, caplog):
    with CaptionStore(tmp_path, "f") as store:
        store.append({"a": ["one"], "b": ["two"]})
    segment = next((tmp_path / "f" / "segments").iterdir())
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(lines[0].replace(b"one", b"ONE") + lines[1] + lines[0][:-9])
    assert CaptionStore(tmp_path, "f").lookup(["a", "b"]) == {"b": ["two"]}
    assert "1 damaged" in caplog.text


def test_contradicting_rows_resolve_the_same_way_in_any_order(tmp_path):
    for captions in (("x", "y"), ("y", "x")):
        root = tmp_path / captions[0]
        for caption in captions:
            with CaptionStore(root, "f") as store:
                store.append({"a": [caption]})
        assert CaptionStore(root, "f").lookup(["a"]) == {"a": ["x"]}


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(RecapError, match="no model weights"):
        model_digest(tmp_path, tmp_path / "cache")


def test_old_segments_are_merged_and_live_ones_left(tmp_path):
    for index in range(3):
        with CaptionStore(tmp_path, "f") as store:
            store.append({f"{index}": [f"caption {index}"], "shared": [f"{index}"]})
    segments = tmp_path / "f" / "segments"
    for path in sorted(segments.iterdir())[:2]:
        os.utime(path, (1, 1))
    live = sorted(segments.iterdir())[2]
    before = CaptionStore(tmp_path, "f").lookup(["0", "1", "2", "shared"])
    assert CaptionStore(tmp_path, "f").merge(older_than_hours=1) == 2
    assert CaptionStore(tmp_path, "f").lookup(["0", "1", "2", "shared"]) == before
    assert before["shared"] == ["0"]
    assert len(list(segments.iterdir())) == 2
    assert live.is_file()
    assert CaptionStore(tmp_path, "f").merge(older_than_hours=1) == 0  # one alone stays


def test_candidates_are_written_stored_and_found_again(tmp_path, blip2):
    shard = make_shard(tmp_path / "data", 4)
    rows = run(shard, blip2, tmp_path / "a.jsonl", tmp_path / "store", candidates=3, batch_size=6)
    assert all(row["caption"] == row["candidates"][0] for row in rows)
    assert {len(row["candidates"]) for row in rows} == {3}
    again = run(shard, blip2, tmp_path / "b.jsonl", tmp_path / "store", candidates=3, batch_size=3)
    assert again == rows
    assert read_json(tmp_path / "b.perf.json")["captioned"] == 0
