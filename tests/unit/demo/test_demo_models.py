"""Micro models: same seed same bytes, real special ids, loadable, and able to learn."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from recap.demo.micro_models import build_micro_model
from recap.demo.micro_pictures import draw_pictures
from recap.demo.micro_tokenizers import build_gemma_tokenizer
from recap.demo.scene import sample_scene
from recap.demo.settings import MICRO_MODELS, MicroSettings, WorldSettings
from recap.demo.streams import Stream, generator
from recap.hashing import sha256_file
from recap.io import read_json

ROOT = Path(__file__).resolve().parents[3]
LESSONS = {"pictures": 60, "steps": 3, "batch_size": 8, "held_out": 8}
SHORT = MicroSettings.model_validate(
    {
        "language": {
            "steps": 40, "batch_size": 4, "texts": 40, "hidden_size": 32, "layers": 2, "heads": 2,
            "head_dim": 16, "intermediate_size": 64, "held_out": 4, "tile_grid": 4,
        },
        "captioner": {
            **LESSONS, "steps": 40, "look_share": 0.25, "vision_width": 32, "vision_layers": 1,
            "qformer_width": 32, "text_width": 32, "text_layers": 1, "heads": 2,
            "image_size": 32, "patch_size": 16,
        },
        "clip": {**LESSONS, "width": 32, "layers": 2, "heads": 2, "text_width": 32},
        "convnext": {**LESSONS, "dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
        "watermark": {**LESSONS, "width": 32, "layers": 1},
    }
)  # fmt: skip
WEIGHTS = {
    "gemma-micro": "model.safetensors.index.json",
    "clip-micro": "model.safetensors",
    "convnext-micro": "open_clip_model.safetensors",
    "blip2-micro": "model.safetensors",
    "watermark-micro": "model.safetensors",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in MICRO_MODELS:
        build_micro_model(name, folder / name, seed=7, settings=SHORT)
    return folder


def hashes(folder):
    return {p.name: sha256_file(p) for p in folder.iterdir() if p.name != "manifest.json"}


def measured(folder):
    return read_json(folder / "manifest.json")["details"]["measured"]


@pytest.mark.parametrize("name", MICRO_MODELS)
def test_folder_says_that_it_is_a_stand_in(models, name):
    card = (models / name / "README.md").read_text()
    assert "micro stand-in" in card
    assert "--seed 7" in card
    manifest = read_json(models / name / "manifest.json")
    assert (manifest["stage"], manifest["seed"]) == ("models", 7)
    assert manifest["details"]["stands_for"] in card
    assert set(manifest["outputs"]) == set(hashes(models / name))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.startswith(("gemma", "clip")) else name
        for name in MICRO_MODELS
    ],
)
def test_same_seed_same_bytes_and_another_seed_other_weights(models, name, tmp_path):
    build_micro_model(name, tmp_path / "again", seed=7, settings=SHORT)
    assert hashes(tmp_path / "again") == hashes(models / name)
    if name in ("gemma-micro", "blip2-micro"):
        return  # slow to train once more, and their weights start like the others'
    build_micro_model(name, tmp_path / "other", seed=8, settings=SHORT)
    weights = WEIGHTS[name]
    assert hashes(tmp_path / "other")[weights] != hashes(models / name)[weights]


def test_an_older_folder_is_replaced(models, tmp_path):
    target = tmp_path / "watermark-micro"
    target.mkdir()
    (target / "stale.bin").write_bytes(b"old")
    build_micro_model("watermark-micro", target, seed=7, settings=SHORT)
    assert hashes(target) == hashes(models / "watermark-micro")
    assert [path.name for path in tmp_path.iterdir()] == ["watermark-micro"]


def test_gemma_ids_and_padding():
    tokenizer = build_gemma_tokenizer(7, 1024)
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    assert tokenizer.convert_ids_to_tokens(list(range(5))) == names
    assert tokenizer.convert_ids_to_tokens([106, 107, 108]) == [
        "<start_of_turn>",
        "<end_of_turn>",
        "\n",
    ]
    assert tokenizer.padding_side == "right"
    ids = tokenizer("<start_of_turn>user\nred<end_of_turn>\n").input_ids
    assert ids[:2] == [2, 106]
    assert ids[-2:] == [107, 108]
    assert ids[3] == 108
    assert 1 not in ids
    assert len(tokenizer) <= 1024


@pytest.mark.parametrize(
    "text",
    [
        "a large red circle",
        "  two  spaces ",
        "Größe 3,5 – 中文 😀",
        "a\n\n\nb\tc\r\n",
        "OPEN, open",
    ],
)
def test_gemma_tokenizer_encodes_anything(models, text):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models / "gemma-micro")
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids[1:]) == text


def test_language_model_loads_in_shards_and_has_learnt(models):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models / "gemma-micro"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "GemmaForCausalLM"
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.hidden_act == "gelu_pytorch_tanh"
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert {p.dtype.__str__() for p in model.parameters()} == {"torch.float32"}
    figures = measured(folder)
    assert figures["last_loss"] < figures["first_loss"] - 0.5


def test_captioner_loads_learns_and_ends_with_a_newline(models):
    import torch
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    folder = models / "blip2-micro"
    processor = Blip2Processor.from_pretrained(folder)
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    figures = measured(folder)
    assert figures["last_caption_loss"] < figures["first_caption_loss"] - 0.5
    assert model.config.image_token_index == processor.tokenizer.convert_tokens_to_ids("<image>")
    assert model.query_tokens.std() > 0.1
    newline = processor.tokenizer("\n", add_special_tokens=False).input_ids
    assert [model.generation_config.eos_token_id] == newline
    assert newline[0] not in processor.tokenizer.all_special_ids
    picture = Image.new("RGB", (300, 224), (200, 30, 30))
    inputs = processor(images=[picture, picture], return_tensors="pt")
    assert inputs.pixel_values.shape == (2, 3, 32, 32)
    plain = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    prompted = processor(images=[picture, picture], text=["", ""], return_tensors="pt")
    again = model.generate(**prompted, max_new_tokens=6, do_sample=False)
    texts = [processor.batch_decode(ids, skip_special_tokens=True) for ids in (plain, again)]
    assert texts[0][0] == texts[0][1]
    assert texts[0] == texts[1]
    assert torch.isfinite(model(**prompted).logits).all()


def test_towers_and_classifier_load_by_the_standard_classes(models):
    import torch
    from transformers import AutoImageProcessor, CLIPVisionModel, ViTForImageClassification

    from recap.mgm.openclip import load_convnext_state, read_convnext_size

    clip = CLIPVisionModel.from_pretrained(models / "clip-micro")
    processor = AutoImageProcessor.from_pretrained(models / "clip-micro", backend="pil")
    picture = Image.new("RGB", (80, 100), (20, 90, 200))
    values = processor(images=picture, return_tensors="pt").pixel_values
    assert values.shape == (1, 3, 64, 64)
    states = clip(values, output_hidden_states=True).hidden_states[-2]
    assert states.shape == (1, 65, 32)
    size = read_convnext_size(models / "convnext-micro")
    assert (list(size["depths"]), list(size["dims"])) == ([1, 1, 1, 1], [8, 8, 16, 16])
    state = load_convnext_state(models / "convnext-micro")
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    watermark = ViTForImageClassification.from_pretrained(models / "watermark-micro")
    assert watermark.config.num_labels == 2
    values = AutoImageProcessor.from_pretrained(models / "watermark-micro", backend="pil")(
        images=picture, return_tensors="pt"
    )
    assert torch.isfinite(watermark(**values).logits).all()


def test_micro_models_never_see_the_worlds_pictures():
    settings = WorldSettings()
    ours = draw_pictures(settings.seed, Stream.MICRO_PICTURE, 50, 16).scenes
    records = [sample_scene(generator(settings.seed, Stream.RECORD, i)) for i in range(50)]
    assert not set(ours) & set(records)
    assert min(s for s in Stream if s.name.startswith("MICRO")) > max(
        s for s in Stream if not s.name.startswith("MICRO")
    )


def test_command_line_builds_the_models_asked_for(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "build_micro_models.py")]
    size = {"dims": [8, 8, 16, 16], "pictures": 8, "held_out": 8, "steps": 1, "batch_size": 4}
    settings = {"convnext": size}
    done = subprocess.run(
        [*command, "--models", "convnext-micro", "--out", str(tmp_path), "--seed", "3",
         "--settings", json.dumps(settings), "--workers", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    manifest = read_json(tmp_path / "convnext-micro" / "manifest.json")
    assert manifest["settings"]["dims"] == [8, 8, 16, 16]
    assert [path.name for path in tmp_path.iterdir()] == ["convnext-micro"]
