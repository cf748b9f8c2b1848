"""What ties an adapter to its base, its manifest and its configuration."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from mgm_adapters import KINDS, parts_flags, run_json, write_adapter
from safetensors.torch import load_file, save_file

import check_lora_model
import merge_lora_weights
from recap.mgm.checkpoint import describe_base, save_adapter, tokenizer_fingerprint
from recap.mgm.provenance import tensor_table
from recap.train_settings import LoraSettings

ADAPTER_FILE, PROJECTOR_FILE = "adapter_model.safetensors", "non_lora_trainables.safetensors"
LORA = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def adapter(mgm_adapter, tmp_path):
    return shutil.copytree(mgm_adapter, tmp_path / "adapter")


@pytest.fixture
def base(mgm_parts, tmp_path):
    folder = shutil.copytree(mgm_parts.language_model, tmp_path / "base")
    return replace(mgm_parts, language_model=folder)


def forget_base(adapter):
    config = json.loads((adapter / "config.json").read_text())
    config["recap"].pop("base")
    (adapter / "config.json").write_text(json.dumps(config))


def check(capsys, adapter, parts, *more):
    code, outcome = run_json(capsys, check_lora_model, adapter, *parts_flags(parts), *more)
    return code, outcome["failures"], (outcome["result"] or {}).get("warnings", [])


# manifest


def test_check_holds_the_adapter_against_its_own_manifest(mgm_parts, adapter, capsys):
    tables = {path.name: tensor_table(path) for path in adapter.glob("*.safetensors")}
    document = {"stage": "train", "details": {"tensors": tables}}
    (adapter / "manifest.json").write_text(json.dumps(document))
    assert check(capsys, adapter, mgm_parts)[0] == 0
    tensors = load_file(adapter / ADAPTER_FILE)
    tensors[LORA].view(-1)[0].add_(1e-3)
    save_file(tensors, adapter / ADAPTER_FILE)
    code, failures, _ = check(capsys, adapter, mgm_parts)
    assert code == 3
    assert [failure["name"] for failure in failures] == ["adapter_model"]
    assert f"{LORA} has sha256" in failures[0]["problem"]


# tokenizer


def other_eos(folder):
    edit_json(folder / "tokenizer_config.json", eos_token="<end_of_turn>")


def added_token(folder):
    (folder / "added_tokens.json").write_text('{"<image>": 400}')


def mapped_token(folder):
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<unk>"}')


def no_bos(folder):
    edit_json(folder / "tokenizer_config.json", add_bos_token=False)


@pytest.mark.parametrize("change", [other_eos, added_token, mapped_token, no_bos])
def test_a_tokenizer_is_more_than_its_pieces(adapter, base, capsys, change):
    before = tokenizer_fingerprint(base.language_model)
    assert check(capsys, adapter, base)[0] == 0
    change(base.language_model)
    after = tokenizer_fingerprint(base.language_model)
    assert after != before
    code, failures, _ = check(capsys, adapter, base)
    assert code == 3
    assert [failure["name"] for failure in failures] == ["tokenizer"]
    assert before in failures[0]["problem"]
    assert after in failures[0]["problem"]


def test_one_file_s_special_tokens_do_not_hide_the_other_s(base):
    tokens = {"eos_token": "<eos>"}
    (base.language_model / "special_tokens_map.json").write_text(json.dumps(tokens))
    before = tokenizer_fingerprint(base.language_model)
    other_eos(base.language_model)
    assert tokenizer_fingerprint(base.language_model) != before


def test_what_does_not_cut_text_is_left_out_of_the_fingerprint(base):
    before = tokenizer_fingerprint(base.language_model)
    edit_json(base.language_model / "tokenizer_config.json", model_max_length=77, padding_side="x")
    assert tokenizer_fingerprint(base.language_model) == before


def test_a_tokenizer_file_is_asked_for_its_entries(base, adapter, capsys, monkeypatch):
    """In memory transformers may add a token that the vocabulary lacks."""
    from recap.mgm import check_base, tokenizer_files

    class WithOneMore:
        def __len__(self):
            return 10_000

    forget_base(adapter)
    monkeypatch.setattr(check_base, "load_tokenizer", lambda _folder: WithOneMore())
    assert check(capsys, adapter, base)[0] == 0
    monkeypatch.setattr(check_base, "count_entries", lambda *_arguments: 10_000)
    assert check(capsys, adapter, base)[0] == 3
    assert tokenizer_files.count_entries(base.language_model, WithOneMore()) < 10_000


# base


def test_an_adapter_that_names_another_base_is_warned_about(mgm_parts, adapter, capsys):
    path = adapter / "adapter_config.json"
    edit_json(path, base_model_name_or_path="google/gemma-7b")
    assert not any("gemma-7b" in text for text in check(capsys, adapter, mgm_parts)[2])
    forget_base(adapter)  # fingerprints say more than names
    code, _, warnings = check(capsys, adapter, mgm_parts)
    assert code == 0
    assert any("trained on google/gemma-7b" in warning for warning in warnings)
    edit_json(path, base_model_name_or_path=f"google/{mgm_parts.language_model.name}")
    assert not any("trained on google" in text for text in check(capsys, adapter, mgm_parts)[2])


def drop(folder, name):
    path = next(folder.glob("*.safetensors"))
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("part", "inside", "outside"),
    [
        ("language_model", "model.norm.weight", "model.norm.weight"),
        ("clip", "pre_layrnorm.weight",
         "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight"),
        ("convnext", "visual.trunk.stem.0.bias", "model.vision_tower_aux.vision_stem.0.bias"),
    ],
)  # fmt: skip
def test_a_missing_tensor_is_looked_for_in_its_own_folder(
    mgm_parts, adapter, tmp_path, capsys, part, inside, outside
):
    from recap.errors import RecapError
    from recap.mgm.adapters import adapter_model_config
    from recap.mgm.merger import AdapterMerger

    forget_base(adapter)
    folder = shutil.copytree(getattr(mgm_parts, part), tmp_path / part)
    drop(folder, inside)
    parts = replace(mgm_parts, **{part: folder})
    code, failures, _ = check(capsys, adapter, parts)
    assert code == 3
    assert [failure["name"] for failure in failures] == [f"base tensor {outside}"]
    assert str(folder) in failures[0]["fix"]
    merger = AdapterMerger(adapter, parts, torch.bfloat16)
    with pytest.raises(RecapError, match=rf"^{folder}: .*missing {outside}"):
        merger.require_complete(adapter_model_config(adapter, parts))


@pytest.mark.parametrize("part", ["language_model", "clip"])
def test_a_surplus_tensor_is_found_before_the_merge(mgm_parts, adapter, tmp_path, capsys, part):
    forget_base(adapter)
    folder = shutil.copytree(getattr(mgm_parts, part), tmp_path / part)
    path = next(folder.glob("*.safetensors"))
    prefix = "model.layers.9." if part == "language_model" else "encoder.layers.9."
    tensors = load_file(path) | {f"{prefix}norm.weight": torch.ones(3)}
    save_file(tensors, path, metadata={"format": "pt"})
    code, failures, _ = check(capsys, adapter, replace(mgm_parts, **{part: folder}))
    assert code == 3
    assert [failure["name"].endswith(f"{prefix}norm.weight") for failure in failures] == [True]
    assert str(folder) in failures[0]["fix"]


@pytest.mark.parametrize(
    ("file", "name", "failure"),
    [
        (ADAPTER_FILE, LORA, LORA),
        (PROJECTOR_FILE, "base_model.model.model.mm_projector.0.weight",
         "projector tensor mm_projector.0.weight"),
    ],
)  # fmt: skip
def test_whole_numbers_are_no_weights(mgm_parts, adapter, tmp_path, capsys, file, name, failure):
    tensors = load_file(adapter / file)
    start = shutil.copy(adapter / PROJECTOR_FILE, tmp_path / "start.safetensors")
    tensors = {key: tensor * 2 for key, tensor in tensors.items()}
    tensors[name] = tensors[name].to(torch.int8)
    save_file(tensors, adapter / file)
    code, failures, _ = check(capsys, adapter, mgm_parts, "--initial-projector", start)
    found = {entry["name"]: entry["problem"] for entry in failures}
    assert code == 3
    assert "int8" in found[failure]


# rank


def test_a_rank_that_no_map_can_have_is_refused(mgm_parts, tmp_path, capsys):
    folder = write_adapter(mgm_parts, tmp_path / "a", LoraSettings(rank=600, alpha=600))
    code, failures, _ = check(capsys, folder, mgm_parts)
    assert code == 3
    assert "rank 600 on model.layers.0." in failures[0]["problem"]
    merge = ["--lora-path", folder, *parts_flags(mgm_parts), "--output-path", tmp_path / "m"]
    assert run_json(capsys, merge_lora_weights, *merge)[0] == 2


def test_a_rank_that_some_maps_cannot_have_is_warned_about(mgm_parts, tmp_path, capsys):
    """Keys and values of the micro model are 32 wide, the other maps 128 and more."""
    folder = write_adapter(mgm_parts, tmp_path / "a", LoraSettings(rank=64, alpha=64))
    code, _, warnings = check(capsys, folder, mgm_parts)
    assert code == 0
    assert any("rank 64 on model.layers.0.self_attn.k_proj" in text for text in warnings)
    assert any("(4 such weights)" in text for text in warnings)


# change against the start


def write_start(adapter, path, kind):
    stored = load_file(adapter / PROJECTOR_FILE)
    save_file({name: tensor.to(kind) for name, tensor in stored.items()}, path)
    return path


@pytest.mark.parametrize(
    ("start", "trained"),
    [
        (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32),
        (torch.float32, torch.float16), (torch.float16, torch.bfloat16),
    ],
)  # fmt: skip
def test_rounding_is_no_training(mgm_parts, adapter, tmp_path, capsys, start, trained):
    first = write_start(adapter, tmp_path / "start.safetensors", start)
    save_file(
        {name: tensor.to(trained) for name, tensor in load_file(first).items()},
        adapter / PROJECTOR_FILE,
    )
    code, failures, _ = check(capsys, adapter, mgm_parts, "--initial-projector", first)
    assert code == 3
    names = {failure["name"] for failure in failures}
    assert "projector tensor mm_projector.0.weight" in names
    assert all("nothing trained it" in failure["problem"] for failure in failures)


def test_training_in_another_type_is_training(mgm_parts, mgm_model, tmp_path, capsys):
    from recap.mgm.lora import adapter_state, add_lora

    add_lora(mgm_model, KINDS["LoRA"], seed=0)
    for name, tensor in adapter_state(mgm_model).items():
        if "lora_B" in name:
            tensor.data.normal_()
    save_adapter(mgm_model, tmp_path / "a", base=describe_base(mgm_parts))
    first = write_start(tmp_path / "a", tmp_path / "start.safetensors", torch.bfloat16)
    stored = load_file(tmp_path / "a" / PROJECTOR_FILE)
    save_file({n: t * 1.05 + 0.01 for n, t in stored.items()}, tmp_path / "a" / PROJECTOR_FILE)
    assert check(capsys, tmp_path / "a", mgm_parts, "--initial-projector", first)[0] == 0
