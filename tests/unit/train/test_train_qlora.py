"""QLoRA: training on a 4-bit base, and a clear word where bitsandbytes is missing."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import train_stage
from recap.errors import RecapError
from recap.io import read_json, read_jsonl
from recap.mgm.quantize import quantize_language_model
from recap.train.request import parse_settings
from recap.train.setup import build_stage_model

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def tuning(world, **changes: object) -> dict:
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0}
    values = {"lora": lora, "learning_rate": 2e-3, "base_quantization": "nf4"}
    return world.settings(**(values | changes))


def test_a_missing_package_is_named(world, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    settings = parse_settings("finetune", tuning(world))
    with pytest.raises(RecapError, match=r"`bitsandbytes`.*not installed; install it, or set"):
        build_stage_model(world.parts, settings, seed=1, projector=None)


def test_dora_is_refused(world) -> None:
    lora = {"rank": 4, "alpha": 8, "use_dora": True}
    with pytest.raises(RecapError, match="DoRA starts from the lengths of unquantised weights"):
        parse_settings("finetune", tuning(world, lora=lora))


@needs_bitsandbytes
def test_weights_take_half_a_byte_and_stay_close(world) -> None:
    settings = parse_settings("finetune", tuning(world, base_quantization="none"))
    plain = build_stage_model(world.parts, settings, seed=1, projector=None).language_model
    settings = parse_settings("finetune", tuning(world))
    model = build_stage_model(world.parts, settings, seed=1, projector=None)
    packed = model.language_model
    name = "model.layers.0.mlp.up_proj"
    linear, four = (m.get_submodule(name).base_layer for m in (plain, packed))
    assert four.weight.dtype == torch.uint8
    assert four.weight.numel() == linear.weight.numel() // 2
    x = torch.randn(64, linear.in_features)
    # NF4 of normal weights: about 9 % root-mean-square error (Dettmers et al. 2023, figure 3)
    error = (four(x) - linear(x)).norm() / linear(x).norm()
    assert 0.01 < float(error) < 0.15
    assert isinstance(packed.lm_head, nn.Linear)
    assert packed.lm_head.weight.dtype == torch.float32
    assert all(p.requires_grad == ("lora_" in n) for n, p in packed.named_parameters())


@needs_bitsandbytes
def test_stage_2_trains_on_it(world, tmp_path: Path) -> None:
    arguments = world.arguments("pretrain", tmp_path / "one", world.settings())
    train_stage.main(train_stage.parser().parse_args(arguments))
    projector = tmp_path / "one" / "result" / "mm_projector.safetensors"
    arguments = world.arguments(
        "finetune", tmp_path, tuning(world, epochs=2), "--projector", str(projector)
    )
    train_stage.main(train_stage.parser().parse_args(arguments))
    result = tmp_path / "result"
    rows = read_jsonl(result / "telemetry.jsonl")
    assert rows[-1]["loss"] < rows[0]["loss"]
    adapter = load_file(result / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    assert read_json(result / "manifest.json")["settings"]["base_quantization"] == "nf4"


@needs_bitsandbytes
def test_only_layers_with_an_adapter_are_packed(world) -> None:
    settings = parse_settings("pretrain", world.settings())
    model = build_stage_model(world.parts, settings, seed=1, projector=None)
    towers = [type(m) for m in model.vision_tower.modules()]
    layers = model.config.text_config.num_hidden_layers
    assert quantize_language_model(model, torch.float32) == 7 * layers
    assert [type(m) for m in model.vision_tower.modules()] == towers
