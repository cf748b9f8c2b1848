"""Templates, mm_* settings and rotary positions: taken over, compared or refused, never lost."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from mgm_adapters import KINDS, parts_flags, run_json, write_adapter

import check_lora_model
import check_parity
import convert_checkpoint
import merge_lora_weights
from recap.errors import RecapError
from recap.mgm.checkpoint import build_model, load_tokenizer, save_checkpoint
from recap.mgm.configuration import MGMConfig, config_from_disk, config_to_disk
from recap.mgm.families import family_template
from recap.mgm.micro import write_micro_parts
from recap.mgm.options import parts_from_args
from recap.mgm.rope import upstream_scaling
from recap.mgm.supported import SUPPORTED
from recap.mgm.upstream_config import upstream_config
from recap.mgm.upstream_rules import UpstreamTowers

FAMILIES = ("gemma", "vicuna_v1", "mistral_instruct", "llama_3")
TOWERS = UpstreamTowers("zoo/openai/clip", "zoo/openclip-convnext-large-d-320")


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(scope="module")
def families(mgm_parts, tmp_path_factory):
    root, found = tmp_path_factory.mktemp("families"), {"gemma": mgm_parts}
    for name in FAMILIES[1:]:
        found[name] = write_micro_parts(
            root / name, layers=2, hidden_size=64, conversation=name, seed=2
        )
    return found


@pytest.fixture(scope="module")
def mistral(families, tmp_path_factory):
    parts = families["mistral_instruct"]
    return parts, write_adapter(parts, tmp_path_factory.mktemp("mistral") / "a", KINDS["LoRA"])


# conversation templates


@pytest.mark.parametrize("name", FAMILIES)
def test_the_template_is_the_language_model_s(families, name):
    assert family_template(families[name].language_model) == name
    for script, needed in (
        (check_lora_model, ["a"]),
        (merge_lora_weights, ["--lora-path", "a", "--output-path", "o"]),
    ):
        flags = [str(flag) for flag in (*needed, *parts_flags(families[name]))]
        assert parts_from_args(script.parser().parse_args(flags)).conversation == name
        chosen = script.parser().parse_args([*flags, "--conversation", "llama_3"])
        assert parts_from_args(chosen).conversation == "llama_3"


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"model_type": "llama", "vocab_size": 32000}, "vicuna_v1"),
        ({"model_type": "mgm", "vocab_size": 32001}, "vicuna_v1"),
        ({"model_type": "llama", "vocab_size": 128256}, "llama_3"),
        ({"model_type": "mgm", "vocab_size": 128256}, "llama_3"),
        ({"model_type": "mgm_gemma", "vocab_size": 256000}, "gemma"),
        ({"model_type": "mistral", "vocab_size": 32000}, "mistral_instruct"),
    ],
)
def test_real_vocabularies_tell_the_generations_of_llama_apart(tmp_path, config, wanted):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert family_template(tmp_path) == wanted


def test_a_family_without_a_template_must_be_given_one(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(RecapError, match=r"config\.json.*'qwen2'.*--conversation"):
        family_template(tmp_path)


def run_merge(capsys, adapter, parts, out, *more):
    flags = ["--lora-path", adapter, *parts_flags(parts), "--output-path", out, *more]
    return run_json(capsys, merge_lora_weights, *flags)


def test_tools_take_the_adapter_s_template(mistral, tmp_path, capsys):
    parts, adapter = mistral
    assert run_json(capsys, check_lora_model, adapter, *parts_flags(parts))[0] == 0
    assert run_merge(capsys, adapter, parts, tmp_path / "m")[0] == 0
    assert config_from_disk(tmp_path / "m").conversation == "mistral_instruct"


def test_an_adapter_s_template_comes_before_the_family_s(families, tmp_path, capsys):
    parts = replace(families["mistral_instruct"], conversation="vicuna_v1")
    adapter = write_adapter(parts, tmp_path / "adapter", KINDS["LoRA"])
    assert run_merge(capsys, adapter, parts, tmp_path / "m")[0] == 0
    assert config_from_disk(tmp_path / "m").conversation == "vicuna_v1"


def test_the_wrong_template_is_refused(mistral, tmp_path, capsys):
    parts, adapter = mistral
    wrong = ("--conversation", "vicuna_v1")
    code, outcome = run_json(capsys, check_lora_model, adapter, *parts_flags(parts), *wrong)
    assert code == 3
    assert [failure["name"] for failure in outcome["failures"]] == ["conversation"]
    assert "trained with mistral_instruct" in outcome["failures"][0]["problem"]
    code, outcome = run_merge(capsys, adapter, parts, tmp_path / "m", *wrong)
    assert code == 2
    assert "--conversation mistral_instruct" in outcome["failures"][0]["fix"]
    assert not (tmp_path / "m").exists()


def test_an_adapter_that_names_no_template_is_warned_about(mistral, tmp_path, capsys):
    parts, adapter = mistral
    silent = shutil.copytree(adapter, tmp_path / "silent")
    config = json.loads((silent / "config.json").read_text())
    del config["recap"]
    (silent / "config.json").write_text(json.dumps(config))
    flags = [silent, *parts_flags(parts)]
    for more, said in (((), False), (("--conversation", "vicuna_v1"), True)):
        code, outcome = run_json(capsys, check_lora_model, *flags, *more)
        assert code == 0
        warnings = outcome["result"]["warnings"]
        assert any("vicuna_v1 is not the one" in warning for warning in warnings) is said


# mm_* settings

OTHER_VALUES = {
    "mm_projector_type": "mlp3x_gelu",
    "mm_vision_select_feature": "cls_patch",
    "mm_use_im_start_end": True,
    "mm_use_im_patch_token": True,
    "use_mm_proj": False,
    "image_grid_pinpoints": [[336, 672]],
    "image_aspect_ratio": "anyres",
    "tokenizer_padding_side": "middle",
    "mm_vision_select_layer": -7,
}


def test_every_restricted_setting_is_tried():
    assert set(OTHER_VALUES) == {*SUPPORTED, "mm_vision_select_layer"}


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_settings_that_would_not_be_honoured_are_refused(
    mgm_parts, mgm_adapter, tmp_path, capsys, name
):
    adapter = shutil.copytree(mgm_adapter, tmp_path / "adapter")
    edit_json(adapter / "config.json", **{name: OTHER_VALUES[name]})
    code, outcome = run_json(capsys, check_lora_model, adapter, *parts_flags(mgm_parts))
    assert code == 3
    assert [failure["name"] for failure in outcome["failures"]] == [name]
    assert repr(OTHER_VALUES[name]) in outcome["failures"][0]["problem"]
    assert run_merge(capsys, adapter, mgm_parts, tmp_path / "m")[0] == 2
    assert not (tmp_path / "m").exists()


@pytest.fixture(scope="module")
def saved(mgm_parts, mgm_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "mgm"
    model = build_model(mgm_parts, dtype="bfloat16", seed=1)
    save_checkpoint(model, mgm_tokenizer, folder, dtype="bfloat16")
    return folder


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_checkpoint_with_them_is_not_loaded(saved, tmp_path, name):
    folder = shutil.copytree(saved, tmp_path / "m")
    edit_json(folder / "config.json", **{name: OTHER_VALUES[name]})
    with pytest.raises(
        RecapError, match=rf"config\.json: {name} is {re.escape(repr(OTHER_VALUES[name]))}"
    ):
        config_from_disk(folder)


def test_an_unset_aspect_ratio_is_square(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "m")
    edit_json(folder / "config.json", image_aspect_ratio=None)
    assert config_from_disk(folder).image_aspect_ratio == "square"


def test_what_is_honoured_reaches_the_merge_and_the_gate(
    mgm_parts, mgm_adapter, mgm_questions, tmp_path, capsys
):
    adapter = shutil.copytree(mgm_adapter, tmp_path / "adapter")
    carried = {
        "mm_vision_select_layer": -1, "tokenizer_padding_side": "left",
        "image_aspect_ratio": "square", "tokenizer_model_max_length": 777,
    }  # fmt: skip
    edit_json(adapter / "config.json", **carried)
    assert run_merge(capsys, adapter, mgm_parts, tmp_path / "m")[0] == 0
    config = config_from_disk(tmp_path / "m")
    assert {name: getattr(config, name) for name in carried} == carried
    flags = [
        "--merged", tmp_path / "m", "--adapter", adapter, *parts_flags(mgm_parts),
        "--questions", mgm_questions, "--images-root", mgm_questions.parent / "images",
        "--settings", '{"parity_prompts": 1, "parity_max_new_tokens": 2}',
        "--out", tmp_path / "p.json",
    ]  # fmt: skip
    assert run_json(capsys, check_parity, *flags)[0] == 0


# rotary positions


def rope_of(language, **values):
    from transformers import AutoConfig

    config = AutoConfig.for_model(language, **values)
    return config.rope_parameters


def with_rope(saved, tmp_path, **values):
    folder = shutil.copytree(saved, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    for key in ("rope_theta", "rope_scaling"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


@pytest.mark.parametrize("theta", [None, 5e5])
@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_scaled_positions_are_read_in_either_form(saved, tmp_path, theta, key):
    values = {"rope_scaling": {key: "linear", "factor": 4.0}}
    values |= {} if theta is None else {"rope_theta": theta}
    folder = with_rope(saved, tmp_path, **values)
    found = config_from_disk(folder).text_config.rope_parameters
    assert found == {"rope_type": "linear", "factor": 4.0, "rope_theta": theta or 1e4}
    disk = config_to_disk(config_from_disk(folder), "bfloat16")
    assert (disk["rope_theta"], disk["rope_scaling"]) == (
        theta or 1e4,
        {"rope_type": "linear", "factor": 4.0},
    )
    (folder / "config.json").write_text(json.dumps(disk))
    assert config_from_disk(folder).text_config.rope_parameters == found


def test_scaled_positions_change_what_is_computed(saved, tmp_path):
    from recap.mgm.checkpoint import load_checkpoint

    ids = torch.tensor([[2, 60, 61, 62, 63]])
    plain, _ = load_checkpoint(saved, dtype="float32")
    scaling = {"type": "linear", "factor": 4.0}
    scaled, _ = load_checkpoint(with_rope(saved, tmp_path, rope_scaling=scaling), dtype="float32")
    logits = [model.language_model(ids).logits for model in (plain, scaled)]
    assert not torch.allclose(*logits)


def test_upstream_gets_the_two_keys_that_its_version_takes(families):
    parts = families["vicuna_v1"]
    config = build_model(parts, dtype="float32", seed=0).config
    config.text_config.rope_parameters = rope_of(
        "llama", rope_scaling={"type": "dynamic", "factor": 2}
    )
    written, _ = upstream_config(config_to_disk(config, "float16"), TOWERS)
    assert written["rope_scaling"] == {"type": "dynamic", "factor": 2.0}
    assert isinstance(written["rope_scaling"]["factor"], float)


@pytest.mark.parametrize(
    ("language", "scaling"),
    [
        ("llama", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}),
        ("llama", {"rope_type": "yarn", "factor": 8.0}),
        ("gemma", {"rope_type": "linear", "factor": 2.0}),
        ("mistral", {"rope_type": "linear", "factor": 2.0}),
    ],
)
def test_scalings_that_upstream_does_not_know_are_refused(language, scaling):
    with pytest.raises(RecapError, match=rf"rope_scaling .*{language} model is unknown"):
        upstream_scaling(language, scaling)
    assert upstream_scaling(language, None) is None


def test_a_conversion_refuses_them_and_leaves_nothing(saved, tmp_path):
    folder = with_rope(saved, tmp_path, rope_scaling={"type": "linear", "factor": 2.0})
    flags = [str(folder), str(tmp_path / "mgm-2b"), "--format", "upstream"]
    flags += ["--vision-tower", TOWERS.clip, "--vision-tower-aux", TOWERS.convnext]
    with pytest.raises(RecapError, match="unknown to transformers"):
        convert_checkpoint.main(convert_checkpoint.parser().parse_args(flags))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_configuration_names_what_it_refuses():
    with pytest.raises(RecapError, match="mm_projector_type is 'linear'"):
        MGMConfig(mm_projector_type="linear")


def test_a_llama_of_the_third_generation_is_told_by_its_tokenizer(families):
    tokenizer = load_tokenizer(families["llama_3"].language_model)
    assert len(tokenizer) < 100_000
    assert family_template(families["llama_3"].language_model) == "llama_3"
