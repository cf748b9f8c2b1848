"""The shipped micro models: small, whole, built by the defaults, and good at what they are for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recap.demo.captions import canonical_caption
from recap.demo.draw import render, sample_size
from recap.demo.micro_models import settings_of
from recap.demo.micro_pictures import draw_pictures, normalized
from recap.demo.scene import sample_scene
from recap.demo.settings import MICRO_MODELS, MicroSettings
from recap.demo.streams import Stream, generator
from recap.demo.watermark import add_watermark
from recap.hashing import sha256_file
from recap.io import read_json

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = ROOT / "scripts" / "recap" / "demo" / "weights"
MOST_BYTES = 16_000_000
OTHER_SEED = 90_210  # neither the one the models were built with nor the world's
FRESH = 40


def test_together_they_are_small_and_nothing_else_is_shipped():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert {path.name for path in WEIGHTS.iterdir()} == set(MICRO_MODELS)
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".jinja"}


@pytest.mark.parametrize("name", MICRO_MODELS)
def test_files_are_those_the_defaults_built(name):
    manifest = read_json(WEIGHTS / name / "manifest.json")
    assert manifest["settings"] == json.loads(
        settings_of(name, MicroSettings()).model_dump_json()
    ), "the defaults have changed: build the model again"
    listed = {row["path"]: row["sha256"] for row in manifest["outputs"].values()}
    found = {p.name: sha256_file(p) for p in (WEIGHTS / name).iterdir() if p.name in listed}
    assert found == listed
    assert set(listed) == {p.name for p in (WEIGHTS / name).iterdir()} - {"manifest.json"}
    card = (WEIGHTS / name / "README.md").read_text(encoding="utf-8")
    for key, value in manifest["details"]["measured"].items():
        text = f"{value:,}" if key == "parameters" else f"{key.replace('_', ' ')}: {value}"
        assert text in card


def test_the_captioner_captions_pictures_it_has_never_seen():
    """Drawn as the world draws them, at full size, from another seed."""
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    folder = WEIGHTS / "blip2-micro"
    processor = Blip2Processor.from_pretrained(folder)
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    images, truths = [], []
    for index in range(FRESH):
        rng = generator(OTHER_SEED, Stream.RECORD, index)
        scene = sample_scene(rng)
        images.append(render(scene, rng, *sample_size(rng, 224, 448)))
        truths.append(canonical_caption(scene))
    inputs = processor(images=images, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    said = [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
    exact = sum(a == b for a, b in zip(said, truths, strict=True))
    assert exact >= 0.9 * FRESH
    blank = processor(images=[Image.new("RGB", (300, 300), (122, 116, 104))], return_tensors="pt")
    nothing = processor.batch_decode(
        model.generate(**blank, max_new_tokens=40, do_sample=False), skip_special_tokens=True
    )[0].strip()
    assert sum(nothing == truth for truth in truths) <= 1, "it must look"


def test_clip_puts_the_true_caption_nearest_among_forty():
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    folder = WEIGHTS / "clip-micro"
    model = CLIPModel.from_pretrained(folder)
    fresh = draw_pictures(OTHER_SEED, Stream.MICRO_HELD_OUT, FRESH, 64)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokens = AutoTokenizer.from_pretrained(folder)(
        fresh.captions, padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        logits = model(pixel_values=normalized(fresh.pixels, processor), **tokens).logits_per_image
    assert (logits.argmax(1) == torch.arange(FRESH)).float().mean() > 0.9


def test_the_detector_tells_marked_from_clean():
    from transformers import AutoImageProcessor, ViTForImageClassification

    folder = WEIGHTS / "watermark-micro"
    model = ViTForImageClassification.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    said = []
    for index in range(FRESH):
        rng = generator(OTHER_SEED, Stream.RECORD, index)
        clean = render(sample_scene(rng), rng, *sample_size(rng, 224, 448))
        for image in (clean, add_watermark(clean, rng)):
            values = processor(images=image, return_tensors="pt")
            with torch.inference_mode():
                said.append(int(model(**values).logits.argmax()))
    said = np.array(said).reshape(FRESH, 2)
    assert said[:, 0].mean() <= 0.1
    assert said[:, 1].mean() >= 0.9


def test_the_language_model_knows_what_follows_from_a_caption_but_not_which_picture():
    """It answers about a text it is told; asked without one, it can only guess."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = WEIGHTS / "gemma-micro"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    losses = {"english": [], "shuffled": []}
    rng = np.random.default_rng(0)
    for index in range(FRESH):
        caption = canonical_caption(sample_scene(generator(OTHER_SEED, Stream.RECORD, index)))
        words = caption.split()
        for name, text in (("english", caption), ("shuffled", " ".join(rng.permutation(words)))):
            ids = tokenizer(text, return_tensors="pt").input_ids
            with torch.inference_mode():
                losses[name].append(float(model(input_ids=ids, labels=ids).loss))
    assert np.mean(losses["english"]) < np.mean(losses["shuffled"]) - 1
