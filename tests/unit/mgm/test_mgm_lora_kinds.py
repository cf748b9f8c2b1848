"""LoRA, rsLoRA and DoRA against formulas in NumPy float64 and against PEFT's own merge."""

import json
import math
import re

import numpy as np
import pytest
import torch
from mgm_adapters import KINDS, write_adapter
from safetensors.torch import load_file

from recap.mgm.adapter_config import read_adapter_settings
from recap.mgm.check import check_adapter
from recap.mgm.checkpoint import base_sources, build_model, load_adapter
from recap.mgm.lora import add_lora, expected_adapter_shapes, module_settings
from recap.mgm.merge import merge_lora_weights
from recap.mgm.parity import check_parity
from recap.mgm.tensors import open_model_folder
from recap.settings import MergeSettings
from recap.train_settings import LoraSettings

EPS32 = 2.0**-23


@pytest.fixture(scope="module")
def adapters(mgm_parts, tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    return {
        name: write_adapter(mgm_parts, root / name, settings) for name, settings in KINDS.items()
    }


def wanted_scale(config, module):
    """The rule of PEFT's documentation, from adapter_config.json alone."""

    def pick(patterns, default):
        ends = (v for key, v in patterns.items() if re.search(rf"(^|\.)({key})$", module))
        return next(ends, default)

    rank = pick(config.get("rank_pattern", {}), config["r"])
    alpha = pick(config.get("alpha_pattern", {}), config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def oracle(base, tensors, config, module):
    """Return the updated weight in float64, and a bound of what float32 arithmetic loses."""
    stem = f"base_model.model.{module}"
    a, b = (tensors[f"{stem}.lora_{k}.weight"].double().numpy() for k in "AB")
    weight, scale = base.double().numpy(), wanted_scale(config, module)
    exact = weight + scale * (b @ a)
    doubt = (a.shape[0] + 2) * EPS32 * (np.abs(weight) + scale * (np.abs(b) @ np.abs(a)))
    if f"{stem}.lora_magnitude_vector" in tensors:
        length = tensors[f"{stem}.lora_magnitude_vector"].double().numpy()
        factor = (length / np.sqrt((exact**2).sum(axis=1)))[:, None]
        exact, doubt = exact * factor, (doubt + 16 * EPS32 * np.abs(exact)) * np.abs(factor)
    return exact, doubt


def rounding_step(values, dtype):
    bits = {"float32": 23, "float16": 10, "bfloat16": 7}[dtype]
    smallest = {"float32": -126, "float16": -14, "bfloat16": -126}[dtype]
    exponent = np.floor(np.log2(np.maximum(np.abs(values), 2.0**smallest)))
    return 2.0 ** (exponent - bits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_are_the_formula_rounded_once(mgm_parts, adapters, tmp_path, kind, dtype):
    report = merge_lora_weights(
        adapters[kind], mgm_parts, tmp_path / "m", MergeSettings(dtype=dtype)
    )
    config = json.loads((adapters[kind] / "adapter_config.json").read_text())
    tensors = load_file(adapters[kind] / "adapter_model.safetensors")
    found = open_model_folder(tmp_path / "m")
    base = base_sources(mgm_parts)
    for row in report["modules"]:
        module = row["module"]
        exact, doubt = oracle(base[f"{module}.weight"].load(), tensors, config, module)
        error = np.abs(found[f"{module}.weight"].load().double().numpy() - exact)
        half = 0.5 * rounding_step(exact, dtype)
        assert (error <= half + doubt).all(), module
        if dtype != "float32":
            assert (error > 0.9 * half).any()  # the bound is no wider than it must be
        assert row["scale"] == pytest.approx(wanted_scale(config, module))
    assert report["merged_modules"] == 14
    assert report["kind"] == {"patterns": "rsDoRA"}.get(kind, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_our_files_and_merges_to_the_same_weights(mgm_parts, adapters, tmp_path, kind):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merge_lora_weights(adapters[kind], mgm_parts, tmp_path / "m", MergeSettings(dtype="float32"))
    model = AutoModelForCausalLM.from_pretrained(mgm_parts.language_model, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(model, adapters[kind]).merge_and_unload().state_dict()
    ours = open_model_folder(tmp_path / "m")
    for name, tensor in theirs.items():
        if name == "lm_head.weight":
            continue
        found = ours[name].load()
        row = tensor.abs().amax(dim=-1, keepdim=True)  # sums lose by the size of their terms
        assert bool(((found - tensor).abs() <= EPS32 * row).all()), name
    assert set(ours) >= set(theirs) - {"lm_head.weight"}


@pytest.mark.parametrize("kind", KINDS)
def test_peft_writes_the_tensors_we_expect(mgm_parts, adapters, tmp_path, kind):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = json.loads((adapters[kind] / "adapter_config.json").read_text())
    config.pop("peft_type")
    model = AutoModelForCausalLM.from_pretrained(mgm_parts.language_model, dtype=torch.float32)
    get_peft_model(model, LoraConfig(**config)).save_pretrained(tmp_path)
    theirs = load_file(tmp_path / "adapter_model.safetensors")
    shapes = {
        name: source.shape for name, source in open_model_folder(mgm_parts.language_model).items()
    }
    wanted = expected_adapter_shapes(shapes, KINDS[kind])
    assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == wanted
    assert len(wanted) == (42 if KINDS[kind].use_dora else 28)
    assert {name: tuple(s.shape) for name, s in load_file(
        adapters[kind] / "adapter_model.safetensors"
    ).items()} == wanted  # fmt: skip
    assert read_adapter_settings(tmp_path) == KINDS[kind]


@pytest.mark.parametrize("kind", ["rsLoRA", "patterns"])
def test_check_and_parity_accept_every_kind(mgm_parts, adapters, mgm_questions, tmp_path, kind):
    report = check_adapter(adapters[kind], mgm_parts)
    assert report["adapter_tensors"] == report["expected_tensors"]
    settings = MergeSettings(parity_prompts=1, parity_max_new_tokens=3)
    merge_lora_weights(adapters[kind], mgm_parts, tmp_path / "m", settings)
    parity = check_parity(
        tmp_path / "m", adapters[kind], mgm_parts,
        images_root=mgm_questions.parent / "images", questions=mgm_questions,
        settings=settings, out=tmp_path / "p.json",
    )  # fmt: skip
    assert parity["passed"]
    moved = [row["unmerged"]["max_difference"] for row in parity["prompts"]]
    assert all(0 < value < parity["unmerged_tolerance"] / 1.5 for value in moved)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_survive_the_file(adapters, kind):
    assert read_adapter_settings(adapters[kind]) == KINDS[kind]


def test_patterns_match_the_end_of_a_name():
    settings = KINDS["patterns"]
    assert module_settings(settings, "model.layers.1.mlp.up_proj") == (2, 32 / math.sqrt(2))
    assert module_settings(settings, "model.layers.11.mlp.up_proj") == (16, 32 / 4)
    assert module_settings(settings, "model.layers.0.self_attn.o_proj") == (16, 5 / 4)
    assert module_settings(LoraSettings(), "model.layers.0.mlp.up_proj") == (16, 2.0)


def test_dora_in_bfloat16_starts_at_the_base_and_learns(mgm_parts):
    """PEFT takes the rows' lengths in the base's type, which alone would move bfloat16 weights."""
    model = build_model(mgm_parts, dtype="bfloat16", seed=0)
    add_lora(model, LoraSettings(use_dora=True, dropout=0.0), seed=0)
    named = dict(model.language_model.named_parameters())
    lengths = {name: p for name, p in named.items() if "lora_magnitude_vector" in name}
    assert len(lengths) == 14
    for name, length in lengths.items():
        assert length.dtype == torch.float32
        assert length.requires_grad
        weight = named[name.replace("lora_magnitude_vector.default", "base_layer")]
        wanted = np.sqrt((weight.detach().double().numpy() ** 2).sum(axis=1))
        np.testing.assert_allclose(length.detach().numpy(), wanted, rtol=1e-6)
    embeds = torch.randn(1, 5, 128, generator=torch.Generator().manual_seed(1)).bfloat16()
    model.language_model(inputs_embeds=embeds).logits.float().square().mean().backward()
    assert all(length.grad is not None and bool(length.grad.any()) for length in lengths.values())


def test_a_loaded_dora_adapter_keeps_its_lengths(mgm_parts, adapters):
    model = load_adapter(build_model(mgm_parts, dtype="float32", seed=0), adapters["DoRA"])
    stored = load_file(adapters["DoRA"] / "adapter_model.safetensors")
    stem = "model.layers.1.mlp.down_proj.lora_magnitude_vector"
    found = dict(model.language_model.named_parameters())[f"{stem}.default.weight"]
    assert torch.equal(found, stored[f"base_model.model.{stem}"])
