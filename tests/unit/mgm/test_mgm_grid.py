"""Pictures at higher resolution: crops of a grid, with and without the whole picture."""

from dataclasses import replace

import mgm_oracles as oracle
import numpy as np
import pytest
import torch
from PIL import Image

from recap.errors import GateError, RecapError
from recap.mgm.check import check_adapter
from recap.mgm.checkpoint import (
    build_model,
    describe_base,
    load_checkpoint,
    save_adapter,
    save_checkpoint,
)
from recap.mgm.configuration import config_from_disk, config_from_parts, config_to_disk
from recap.mgm.conversation import encode_prompt, encode_sample
from recap.mgm.lora import add_lora
from recap.mgm.merge import merge_lora_weights
from recap.mgm.parity import check_parity
from recap.mgm.vision import cut_aux_views, derive_clip_view, derive_clip_views
from recap.settings import EvaluateSettings, MergeSettings
from recap.train_settings import LoraSettings

PATCHES = 64  # tokens of one view of the micro CLIP
LAYOUTS = pytest.mark.parametrize(("grid", "whole"), [(2, True), (2, False), (1, False)])


def pictures(count, seed=None):
    generator = torch.Generator().manual_seed(oracle.fresh_seed() if seed is None else seed)
    return torch.randn(count, 3, 256, 256, generator=generator)


def layout(parts, grid, whole):
    return replace(parts, image_size_aux=256, image_grid=grid, image_global=whole)


@pytest.fixture(scope="module")
def hd_parts(mgm_parts):
    return layout(mgm_parts, 2, True)


@pytest.fixture(scope="module")
def hd_model(hd_parts):
    return build_model(hd_parts, dtype="float32", seed=7, image_aspect_ratio="pad")


@LAYOUTS
def test_clip_sees_crops_row_by_row_and_the_whole_last(grid, whole):
    images = pictures(2)
    found = derive_clip_views(images, 64, grid, whole)
    assert found.shape == (2, grid**2 + whole, 3, 64, 64)
    oracle.close(found, oracle.views_of(oracle.double(images), 64, grid, whole))
    large = derive_clip_view(images, 64 * grid)
    for view in range(grid**2):
        r, c = divmod(view, grid)
        crop = large[:, :, r * 64 : (r + 1) * 64, c * 64 : (c + 1) * 64]
        assert torch.equal(found[:, view], crop)


def test_full_size_views_are_336_crops_of_the_672_picture():
    images = torch.randn(1, 3, 1536, 1536)
    found = derive_clip_views(images, 336, 2, True)
    oracle.close(found, oracle.views_of(oracle.double(images), 336, 2, True))


@LAYOUTS
def test_the_map_is_cut_alike_and_shrunk_for_the_whole(grid, whole):
    aux = torch.randn(2, 300, 32, 32)
    found = cut_aux_views(aux, grid, whole)
    assert len(found) == grid**2 + whole
    edge = 32 // grid
    for view in range(grid**2):
        r, c = divmod(view, grid)
        part = aux[:, :, r * edge : (r + 1) * edge, c * edge : (c + 1) * edge]
        assert torch.equal(found[view], part)
        assert found[view].untyped_storage().data_ptr() == aux.untyped_storage().data_ptr()
    if whole:  # half the size, between four positions: their mean
        mean = oracle.double(aux).reshape(2, 300, 16, 2, 16, 2).mean((3, 5))
        oracle.close(found[-1], mean, 1e-6)
        low = cut_aux_views(aux.bfloat16(), grid, whole)[-1]
        exact = cut_aux_views(aux.bfloat16().float(), grid, whole)[-1]
        assert torch.equal(low, exact.bfloat16())


@LAYOUTS
def test_encoding_is_the_float64_formula(mgm_parts, grid, whole):
    """Both towers, views, mining, residual, projector, and the whole picture's tokens first."""
    model = build_model(layout(mgm_parts, grid, whole), dtype="float32", seed=oracle.fresh_seed())
    images = pictures(1)
    with torch.no_grad():
        found = model.encode_images(images)
    assert found.shape == (1, model.config.image_tokens, 128)
    assert model.config.image_tokens == PATCHES * (grid**2 + whole)
    oracle.close(found, oracle.encoded(model, oracle.double(images)))


def test_full_size_numbers():
    from transformers import CLIPVisionConfig

    from recap.mgm.configuration import MGMConfig

    vision = CLIPVisionConfig(image_size=336, patch_size=14)
    counts = {
        (grid, whole): MGMConfig(
            vision_config=vision, image_grid=grid, image_global=whole
        ).image_tokens
        for grid, whole in ((1, False), (2, False), (2, True), (3, True))
    }
    assert counts == {(1, False): 576, (2, False): 2304, (2, True): 2880, (3, True): 5760}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_grid": 1, "image_global": True}, "image_grid 1 does not go with"),
        ({"image_grid": 0, "image_global": False}, "at least one crop"),
        ({"image_grid": 3}, "a multiple of 24"),
        ({"image_size_aux": 32}, "image_size_aux 32 does not fit"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(hd_parts, changes, message):
    with pytest.raises(RecapError, match=message):
        config_from_parts(replace(hd_parts, **changes))


def test_config_json_keeps_the_layout(hd_parts, hd_model, mgm_tokenizer, tmp_path):
    config = config_from_parts(hd_parts)
    disk = config_to_disk(config, "float32")
    wanted = {"image_grid": 2, "image_global": True, "image_size_aux": 256}
    assert {name: disk[name] for name in wanted} == wanted
    save_checkpoint(hd_model, mgm_tokenizer, tmp_path, dtype="float32")
    again = config_from_disk(tmp_path)
    assert (again.image_grid, again.image_global, again.image_tokens) == (2, True, 320)
    images = pictures(1)
    loaded, _ = load_checkpoint(tmp_path, dtype="float32")
    with torch.no_grad():
        assert torch.equal(loaded.encode_images(images), hd_model.encode_images(images))


def encoded_batch(tokenizer, *pairs):
    from recap.train.collate import Collator

    rows = [
        encode_sample([{"from": "human", "value": q}, {"from": "gpt", "value": a}], tokenizer)
        for q, a in pairs
    ]
    images = [pictures(1, seed=i)[0] if "<image>" in q else None for i, (q, _) in enumerate(pairs)]
    samples = [
        {"input_ids": ids, "labels": labels, "image": image}
        for (ids, labels), image in zip(rows, images, strict=True)
    ]
    return rows, Collator(tokenizer.pad_token_id)(samples)


def test_training_batches_expand_each_picture_to_all_views(hd_model, mgm_tokenizer):
    pairs = [("<image>\nWhat?", "A dog."), ("Hello", "Ho"), ("<image>\nAnd now?", "A cat, a hat.")]
    rows, batch = encoded_batch(mgm_tokenizer, *pairs)
    assert batch["images_aux"].shape == (2, 3, 256, 256)
    done = hd_model.prepare_inputs(**batch)
    grown = [len(ids) + 319 * (-200 in ids) for ids, _ in rows]
    assert done.attention_mask.sum(1).tolist() == grown
    for (ids, labels), kept in zip(rows, done.labels, strict=True):
        assert kept[kept != -100].tolist() == [label for label in labels if label != -100]
        if -200 in ids:
            at = ids.index(-200)
            assert (kept[at : at + 320] == -100).all()
            assert kept[at + 320 :][: len(ids) - at - 1].tolist() == labels[at + 1 :]
    hd_model.set_trainable("pretrain")
    hd_model.train()
    hd_model(**batch).loss.backward()
    trained = [p for p in hd_model.parameters() if p.requires_grad]
    assert len(trained) == 16
    assert all(torch.isfinite(p.grad).all() for p in trained)
    hd_model.zero_grad()
    hd_model.eval()


def test_the_cut_counts_every_view(hd_parts, mgm_tokenizer):
    """The audit's limit and the model's own cut agree to the token."""
    from recap.train.audit import cut

    model = build_model(hd_parts, dtype="float32", seed=1, max_length=340)
    rows, batch = encoded_batch(mgm_tokenizer, ("<image>\nWhat?", "A dog on a very long walk."))
    whole = len(rows[0][0]) + 319
    assert whole > 340
    done = model.prepare_inputs(**batch)
    assert done.labels.shape[1] == 340
    item = cut(*rows[0], 340 - (model.config.image_tokens - 1))
    assert item.truncated
    assert len(item.input_ids) + 319 == 340
    assert (done.labels[0, 1:] != -100).sum() == item.supervised


def test_a_limit_below_one_picture_is_refused(hd_parts, tmp_path):
    import json

    from recap.train.prepare import prepare_data
    from recap.train.request import StageRequest, parse_settings

    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    entry = {"id": "a", "image": "a.png", "conversations": turns}
    (tmp_path / "set.json").write_text(json.dumps([entry]))
    values = {"global_batch_size": 1, "learning_rate": 1e-3, "image_aspect_ratio": "pad"}

    def prepare(max_length):
        request = StageRequest(
            stage="pretrain", data=tmp_path / "set.json", image_root=tmp_path, parts=hd_parts,
            settings=parse_settings("pretrain", values | {"max_length": max_length}), seed=0,
            state_dir=tmp_path, out_dir=tmp_path, perf=tmp_path / "perf.json",
        )  # fmt: skip
        return prepare_data(request, 1)

    with pytest.raises(RecapError, match="an image becomes 320 tokens"):
        prepare(320)
    data = prepare(400)
    assert (data.audit.truncated, data.encoded[0].truncated) == (0, False)
    assert prepare(330).encoded[0].truncated
    assert data.dataset[0]["image"].shape == (3, 256, 256)


def test_answers_do_not_depend_on_the_batch_or_its_padding(hd_model, mgm_tokenizer):
    texts = ["<image>\nWhat is it?", "Hello", "<image>\na much longer question, is it not?"]
    rows = [encode_prompt(text, mgm_tokenizer) for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    images = pictures(2, seed=3)
    together = hd_model.generate_answers(
        ids, mask, images_aux=images, max_new_tokens=6, eos_token_ids=(1, 107)
    )
    for index, (row, picture) in enumerate(zip(rows, (0, None, 1), strict=True)):
        alone = None if picture is None else images[picture : picture + 1]
        one = torch.tensor([row])
        single = hd_model.generate_answers(
            one, torch.ones_like(one), images_aux=alone, max_new_tokens=6, eos_token_ids=(1, 107)
        )
        assert single[0] == together[index]


@pytest.fixture(scope="module")
def hd_adapter(hd_parts, tmp_path_factory):
    model = build_model(hd_parts, dtype="float32", seed=3, image_aspect_ratio="pad")
    add_lora(model, LoraSettings(), seed=4)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("hd") / "adapter"
    save_adapter(model, folder, base=describe_base(hd_parts))
    return folder


def test_check_merge_parity_and_evaluation(hd_parts, hd_adapter, mgm_questions, tmp_path):
    from recap.evaluate.loading import load_merged, load_preprocessor
    from recap.evaluate.model import MgmAnswerer
    from recap.evaluate.protocol import BenchmarkProtocol

    settings = MergeSettings(parity_prompts=1, parity_max_new_tokens=2)
    merged = tmp_path / "mgm-2b-hd"
    assert check_adapter(hd_adapter, hd_parts)["failures"] == []
    merge_lora_weights(hd_adapter, hd_parts, merged, settings)
    report = check_parity(
        merged, hd_adapter, hd_parts, images_root=mgm_questions.parent / "images",
        questions=mgm_questions, settings=settings, out=tmp_path / "parity.json",
    )  # fmt: skip
    assert report["passed"]
    protocol = BenchmarkProtocol(kind="textvqa", max_new_tokens=3)
    settings = EvaluateSettings(dtype="float32")
    answerer = MgmAnswerer(load_merged(merged, "float32"), protocol, settings)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 60, 3), np.uint8))
    pixels = load_preprocessor(merged, None).pixels(picture, protocol.image_aspect_ratio)
    assert pixels.shape == (3, 256, 256)
    (feature,) = answerer.encode([pixels])
    assert feature.shape == (1, 320, 128)
    asked = ["what is this?", "and why?"]

    def answers(texts):
        prompts = answerer.write(texts, [feature] * len(texts))
        return answerer.read(answerer.finish(answerer.begin(prompts)))[0]

    both, single = answers(asked), [answers([text])[0] for text in asked]
    assert both == single
    with pytest.raises(RecapError, match="tokenizer_model_max_length is 2048"):
        answerer.write(["why " * 2000], [feature])


def test_an_adapter_of_another_layout_is_refused(mgm_parts, hd_parts, hd_adapter, tmp_path):
    with pytest.raises(GateError, match=r"(?s)image_size_aux.*256.*image_grid.*2"):
        check_adapter(hd_adapter, mgm_parts)
    flat = replace(hd_parts, image_global=False)
    with pytest.raises(RecapError, match=r"image_global.*True"):
        merge_lora_weights(hd_adapter, flat, tmp_path / "out", MergeSettings())
