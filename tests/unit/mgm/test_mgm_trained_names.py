"""Tensors that were trained and have no place here are refused, never dropped."""

import json
import shutil

import pytest
import torch
from mgm_adapters import parts_flags, run_json
from safetensors.torch import load_file, save_file

import check_lora_model
import merge_lora_weights
from recap.errors import RecapError
from recap.mgm.adapters import read_projector
from recap.mgm.checkpoint import (
    build_model,
    load_adapter,
    load_projector,
    open_towers,
    projector_state,
)
from recap.mgm.loading import fill_projector
from recap.mgm.upstream_convert import convert_checkpoint
from recap.mgm.upstream_trained import Conversion

PREFIX = "base_model.model.model."
TOWER = "vision_tower.vision_tower.vision_model.post_layernorm.weight"
FOREIGN = ["norm.weight", "embed_tokens.weight", TOWER, "vision_tower_aux.vision_stem.0.bias"]


def with_tensor(folder, name):
    path = folder / "non_lora_trainables.safetensors"
    save_file(load_file(path) | {name: torch.ones(3)}, path)
    return folder


@pytest.mark.parametrize("name", FOREIGN)
def test_an_adapter_with_another_trained_tensor(
    mgm_parts, mgm_adapter, mgm_model, tmp_path, capsys, name
):
    adapter = with_tensor(shutil.copytree(mgm_adapter, tmp_path / "a"), PREFIX + name)
    flags = parts_flags(mgm_parts)
    code, checked = run_json(capsys, check_lora_model, adapter, *flags)
    assert code == 3
    assert [failure["name"] for failure in checked["failures"]] == ["non_lora_trainables"]
    assert PREFIX + name in checked["failures"][0]["problem"]
    merge = ["--lora-path", adapter, *flags, "--output-path", tmp_path / "m"]
    assert run_json(capsys, merge_lora_weights, *merge)[0] == 2
    assert not (tmp_path / "m").exists()
    for action in (
        lambda: load_adapter(mgm_model, adapter),
        lambda: convert_checkpoint(adapter, tmp_path / "c", Conversion()),
    ):
        with pytest.raises(RecapError, match=r"would be lost.*frozen"):
            action()


def test_a_deeper_projector(mgm_parts, mgm_adapter, mgm_model, tmp_path, capsys):
    adapter = with_tensor(
        shutil.copytree(mgm_adapter, tmp_path / "a"), f"{PREFIX}mm_projector.4.weight"
    )
    _, checked = run_json(capsys, check_lora_model, adapter, *parts_flags(mgm_parts))
    assert [f["name"] for f in checked["failures"]] == ["projector tensor mm_projector.4.weight"]
    with pytest.raises(RecapError, match=r"mm_projector\.4\.weight has no place"):
        load_projector(mgm_model, adapter / "non_lora_trainables.safetensors")
    with pytest.raises(RecapError, match=r"mm_projector\.4\.weight has no place"):
        convert_checkpoint(adapter, tmp_path / "c", Conversion())
    state = projector_state(mgm_model) | {"mm_projector.4.bias": torch.ones(3)}
    with pytest.raises(RecapError, match=r"mm_projector\.4\.bias has no place"):
        fill_projector(mgm_model, state)


@pytest.fixture
def big(mgm_parts, mgm_model, tmp_path):
    """Stage 1's folder as upstream writes it: the 16 tensors and both towers."""
    folder = tmp_path / "stage1"
    folder.mkdir()
    state = {f"model.{name}": value for name, value in projector_state(mgm_model).items()}
    state |= {name: source.load() for name, source in open_towers(mgm_parts).items()}
    torch.save(state, folder / "mm_projector.bin")
    return folder


def test_frozen_towers_in_stage_1_s_file_are_passed_over(mgm_parts, big, tmp_path):
    for values in (None, {"optimize_vision_tower": False, "optimize_vision_tower_aux": False}):
        if values is not None:
            (big / "config.json").write_text(json.dumps(values))
        assert len(read_projector(big / "mm_projector.bin")) == 16
    load_projector(build_model(mgm_parts, dtype="float32", seed=1), big / "mm_projector.bin")


@pytest.mark.parametrize("key", ["optimize_vision_tower", "optimize_vision_tower_aux"])
def test_trained_towers_in_stage_1_s_file_are_refused(big, mgm_model, key):
    (big / "config.json").write_text(json.dumps({key: True}))
    with pytest.raises(RecapError, match=r"mm_projector\.bin: model\.vision_tower.*would be lost"):
        load_projector(mgm_model, big / "mm_projector.bin")


def test_towers_under_another_name_were_trained(big, mgm_model):
    other = (big / "mm_projector.bin").rename(big / "non_lora_trainables.bin")
    with pytest.raises(RecapError, match="would be lost"):
        load_projector(mgm_model, other)


def test_two_names_for_one_tensor_are_refused(mgm_model, tmp_path):
    state = projector_state(mgm_model)
    twice = {f"model.{name}": value for name, value in state.items()}
    torch.save(twice | {"mm_projector.0.bias": torch.zeros(128)}, tmp_path / "mm_projector.bin")
    with pytest.raises(RecapError, match=r"mm_projector\.0\.bias .*would be lost"):
        load_projector(mgm_model, tmp_path / "mm_projector.bin")
