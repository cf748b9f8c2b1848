"""What upstream's loaders ask of names, keys and files, and what is written for them."""

import argparse
import json
import logging
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import convert_checkpoint as convert_cli
import merge_lora_weights as merge_cli
from recap.errors import RecapError
from recap.mgm.checkpoint import load_checkpoint
from recap.mgm.merge import merge_lora_weights
from recap.mgm.names import projector_names
from recap.mgm.upstream import older_tokenizer_config
from recap.mgm.upstream_convert import convert_checkpoint
from recap.mgm.upstream_options import towers_from_args
from recap.mgm.upstream_rules import UpstreamTowers, peft_config, require_folder_name
from recap.mgm.upstream_trained import Conversion
from recap.settings import MergeSettings

CLIP = "model_zoo/OpenAI/clip-vit-large-patch14-336"
AUX = "model_zoo/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup"
# the language model's keys, then those of the multimodal part, with the type each has on disk
KEYS = {
    "vocab_size": int, "hidden_size": int, "intermediate_size": int, "num_hidden_layers": int,
    "num_attention_heads": int, "num_key_value_heads": int, "head_dim": int,
    "max_position_embeddings": int, "rms_norm_eps": float, "rope_theta": float,
    "rope_scaling": type(None), "hidden_act": str, "attention_bias": bool,
    "attention_dropout": float, "bos_token_id": int, "eos_token_id": int, "pad_token_id": int,
    "initializer_range": float, "torch_dtype": str, "architectures": list,
    "model_type": str, "mm_vision_tower": str, "mm_vision_tower_aux": str, "mm_hidden_size": int,
    "mm_hidden_size_aux": int, "mm_projector_type": str, "mm_projector_lr": type(None),
    "mm_vision_select_layer": int, "mm_vision_select_feature": str, "mm_use_im_start_end": bool,
    "mm_use_im_patch_token": bool, "use_mm_proj": bool, "image_size_aux": int, "image_grid": int,
    "image_global": bool, "image_grid_pinpoints": type(None), "image_aspect_ratio": str,
    "optimize_vision_tower": bool, "optimize_vision_tower_aux": bool, "tune_mm_mlp_adapter": bool,
    "freeze_mm_mlp_adapter": bool, "tokenizer_padding_side": str,
    "tokenizer_model_max_length": int, "use_cache": bool, "transformers_version": str,
}  # fmt: skip


@pytest.fixture(scope="module")
def merged(mgm_adapter, mgm_parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("upstream") / "mgm-2b-merged"
    adapter = shutil.copytree(mgm_adapter, folder.parent / "adapter")
    origin = {"stage": "train", "seed": 17, "settings": {"epochs": 1}, "details": {}}
    (adapter / "manifest.json").write_text(json.dumps(origin))
    settings = MergeSettings(dtype="float16")
    merge_lora_weights(adapter, mgm_parts, folder, settings, towers=UpstreamTowers(CLIP, AUX))
    return folder


def test_config_has_upstream_s_keys_and_types_and_no_others(merged):
    config = json.loads((merged / "config.json").read_text())
    assert {key: type(value) for key, value in config.items()} == KEYS
    wanted = {
        "model_type": "mgm_gemma",
        "architectures": ["MGMGemmaForCausalLM"],
        "mm_vision_tower": CLIP,
        "mm_vision_tower_aux": AUX,
        "torch_dtype": "float16",
        "image_aspect_ratio": "pad",
        "mm_vision_select_layer": -2,
        "hidden_act": "gelu_pytorch_tanh",
    }
    assert {key: config[key] for key in wanted} == wanted


def test_mining_weights_are_found_through_the_index(merged):
    """As upstream does: read the index, open the shards it names, take what matches."""
    index = json.loads((merged / "model.safetensors.index.json").read_text())["weight_map"]
    shards = sorted(set(index.values()))
    assert len(shards) >= 2
    assert (
        shards
        == [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, 99)][: len(shards)]
    )
    found = {}
    for name, shard in index.items():
        if "vlm_uni" in name or "mm_projector" in name:
            with safe_open(merged / shard, framework="pt") as archive:
                found[name] = archive.get_tensor(name)
    assert set(found) == {f"model.{name}" for name in projector_names()}
    assert {tensor.dtype for tensor in found.values()} == {torch.float16}
    assert "lm_head.weight" not in index


def test_a_merge_in_upstream_s_form_equals_one_in_ours(merged, mgm_adapter, mgm_parts, tmp_path):
    ours = tmp_path / "merged"
    merge_lora_weights(mgm_adapter, mgm_parts, ours, MergeSettings(dtype="float16"))
    first = {n: t for path in ours.glob("model-*") for n, t in load_file(path).items()}
    second = {n: t for path in merged.glob("model-*") for n, t in load_file(path).items()}
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    model, _ = load_checkpoint(merged, dtype="float32", verify=True)
    assert model.config.image_aspect_ratio == "pad"


def test_a_merge_s_manifest_carries_base_seed_and_settings_of_the_training(merged, mgm_parts):
    document = json.loads((merged / "manifest.json").read_text())
    details = document["details"]
    assert set(details["base"]) == {"language_model", "clip", "convnext", "tokenizer"}
    assert details["origin"] == {"stage": "train", "seed": 17, "settings": {"epochs": 1}}
    assert sum(len(table) for table in details["tensors"].values()) == len(
        json.loads((merged / "model.safetensors.index.json").read_text())["weight_map"]
    )


def test_tokenizer_and_generation_files_are_in_the_old_form(merged, mgm_parts):
    config = json.loads((merged / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == ["<start_of_turn>", "<end_of_turn>"]
    assert not {"backend", "extra_special_tokens"} & set(config)
    same = (merged / "tokenizer.json").read_bytes()
    assert same == (mgm_parts.language_model / "tokenizer.json").read_bytes()
    assert json.loads((merged / "generation_config.json").read_text())["eos_token_id"] == 1


def test_a_missing_generation_config_is_made(merged, tmp_path):
    source = shutil.copytree(merged, tmp_path / "source")
    (source / "generation_config.json").unlink()
    convert_checkpoint(source, tmp_path / "mgm-2b", Conversion(towers=UpstreamTowers(CLIP, AUX)))
    made = json.loads((tmp_path / "mgm-2b" / "generation_config.json").read_text())
    assert {key: made[key] for key in made if key != "transformers_version"} == {
        "_from_model_config": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


@pytest.mark.parametrize("kind", ["GemmaTokenizer", "LlamaTokenizer", "PreTrainedTokenizerFast"])
def test_known_tokenizer_classes_stay(kind):
    assert older_tokenizer_config({"tokenizer_class": kind, "backend": "x"}) == {
        "tokenizer_class": kind
    }


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("mgm-2b", "gemma"), ("MGM-2B-mine", "gemma"), ("mgm-7b", "llama"), ("MGM_13B", "llama"),
        ("mgm-8b-hd", "llama"), ("mgm-7b", "mistral"),
    ],
)  # fmt: skip
def test_folder_names_that_upstream_can_route(tmp_path, name, language):
    require_folder_name(tmp_path / name, language)


@pytest.mark.parametrize(
    ("name", "language", "suggestion"),
    [
        ("merged", "gemma", "mgm-2b-merged"),
        ("mgm-7b", "gemma", "mgm-2b-7b"),
        ("gemma-2b", "gemma", "mgm-2b-gemma-2b"),
        ("checkpoint-mgm-2b", "gemma", "mgm-2b"),
        ("mgm-7b-2b", "llama", "mgm-7b"),
        ("mgm-8x7b", "llama", "mgm-7b"),
        ("mgm-large", "mistral", "mgm-7b-large"),
    ],
)
def test_other_folder_names_are_refused_with_a_better_one(tmp_path, name, language, suggestion):
    with pytest.raises(RecapError, match=r"must contain 'mgm' and .*for instance") as caught:
        require_folder_name(tmp_path / name, language)
    better = str(caught.value).rsplit("for instance ", 1)[1]
    assert better.startswith(suggestion)
    require_folder_name(tmp_path / better, language)


@pytest.mark.parametrize(("name", "said"), [("mgm-2b-lora", False), ("lora", True)])
def test_names_of_trained_files_are_told_but_not_refused(mgm_adapter, tmp_path, caplog, name, said):
    """With ``--model-base`` too, upstream chooses the class by the name of this folder."""
    what = Conversion(towers=UpstreamTowers(CLIP, AUX))
    with caplog.at_level(logging.WARNING):
        convert_checkpoint(mgm_adapter, tmp_path / name, what)
    assert ("for instance mgm-2b-lora" in caplog.text) is said
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        convert_checkpoint(mgm_adapter, tmp_path / "ours", Conversion())
    assert "for instance" not in caplog.text


def test_language_models_that_upstream_has_no_class_for_are_refused(tmp_path):
    with pytest.raises(RecapError, match="no class for the language model 'qwen2'"):
        require_folder_name(tmp_path / "mgm-7b", "qwen2")


@pytest.mark.parametrize(
    ("clip", "aux", "reason"),
    [
        ("clip-vit-large", AUX, "--vision-tower clip-vit-large.*'openai' or 'ShareGPT4V'"),
        ("sharegpt4v", AUX, "'ShareGPT4V'"),
        (CLIP, "convnext-large-d-320", "openclip is missing"),
        (CLIP, "openclip-convnext-xxl", "large, d-320 is missing"),
        (CLIP, "OpenCLIP-convnext-large-d-320", "openclip is missing"),
    ],
)
def test_tower_paths_that_upstream_would_not_take_are_refused(clip, aux, reason):
    with pytest.raises(RecapError, match=reason):
        UpstreamTowers(clip, aux)


def test_tower_folders_that_exist_must_be_whole(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        UpstreamTowers("zoo/ShareGPT4V/vit", AUX)
    assert "does not exist here" in caplog.text
    folder = tmp_path / "openclip-convnext-large-d-320"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(RecapError, match=r"lacks open_clip_pytorch_model\.bin"):
        UpstreamTowers(CLIP, str(folder))


@pytest.mark.parametrize("name", ["use_rslora", "use_dora", "rank_pattern"])
def test_adapters_that_peft_0_4_cannot_hold_are_refused(name):
    with pytest.raises(RecapError, match=f"a.json: {name} is unknown to PEFT 0.4.*merge"):
        peft_config({"r": 16, name: {"q_proj": 8}}, "a.json")
    assert name not in peft_config({"r": 16, name: False}, "a.json")


@pytest.mark.parametrize("module", [convert_cli, merge_cli])
def test_the_command_lines_share_their_format_options(module):
    parser: argparse.ArgumentParser = module.parser()
    needed = {
        convert_cli: ["a", "b"],
        merge_cli: [
            "--lora-path",
            "a",
            "--base",
            "b",
            "--clip",
            "c",
            "--convnext",
            "d",
            "--output-path",
            "e",
        ],
    }[module]
    towers = ["--vision-tower", CLIP, "--vision-tower-aux", AUX]
    assert towers_from_args(parser.parse_args(needed)) is None
    chosen = parser.parse_args([*needed, "--format", "upstream", *towers])
    assert towers_from_args(chosen) == UpstreamTowers(CLIP, AUX)
    with pytest.raises(RecapError, match="needs --vision-tower and --vision-tower-aux"):
        towers_from_args(parser.parse_args([*needed, "--format", "upstream", *towers[:2]]))
    with pytest.raises(RecapError, match="go with --format upstream"):
        towers_from_args(parser.parse_args([*needed, *towers]))


def test_the_command_line_converts(merged, tmp_path):
    args = convert_cli.parser().parse_args([str(merged), str(tmp_path / "ours"), "--verify"])
    result = convert_cli.main(args)
    assert result["kind"] == "checkpoint"
    assert (tmp_path / "ours" / "model-00001-of-00001.safetensors").is_file()
    origin = json.loads((tmp_path / "ours" / "manifest.json").read_text())["details"]["origin"]
    assert origin["stage"] == "merge"
    assert origin["origin"]["seed"] == 17


def test_a_merge_refuses_a_name_before_it_writes(mgm_adapter, mgm_parts, tmp_path):
    towers = UpstreamTowers(CLIP, AUX)
    with pytest.raises(RecapError, match=r"for instance mgm-2b-merged"):
        merge_lora_weights(
            mgm_adapter, mgm_parts, tmp_path / "merged", MergeSettings(), towers=towers
        )
    assert not list(tmp_path.iterdir())
