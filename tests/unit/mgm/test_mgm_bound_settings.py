"""What an adapter's and a merge's settings must have in common with the base's."""

import json
import shutil
from dataclasses import replace

import pytest
from mgm_adapters import KINDS, parts_flags, run_json, write_adapter

import check_lora_model
import merge_lora_weights
from recap.errors import RecapError
from recap.mgm.adapters import adapter_model_config
from recap.mgm.compare_config import adapter_differences
from recap.mgm.configuration import config_from_parts
from recap.mgm.micro import write_micro_parts
from recap.mgm.upstream_config import upstream_config
from recap.mgm.upstream_rules import UpstreamTowers

TOWERS = UpstreamTowers("zoo/openai/clip", "zoo/openclip-convnext-large-d-320")
MEAN = [0.5, 0.4, 0.3]


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_section(folder, key, **values):
    config = json.loads((folder / "config.json").read_text())
    config["recap"][key] |= values
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def adapter(mgm_adapter, tmp_path):
    return shutil.copytree(mgm_adapter, tmp_path / "adapter")


def failures_of(capsys, adapter, parts, out):
    """Names of what check and merge refuse, which must be the same."""
    code, outcome = run_json(capsys, check_lora_model, adapter, *parts_flags(parts))
    flags = ["--lora-path", adapter, *parts_flags(parts), "--output-path", out]
    merging, merged = run_json(capsys, merge_lora_weights, *flags)
    assert (code, merging) in ((0, 0), (3, 2))
    assert outcome["failures"] == merged["failures"]
    assert out.exists() is (code == 0)
    return {failure["name"]: failure["problem"] for failure in outcome["failures"]}


# the adapter says something else than the base


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_theta", 5e5),
        ("rope_scaling", {"rope_type": "linear", "factor": 4.0}),
        ("rms_norm_eps", 1e-3),
        ("max_position_embeddings", 77),
        ("head_dim", 16),
        ("attention_bias", True),
        ("mm_hidden_size", 65),
    ],
)
def test_an_adapter_trained_with_other_settings_is_refused(
    mgm_parts, adapter, tmp_path, capsys, name, value
):
    edit_json(adapter / "config.json", **{name: value})
    failures = failures_of(capsys, adapter, mgm_parts, tmp_path / "m")
    assert list(failures) == [name]
    assert f"trained with {value}" in failures[name]


@pytest.mark.parametrize(
    ("part", "name", "value", "failure"),
    [
        ("vision_config", "hidden_act", "gelu", "vision_config.hidden_act"),
        ("vision_config", "layer_norm_eps", 0.1, "vision_config.layer_norm_eps"),
        ("convnext", "depths", [1, 1, 2, 1], "convnext"),
        ("preprocessor", "mean", MEAN, "preprocessor"),
    ],
)
def test_towers_and_pictures_are_those_of_training(
    mgm_parts, adapter, tmp_path, capsys, part, name, value, failure
):
    edit_section(adapter, part, **{name: value})
    failures = failures_of(capsys, adapter, mgm_parts, tmp_path / "m")
    assert list(failures) == [failure]
    assert str(value) in failures[failure]


@pytest.mark.parametrize("name", ["attention_dropout", "eos_token_id", "use_cache", "unheard_of"])
def test_what_does_not_change_answers_is_not_compared(mgm_parts, adapter, tmp_path, capsys, name):
    edit_json(adapter / "config.json", **{name: 3})
    assert failures_of(capsys, adapter, mgm_parts, tmp_path / "m") == {}


def few_means(adapter):
    edit_section(adapter, "preprocessor", mean=[0.5])


def odd_heads(adapter):
    edit_section(adapter, "vision_config", num_attention_heads=7)


@pytest.mark.parametrize("change", [few_means, odd_heads])
def test_a_section_that_is_none_is_refused(mgm_parts, adapter, tmp_path, capsys, change):
    change(adapter)
    failures = failures_of(capsys, adapter, mgm_parts, tmp_path / "m")
    assert list(failures) == ["config.json"]
    assert "does not describe a model" in failures["config.json"]


@pytest.mark.parametrize("name", ["optimize_vision_tower", "optimize_vision_tower_aux"])
def test_a_tower_that_was_trained_is_not_left_out(mgm_parts, adapter, tmp_path, capsys, name):
    edit_json(adapter / "config.json", **{name: True})
    failures = failures_of(capsys, adapter, mgm_parts, tmp_path / "m")
    assert list(failures) == [name]
    assert "a tower was trained" in failures[name]
    with pytest.raises(RecapError, match=rf"config\.json: {name} is true"):
        adapter_model_config(adapter, mgm_parts)


# the base was changed after training


@pytest.mark.parametrize(
    ("part", "file", "name", "value", "failure"),
    [
        ("language_model", "config.json", "rms_norm_eps", 1e-3, "rms_norm_eps"),
        ("language_model", "config.json", "rope_parameters",
         {"rope_type": "default", "rope_theta": 5e5}, "rope_theta"),
        ("clip", "config.json", "hidden_act", "gelu", "vision_config.hidden_act"),
        ("clip", "config.json", "layer_norm_eps", 0.1, "vision_config.layer_norm_eps"),
        ("clip", "preprocessor_config.json", "image_mean", MEAN, "preprocessor"),
    ],
)  # fmt: skip
def test_a_base_changed_after_training_is_refused(
    mgm_parts, adapter, tmp_path, capsys, part, file, name, value, failure
):
    folder = shutil.copytree(getattr(mgm_parts, part), tmp_path / part)
    edit_json(folder / file, **{name: value})
    parts = replace(mgm_parts, **{part: folder})
    if name == "image_mean":
        convnext = shutil.copytree(mgm_parts.convnext, tmp_path / "convnext")
        edit_json(convnext / "open_clip_config.json", preprocess_cfg={})
        parts = replace(parts, convnext=convnext)
    assert list(failures_of(capsys, adapter, parts, tmp_path / "m")) == [failure]


# upstream's adapters, and other families


def as_upstream(adapter):
    flat = json.loads((adapter / "config.json").read_text())
    written, _ = upstream_config(flat, TOWERS, adapter=True)
    (adapter / "config.json").write_text(json.dumps(written))


def test_an_adapter_of_upstream_s_is_compared_in_what_it_states(
    mgm_parts, adapter, tmp_path, capsys
):
    as_upstream(adapter)
    # as transformers 4.38 wrote them for MGM-2B
    edit_json(adapter / "config.json", hidden_act="gelu", rope_scaling=None, attention_dropout=0.0)
    assert failures_of(capsys, adapter, mgm_parts, tmp_path / "m") == {}
    edit_json(adapter / "config.json", rms_norm_eps=1e-3, rope_theta=5e5)
    failures = failures_of(capsys, adapter, mgm_parts, tmp_path / "m2")
    assert set(failures) == {"rms_norm_eps", "rope_theta"}


def test_what_upstream_s_training_writes_fits_gemma_2b(tmp_path):
    """The form of transformers 4.38, at the size of MGM-2B."""
    from transformers import GemmaConfig

    base = config_like_gemma_2b(tmp_path)
    written = {
        "architectures": ["MGMGemmaForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0, "bos_token_id": 2, "eos_token_id": 1,
        "freeze_mm_mlp_adapter": False,
        "head_dim": 256, "hidden_act": "gelu", "hidden_size": 2048, "image_aspect_ratio": "pad",
        "image_global": False, "image_grid": 1, "image_grid_pinpoints": None,
        "image_size_aux": 768, "initializer_range": 0.02, "intermediate_size": 16384,
        "max_position_embeddings": 8192, "mm_hidden_size": 1024, "mm_hidden_size_aux": 2880,
        "mm_projector_type": "mlp2x_gelu", "model_type": "mgm_gemma", "num_attention_heads": 8,
        "num_hidden_layers": 18, "num_key_value_heads": 1, "pad_token_id": 0,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 10000.0,
        "torch_dtype": "bfloat16", "transformers_version": "4.38.0", "use_cache": True,
        "vocab_size": 256000,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert isinstance(base.text_config, GemmaConfig)
    assert adapter_differences(tmp_path, base) == []


def config_like_gemma_2b(tmp_path):
    from transformers import CLIPVisionConfig, GemmaConfig

    from recap.mgm.configuration import MGMConfig

    sizes = {"vocab_size": 256000, "hidden_size": 2048, "intermediate_size": 16384}
    layers = {"num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1}
    GemmaConfig(**sizes, **layers).save_pretrained(tmp_path / "g")
    return MGMConfig(
        text_config=GemmaConfig.from_pretrained(tmp_path / "g"),
        vision_config=CLIPVisionConfig(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16
        ),
    )


@pytest.mark.parametrize("template", ["vicuna_v1", "mistral_instruct", "llama_3"])
def test_every_family_passes_in_both_forms(tmp_path, capsys, template):
    parts = write_micro_parts(
        tmp_path / "parts", layers=2, hidden_size=64, conversation=template, seed=2
    )
    adapter = write_adapter(parts, tmp_path / "a", KINDS["LoRA"])
    base = config_from_parts(parts)
    assert adapter_differences(adapter, base) == []
    as_upstream(adapter)
    assert adapter_differences(adapter, base) == []
    edit_json(adapter / "config.json", rms_norm_eps=0.5, model_type="mgm_gemma")
    assert [entry["name"] for entry in adapter_differences(adapter, base)] == ["text_model_type"]
