"""Values that are not finite: in the base, in the towers, and after rounding to another type."""

import errno
import json
import shutil
from dataclasses import replace

import pytest
import torch
from mgm_adapters import KINDS, parts_flags, run_json, write_adapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import check_lora_model
import convert_checkpoint
import merge_lora_weights
from recap.errors import RecapError
from recap.mgm import tensors as files
from recap.mgm.checkpoint import build_model, load_checkpoint, save_checkpoint
from recap.mgm.merger import AdapterMerger

NORM = "model.norm.weight"
CLIP = "encoder.layers.0.mlp.fc1.weight"
CONVNEXT = "visual.trunk.stages.1.blocks.0.norm.weight"


def edit(folder, name, value):
    path = next(p for p in folder.glob("*.safetensors") if name in load_file(p))
    tensors = load_file(path)
    tensors[name].view(-1)[3] = value
    save_file(tensors, path, metadata={"format": "pt"})


def spoiled(parts, part, tmp_path, name, value):
    folder = shutil.copytree(getattr(parts, part), tmp_path / part)
    edit(folder, name, value)
    return replace(parts, **{part: folder})


def silent(adapter, tmp_path):
    """An adapter that does not say what it was trained on, as upstream's."""
    folder = shutil.copytree(adapter, tmp_path / "silent")
    config = json.loads((folder / "config.json").read_text())
    config["recap"].pop("base")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def merge(capsys, adapter, parts, out, **settings):
    flags = ["--lora-path", adapter, *parts_flags(parts), "--output-path", out]
    return run_json(capsys, merge_lora_weights, *flags, "--settings", json.dumps(settings))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize(
    ("part", "name"), [("language_model", NORM), ("clip", CLIP), ("convnext", CONVNEXT)]
)
def test_the_base_s_values_are_checked(mgm_parts, mgm_adapter, tmp_path, capsys, part, name, value):
    parts, adapter = spoiled(mgm_parts, part, tmp_path, name, value), silent(mgm_adapter, tmp_path)
    code, checked = run_json(capsys, check_lora_model, adapter, *parts_flags(parts))
    assert code == 3
    assert [failure["name"] for failure in checked["failures"]] == [f"{part} tensor {name}"]
    assert str(getattr(parts, part)) in checked["failures"][0]["fix"]
    code, merged = merge(capsys, adapter, parts, tmp_path / "out")
    assert code == 2
    assert merged["failures"] == checked["failures"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([part, "silent"])


def test_a_merge_reads_no_nan_by_itself(mgm_parts, mgm_adapter, tmp_path):
    """Whatever was checked before: files can change."""
    target = "model.layers.0.mlp.up_proj.weight"
    for name in (NORM, target):
        parts = spoiled(mgm_parts, "language_model", tmp_path / name, name, float("nan"))
        merger = AdapterMerger(mgm_adapter, parts, torch.bfloat16)
        with pytest.raises(RecapError, match=rf"language_model: {name} holds NaN"):
            merger.sources(tied=True)[name].load()


@pytest.mark.parametrize("name", [NORM, "model.layers.0.mlp.up_proj.weight"])
def test_values_beyond_float16_are_not_merged_to_infinity(mgm_parts, tmp_path, capsys, name):
    parts = spoiled(mgm_parts, "language_model", tmp_path, name, 1e5)
    adapter = write_adapter(parts, tmp_path / "adapter", KINDS["LoRA"])
    code, outcome = merge(capsys, adapter, parts, tmp_path / "half", dtype="float16")
    assert code == 2
    assert f"{name} has values beyond 65504" in outcome["message"]
    assert "use bfloat16" in outcome["message"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "language_model"]
    assert merge(capsys, adapter, parts, tmp_path / "brain", dtype="bfloat16")[0] == 0


@pytest.fixture(scope="module")
def large(mgm_parts, mgm_tokenizer, tmp_path_factory):
    """A float32 checkpoint with one value that float16 cannot hold."""
    model = build_model(mgm_parts, dtype="float32", seed=1)
    model.get_parameter("language_model.model.norm.weight").data[3] = 1e5
    folder = tmp_path_factory.mktemp("large") / "large"
    save_checkpoint(model, mgm_tokenizer, folder, dtype="float32")
    return model, folder


def test_a_conversion_writes_no_infinity(large, tmp_path, capsys):
    flags = [large[1], tmp_path / "out", "--dtype"]
    code, outcome = run_json(capsys, convert_checkpoint, *flags, "float16")
    assert code == 2
    assert f"{NORM} has values beyond 65504" in outcome["message"]
    assert not list(tmp_path.iterdir())
    assert run_json(capsys, convert_checkpoint, *flags, "bfloat16")[0] == 0


def test_nor_does_saving_or_loading(large, mgm_tokenizer, tmp_path):
    with pytest.raises(RecapError, match=f"{NORM} has values beyond"):
        save_checkpoint(large[0], mgm_tokenizer, tmp_path / "out", dtype="float16")
    with pytest.raises(RecapError, match=f"{NORM} has values beyond"):
        load_checkpoint(large[1], dtype="float16")
    load_checkpoint(large[1], dtype="bfloat16")


def test_a_projector_beyond_float16(mgm_parts, mgm_adapter, tmp_path, capsys):
    adapter = shutil.copytree(mgm_adapter, tmp_path / "adapter")
    edit(adapter, "base_model.model.model.mm_projector.0.bias", 1e5)
    code, outcome = merge(capsys, adapter, mgm_parts, tmp_path / "out", dtype="float16")
    assert code == 2
    assert "non_lora_trainables" in outcome["message"]
    assert "mm_projector.0.bias has values beyond" in outcome["message"]


def test_a_full_disk_is_no_bug(mgm_parts, mgm_adapter, tmp_path, capsys, monkeypatch):
    def full(*_arguments, **_named):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_file", full)
    code, outcome = merge(capsys, mgm_adapter, mgm_parts, tmp_path / "out")
    assert code == 2
    assert "free space" in outcome["message"]
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="cannot be written") as caught:
        files.write_safetensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    assert caught.value.errno == errno.ENOSPC
