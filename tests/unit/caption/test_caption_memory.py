"""The automatic batch size, from a model's files."""

import pytest
from caption_models import build

from recap.caption.fingerprint import captioner_fingerprint, describe_captioner
from recap.caption.memory import bytes_a_caption, count_parameters, resolve_batch_size
from recap.errors import RecapError
from recap.io import write_json
from recap.settings import CaptionSettings

# What BLIP2-OPT-2.7B's config.json says; the vision part is left to defaults there.
REAL = {
    "num_query_tokens": 32,
    "text_config": {
        "hidden_size": 2560,
        "ffn_dim": 10_240,
        "num_hidden_layers": 32,
        "vocab_size": 50_304,
    },
}


def test_parameters_are_counted_from_headers(tmp_path):
    from transformers import Blip2ForConditionalGeneration

    model = Blip2ForConditionalGeneration.from_pretrained(build(tmp_path / "m"))
    assert count_parameters(tmp_path / "m") == sum(p.numel() for p in model.parameters())


def test_a_row_of_the_real_model():
    settings = CaptionSettings(max_new_tokens=12)
    cache = 2 * 2 * 32 * 2560 * (33 + 12)  # keys and values, two bytes, layers, width, tokens
    tower = 2 * 257 * (2 * 6144 + 6 * 1408)
    assert bytes_a_caption(REAL, settings) == cache + tower


def test_the_batch_follows_the_budget(tmp_path):
    write_json(tmp_path / "config.json", REAL)
    (tmp_path / "model.bin").write_bytes(b"")
    (tmp_path / "model.bin").open("r+b").truncate(2 * 3_744_679_936)
    sizes = [
        resolve_batch_size(tmp_path, CaptionSettings(memory_gib=gib))
        for gib in (8.2, 9, 10, 12, 14, 18, 22, 80)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < 32 and sizes[-1] == 256
    assert all(size % 32 == 0 for size in sizes[1:])
    with pytest.raises(RecapError, match="do not fit 7"):
        resolve_batch_size(tmp_path, CaptionSettings(memory_gib=7))


def test_a_given_size_is_kept_and_cpu_has_its_own(tmp_path):
    assert resolve_batch_size(tmp_path, CaptionSettings(batch_size=5)) == 5
    assert resolve_batch_size(tmp_path, CaptionSettings(dtype="float32")) == 16
    assert resolve_batch_size(tmp_path, CaptionSettings(dtype="float32", candidates=20)) == 20


def test_equal_captions_have_equal_fingerprints(tmp_path):
    model = build(tmp_path / "m")

    def name(**changes):
        description = describe_captioner(model, CaptionSettings(**changes), tmp_path / "cache")
        return captioner_fingerprint(description)

    # 256 fit either budget; a size that was derived is the same as one that was given
    assert name() == name(memory_gib=30) == name(batch_size=256)
    assert name() == name(seed=3) == name(top_k=9)
    assert len({name(), name(batch_size=64), name(candidates=2), name(candidates=2, seed=3)}) == 4
