"""Merges gone wrong in known ways: the gate fails and names the first diverging module."""

import json
import shutil

import pytest
import torch
from mgm_adapters import KINDS, parts_flags, run_json, write_adapter

from recap.mgm.checkpoint import build_model, projector_state
from recap.mgm.merge import AdapterMerger, merge_lora_weights
from recap.mgm.tensors import as_sources, open_model_folder, write_sharded
from recap.settings import MergeSettings

SETTINGS = MergeSettings(parity_prompts=1, parity_max_new_tokens=3)
QUERIES = [f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)]
GATE = "model.layers.1.mlp.gate_proj.weight"


@pytest.fixture(scope="module")
def kinds(mgm_parts, mgm_adapter, tmp_path_factory):
    return {
        "LoRA": mgm_adapter,
        "DoRA": write_adapter(mgm_parts, tmp_path_factory.mktemp("dora") / "a", KINDS["DoRA"]),
    }


def tamper(folder, change):
    """Rewrite a checkpoint's tensors."""
    tensors = {name: source.load() for name, source in open_model_folder(folder).items()}
    for path in folder.glob("*.safetensors"):
        path.unlink()
    change(tensors)
    write_sharded(as_sources(dict(sorted(tensors.items()))), folder, "5GB")


def skip_one(tensors, _parts, merger):
    tensors[GATE] = merger.base[GATE].load().bfloat16()


def swap_two(tensors, _parts, _merger):
    tensors[QUERIES[0]], tensors[QUERIES[1]] = tensors[QUERIES[1]], tensors[QUERIES[0]]


def wrong_scale(tensors, _parts, merger):
    for name, source in merger.base.items():
        update = merger.update(name)
        if update is not None:
            sum_ = source.load() + 0.5 * update.scale * (update.b @ update.a)
            tensors[name] = sum_.bfloat16()


def forget_lengths(tensors, _parts, merger):
    """DoRA merged as if it were LoRA."""
    for name, source in merger.base.items():
        update = merger.update(name)
        if update is not None:
            tensors[name] = (source.load() + update.scale * (update.b @ update.a)).bfloat16()


def untrained_projector(tensors, parts, merger):
    """Projector and mining as they were before training, here from another seed."""
    fresh = build_model(parts, dtype="float32", seed=9)
    for name, tensor in projector_state(fresh).items():
        if name.startswith("mm_projector."):
            tensors[f"model.{name}"] = tensor.bfloat16()


def drop_projector(tensors, _parts, _merger):
    for name in [n for n in tensors if n.startswith("model.mm_projector.")]:
        del tensors[name]


def untie_head(tensors, _parts, _merger):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2


CASES = [
    ("LoRA", skip_one, "model.layers.1.mlp.gate_proj"),
    ("LoRA", swap_two, "model.layers.0.self_attn.q_proj"),
    ("LoRA", wrong_scale, "model.layers.0.self_attn.k_proj"),
    ("DoRA", forget_lengths, "model.layers.0.self_attn.k_proj"),
    ("LoRA", untrained_projector, "model.mm_projector.0.bias"),
    ("LoRA", drop_projector, "model.mm_projector.0.bias"),
    ("LoRA", untie_head, "lm_head"),
]


def gate(capsys, folder, adapter, parts, questions):
    import check_parity

    flags = [
        "--merged", folder, "--adapter", adapter, *parts_flags(parts),
        "--questions", questions, "--images-root", questions.parent / "images",
        "--settings", SETTINGS.model_dump_json(), "--out", folder.parent / "parity.json",
    ]  # fmt: skip
    return run_json(capsys, check_parity, *flags)


@pytest.fixture(scope="module")
def merges(mgm_parts, kinds, tmp_path_factory):
    """A merge of each kind of adapter."""
    folders = {kind: tmp_path_factory.mktemp("merges") / "merged" for kind in kinds}
    for kind, folder in folders.items():
        merge_lora_weights(kinds[kind], mgm_parts, folder, SETTINGS)
    return folders


@pytest.mark.parametrize("kind", ["LoRA", "DoRA"])
def test_the_gate_passes_what_is_spoilt_below(
    mgm_parts, kinds, merges, mgm_questions, tmp_path, capsys, kind
):
    folder = shutil.copytree(merges[kind], tmp_path / "merged")
    assert gate(capsys, folder, kinds[kind], mgm_parts, mgm_questions)[0] == 0


@pytest.mark.parametrize(("kind", "fault", "culprit"), CASES)
def test_the_gate_names_the_first_diverging_module(
    mgm_parts, kinds, merges, mgm_questions, tmp_path, capsys, kind, fault, culprit
):
    folder, adapter = shutil.copytree(merges[kind], tmp_path / "merged"), kinds[kind]
    merger = AdapterMerger(adapter, mgm_parts, torch.bfloat16)
    tamper(folder, lambda tensors: fault(tensors, mgm_parts, merger))
    code, outcome = gate(capsys, folder, adapter, mgm_parts, mgm_questions)
    assert code == 3
    assert outcome["failures"][0]["name"] == culprit
    assert "merge again" in outcome["failures"][0]["fix"]
    assert f"first diverging module: {culprit}" in outcome["message"]
    kept = json.loads((tmp_path / "parity.failed.json").read_text())
    assert kept["first_diverging_module"] == culprit
