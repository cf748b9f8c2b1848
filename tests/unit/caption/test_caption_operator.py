"""The captioner as a Data-Juicer operator."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from caption_models import build
from PIL import Image, ImageFile

from recap.caption.shard import Machine, caption_shard
from recap.curate.records import captioned_text, original_text
from recap.io import read_jsonl, write_jsonl
from recap.settings import CaptionSettings

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _strict_decoding():
    """Data-Juicer lets truncated images pass, in its whole process."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    yield
    ImageFile.LOAD_TRUNCATED_IMAGES = before


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    build(folder / "model")
    rows = []
    for index in range(5):
        Image.new("RGB", (20, 30 + index), (40 * index, 255 - 30 * index, 90)).save(
            folder / f"{index}.png"
        )
        rows.append(
            {"id": str(index), "text": original_text("an old one"), "images": [f"{index}.png"]}
        )
    write_jsonl(folder / "in.jsonl", rows)
    caption_shard(
        folder / "in.jsonl",
        image_root=folder,
        model=folder / "model",
        captioner="tiny",
        store=folder / "store",
        settings=CaptionSettings(dtype="float32", max_new_tokens=6),
        out=folder / "captions.jsonl",
        perf=folder / "perf.json",
        machine=Machine("cpu"),
    )
    return folder


def operator(folder):
    from recap.caption.operator import RecapCaptioningMapper

    return RecapCaptioningMapper(
        str(folder / "model"), dtype="float32", max_new_tokens=6, accelerator="cpu"
    )


def test_texts_are_those_of_the_shard(world):
    rows = read_jsonl(world / "in.jsonl")
    samples = {
        "id": [row["id"] for row in rows],
        "text": [row["text"] for row in rows],
        "images": [[str(world / image) for image in row["images"]] for row in rows],
    }
    found = operator(world).process_batched(samples)["text"]
    captions = [row["caption"] for row in read_jsonl(world / "captions.jsonl")]
    assert found == [captioned_text(caption) for caption in captions]
    assert len(set(found)) > 1


def test_several_images_keep_their_places(world):
    images = [[str(world / "0.png"), str(world / "3.png")], []]
    text = "<__dj__image>\none <__dj__image> two <|__dj__eoc|>"
    found = operator(world).process_batched({"text": [text, "words"], "images": images})["text"]
    first, second = (read_jsonl(world / "captions.jsonl")[i]["caption"] for i in (0, 3))
    wanted = f"<__dj__image> {first} <__dj__image> {second} <|__dj__eoc|>"
    assert found == [wanted, "words"]


def test_tokens_without_images_are_an_error(world):
    samples = {"text": ["no token here"], "images": [[str(world / "0.png")]]}
    with pytest.raises(ValueError, match="0 image tokens for 1 images"):
        operator(world).process_batched(samples)


@pytest.mark.slow
def test_dj_process_runs_it(world, tmp_path):
    recipe = {
        "project_name": "operator",
        "dataset_path": str(world / "in.jsonl"),
        "export_path": str(tmp_path / "out.jsonl"),
        "np": 1,
        "text_keys": "text",
        "image_key": "images",
        "custom_operator_paths": [str(ROOT / "scripts" / "recap_captioning_mapper.py")],
        "process": [
            {
                "recap_captioning_mapper": {
                    "hf_img2seq": str(world / "model"),
                    "dtype": "float32",
                    "max_new_tokens": 6,
                    "accelerator": "cpu",
                }
            }
        ],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    done = subprocess.run(
        [Path(sys.executable).parent / "dj-process", "--config", tmp_path / "recipe.yaml"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "scripts"),
            "UV_OFFLINE": "1",
            "PIP_NO_INDEX": "1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    captions = [row["caption"] for row in read_jsonl(world / "captions.jsonl")]
    found = [row["text"] for row in read_jsonl(tmp_path / "out.jsonl")]
    assert found == [captioned_text(caption) for caption in captions]
