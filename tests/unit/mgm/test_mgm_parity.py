"""The parity gate: memory, tolerances, the deployed type, settings, and what it blames."""

import json
import math
import shutil
import weakref
from dataclasses import replace

import pytest
import torch
from mgm_adapters import KINDS, parts_flags, run_json, write_adapter
from safetensors.torch import load_file, save_file

import check_parity
from recap.mgm import parity, parity_models
from recap.mgm.checkpoint import build_model, describe_base, load_adapter
from recap.mgm.localize import first_divergence, first_overflow, largest_change, record_outputs
from recap.mgm.lora import merge_adapter
from recap.mgm.merge import merge_lora_weights
from recap.mgm.micro import write_micro_parts
from recap.mgm.rounding import folded, lower
from recap.mgm.tensors import as_sources, open_model_folder, write_sharded
from recap.mgm.traces import CAP, Trace, allow, compare_traces, rounding_effect
from recap.settings import MergeSettings

SETTINGS = MergeSettings(parity_prompts=1, parity_max_new_tokens=3)


@pytest.fixture(scope="module")
def merged(mgm_parts, mgm_adapter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity") / "merged"
    merge_lora_weights(mgm_adapter, mgm_parts, folder, SETTINGS)
    return folder


@pytest.fixture
def tampered(merged, tmp_path):
    return shutil.copytree(merged, tmp_path / "tampered")


@pytest.fixture
def gate(mgm_parts, mgm_adapter, mgm_questions, tmp_path, capsys):
    """Run the tool; return exit code, outcome and report."""

    def run(folder, *more, parts=mgm_parts, adapter=mgm_adapter, settings=SETTINGS):
        flags = [
            "--merged", folder, "--adapter", adapter, *parts_flags(parts),
            "--questions", mgm_questions, "--images-root", mgm_questions.parent / "images",
            "--settings", settings.model_dump_json(), "--out", tmp_path / "p.json", *more,
        ]  # fmt: skip
        code, outcome = run_json(capsys, check_parity, *flags)
        path = tmp_path / "p.json"
        return code, outcome, json.loads(path.read_text()) if path.is_file() else None

    return run


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_tensor(folder, name, change):
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    tensors = load_file(folder / index[name])
    change(tensors[name])
    save_file(tensors, folder / index[name], metadata={"format": "pt"})


# memory


@pytest.mark.parametrize("fails", [False, True])
def test_one_model_is_alive_at_a_time(gate, tampered, monkeypatch, fails):
    alive, built = weakref.WeakSet(), []

    def counting(build):
        def wrapped(*arguments, **named):
            assert not alive, "a second model is built while the first one lives"
            result = build(*arguments, **named)
            model = result[0] if isinstance(result, tuple) else result
            alive.add(model)
            built.append(build.__name__)
            return result

        return wrapped

    for name in ("load_checkpoint", "build_configured"):
        monkeypatch.setattr(parity_models, name, counting(getattr(parity_models, name)))
    if fails:
        edit_json(tampered / "config.json", hidden_act="relu", hidden_activation="relu")
        config = json.loads((tampered / "config.json").read_text())
        config["recap"]["vision_config"]["layer_norm_eps"] = 0.5
        (tampered / "config.json").write_text(json.dumps(config))
    code, outcome, _ = gate(tampered)
    assert code == (3 if fails else 0)
    assert built == ["build_configured", "load_checkpoint"] * (2 if fails else 1)
    assert ("pre_layrnorm" in outcome["message"]) is fails


def test_folding_in_place_is_a_merge_and_is_undone(mgm_parts, mgm_adapter):
    ids = torch.tensor([[2, 60, 61, 62]])
    models = [
        load_adapter(build_model(mgm_parts, dtype="float32", seed=0), mgm_adapter) for _ in "ab"
    ]
    before = {name: value.clone() for name, value in models[0].state_dict().items()}
    with torch.no_grad():
        plain = models[0].language_model(ids).logits
        with folded(models[0], torch.bfloat16):
            same = models[0].language_model(ids).logits
        after = models[0].language_model(ids).logits
        merged = merge_adapter(models[1], dtype=torch.bfloat16).language_model(ids).logits
    assert torch.equal(same, merged)
    assert not torch.equal(same, plain)
    assert torch.equal(after, plain)
    assert all(torch.equal(v, before[n]) for n, v in models[0].state_dict().items())


def test_lowering_keeps_the_rotary_frequencies(mgm_model):
    frequencies = mgm_model.language_model.model.rotary_emb.inv_freq.clone()
    lower(mgm_model, torch.float16)
    assert {p.dtype for p in mgm_model.parameters()} == {torch.float16}
    assert torch.equal(mgm_model.language_model.model.rotary_emb.inv_freq, frequencies)


def test_rounding_leaves_exact_zeros_alone():
    from recap.mgm.rounding import round_stochastically

    generator = torch.Generator().manual_seed(0)
    assert not round_stochastically(torch.zeros(64), torch.bfloat16, generator).any()


# tolerances


def steps(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def test_each_step_has_its_own_tolerance():
    reference = Trace([0, 0], steps([10.0, 1.0], [10.0, 1.0]))
    effect = torch.tensor([0.001, 0.1])
    allowed = allow(reference, effect, torch.bfloat16)
    assert allowed.difference.tolist() == pytest.approx([0.004, 0.4])
    assert allowed.tie.tolist() == pytest.approx([0.002, 0.2])
    early = Trace([0, 0], steps([10.1, 1.0], [10.0, 1.0]))
    late = Trace([0, 0], steps([10.0, 1.0], [10.1, 1.0]))
    assert not compare_traces(early, reference, allowed)["within"]
    assert compare_traces(late, reference, allowed)["within"]


def test_no_measured_effect_widens_the_tolerance_beyond_the_cap():
    reference = Trace([0], steps([10.0, 9.0]))
    for dtype in (torch.bfloat16, torch.float16):
        limit = CAP * torch.finfo(dtype).eps * 10
        for effect in (5.0, math.inf):
            allowed = allow(reference, torch.tensor([effect]), dtype)
            assert allowed.difference.item() == pytest.approx(limit)
            assert allowed.tie.item() == pytest.approx(limit)
    wide = Trace([1], steps([8.0, 9.0]))
    assert not compare_traces(wide, reference, allowed)["agrees"]


def test_a_floor_for_sums_in_another_order():
    reference = Trace([0], steps([10.0, 9.0]))
    allowed = allow(reference, torch.zeros(1), torch.float32)
    assert allowed.difference.item() == pytest.approx(1e-3)


def test_tokens_part_only_where_the_effect_there_explains_it():
    """Within tolerance, but the two logits are further apart than rounding moves them."""
    reference = Trace([0, 0], steps([10.0, 9.7], [10.0, 9.7]))
    other = Trace([1, 0], steps([9.84, 9.86], [10.0, 9.7]))
    effect = torch.tensor([0.05, 0.3])
    found = compare_traces(other, reference, allow(reference, effect, torch.bfloat16))
    assert (found["within"], found["tokens_equal"], found["agrees"]) == (True, False, False)
    effect = torch.tensor([0.16, 0.0])
    assert compare_traces(other, reference, allow(reference, effect, torch.bfloat16))["agrees"]


def test_an_effect_is_measured_step_by_step():
    reference = Trace([0, 0], steps([1.0, 0.0], [1.0, 0.0]))
    rounded = Trace([0, 0], steps([1.0, 0.1], [1.3, 0.0]))
    assert rounding_effect(rounded, reference).tolist() == pytest.approx([0.2, 0.3])
    broken = Trace([0, 0], steps([1.0, 0.1], [math.nan, 0.0]))
    assert rounding_effect(broken, reference).tolist() == [math.inf, math.inf]


def test_the_report_says_whether_all_tokens_were_equal(gate, mgm_parts, mgm_adapter, tmp_path):
    settings = MergeSettings(dtype="float32", parity_prompts=1, parity_max_new_tokens=3)
    merge_lora_weights(mgm_adapter, mgm_parts, tmp_path / "exact", settings)
    code, _, report = gate(tmp_path / "exact", settings=settings)
    assert (code, report["tokens_equal"], report["deployed_dtype"]) == (0, True, "float32")
    assert report["unmerged_tolerance"] <= 1.001e-4


# the deployed type


def test_an_overflow_where_the_model_is_used_is_seen(gate, mgm_parts, tmp_path):
    """bfloat16 weights are fine; activations leave float16's range."""
    folder = shutil.copytree(mgm_parts.language_model, tmp_path / "gemma")
    tensors = load_file(folder / "model.safetensors")
    for name in ("gate_proj", "up_proj"):
        tensors[f"model.layers.0.mlp.{name}.weight"] *= 100
    tensors["model.layers.0.mlp.down_proj.weight"] /= 10_000
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    parts = replace(mgm_parts, language_model=folder)
    adapter = write_adapter(parts, tmp_path / "adapter", KINDS["LoRA"])
    merge_lora_weights(adapter, parts, tmp_path / "m", SETTINGS)
    assert gate(tmp_path / "m", parts=parts, adapter=adapter)[0] == 0
    code, outcome, report = gate(
        tmp_path / "m", "--deployed-dtype", "float16", parts=parts, adapter=adapter
    )
    assert code == 3
    assert report["first_diverging_module"] == "model.layers.0.mlp.down_proj"
    assert not any(row["deployed"]["finite"] for row in report["prompts"])
    assert all(row["unmerged"]["agrees"] for row in report["prompts"])
    assert "evaluate in bfloat16" in outcome["failures"][-1]["fix"]


def test_nan_in_the_unmerged_model_s_logits_is_reported(gate, mgm_parts, tmp_path):
    folder = shutil.copytree(mgm_parts.language_model, tmp_path / "gemma")
    tensors = load_file(folder / "model.safetensors")
    for name in ("gate_proj", "up_proj"):
        tensors[f"model.layers.0.mlp.{name}.weight"] *= 1e20
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    parts = replace(mgm_parts, language_model=folder)
    adapter = write_adapter(parts, tmp_path / "adapter", KINDS["LoRA"])
    merge_lora_weights(adapter, parts, tmp_path / "m", SETTINGS)
    code, _, report = gate(tmp_path / "m", parts=parts, adapter=adapter)
    assert (code, report["unmerged_tolerance"]) == (3, None)
    assert not any(row["passed"] for row in report["prompts"])


@pytest.mark.parametrize("deployed", ["float32", "bfloat16", "float16"])
def test_every_deployed_type_is_answered_in(gate, merged, deployed):
    code, _, report = gate(merged, "--deployed-dtype", deployed)
    assert (code, report["dtype"], report["deployed_dtype"]) == (0, "bfloat16", deployed)
    moved = [row["deployed"]["max_difference"] for row in report["prompts"]]
    assert all(value > 0 for value in moved)


def test_other_tokens_in_the_deployed_type_fail(gate, merged, monkeypatch):
    from recap.mgm import traces

    def wrong(model, *arguments, **named):
        found = traces.trace(model, *arguments, **named)
        if model.get_input_embeddings().weight.dtype == torch.float32 or not model.spoiled:
            return found
        far = found.logits.clone()
        far[:, 7] = far.max() * 3
        return Trace([7] * len(found.tokens), far)

    load = parity_models.load_checkpoint

    def spoiled(*arguments, **named):
        model, tokenizer = load(*arguments, **named)
        model.spoiled = True
        return model, tokenizer

    monkeypatch.setattr("recap.mgm.modeling.MGMForCausalLM.spoiled", False, raising=False)
    monkeypatch.setattr(parity_models, "load_checkpoint", spoiled)
    monkeypatch.setattr(parity, "trace", wrong)
    code, outcome, report = gate(merged)
    assert code == 3
    assert all(row["unmerged"]["agrees"] for row in report["prompts"])
    assert "otherwise in bfloat16 than in float32" in outcome["failures"][0]["problem"]
    most = report["most_changed_module"]
    assert (report["first_diverging_module"], most["compared_with"]) == (None, "itself in float32")
    assert 1e-4 < most["relative_difference"] < 1
    assert "no module diverges in float32 from the same weights" in outcome["message"]


def test_rounding_alone_names_the_module_that_it_moved_most(gate, merged, monkeypatch):
    from recap.mgm import traces

    monkeypatch.setattr(traces, "SAFETY", 0.0)  # leaves what float32 sums may differ by
    code, outcome, report = gate(merged)
    assert code == 3
    assert not any(row["unmerged"]["agrees"] for row in report["prompts"])
    assert all(row["folded"]["within"] for row in report["prompts"])
    most = report["most_changed_module"]
    assert report["first_diverging_module"] is None
    assert most["compared_with"] == "base with the adapter attached"
    assert 1e-4 < most["relative_difference"] < 1
    assert f"{most['module']} differs most" in outcome["message"]


def test_a_wrapped_map_is_seen_with_its_adapter(mgm_parts, mgm_adapter):
    model = load_adapter(build_model(mgm_parts, dtype="float32", seed=0), mgm_adapter)

    def run(some):
        with torch.no_grad():
            return some.language_model(torch.tensor([[2, 60, 61, 62]]))

    expected = record_outputs(model, run)
    merged = merge_adapter(model, dtype=torch.float32)
    assert largest_change(merged, expected, run)[1] < 1e-4
    name = "model.layers.1.mlp.gate_proj"
    assert name in expected
    with torch.no_grad():
        merged.get_parameter(f"language_model.{name}.weight").mul_(3)
    assert largest_change(merged, expected, run)[0] == name


# settings


def other_mean(folder):
    edit_json(folder / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])


def other_aspect(folder):
    edit_json(folder / "config.json", image_aspect_ratio="square")


def edit_section(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    config["recap"] |= values
    (folder / "config.json").write_text(json.dumps(config))


def other_std(folder):
    config = json.loads((folder / "config.json").read_text())
    edit_section(folder, preprocessor=config["recap"]["preprocessor"] | {"std": [1.0, 1.0, 1.0]})


def other_template(folder):
    edit_section(folder, conversation="vicuna_v1")


def no_preprocessor(folder):
    (folder / "preprocessor_config.json").unlink()


def other_length(folder):
    edit_json(folder / "config.json", tokenizer_model_max_length=4096)


def scaled(folder):
    scaling = {"rope_type": "linear", "factor": 4.0}
    edit_json(folder / "config.json", rope_scaling=scaling)


def other_positions(folder):
    edit_json(folder / "config.json", max_position_embeddings=77)


def other_side(folder):
    edit_json(folder / "config.json", tokenizer_padding_side="left")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (other_mean, "preprocessor_config.json image_mean"),
        (other_aspect, "image_aspect_ratio"),
        (other_std, "preprocessor"),
        (other_template, "conversation"),
        (no_preprocessor, "preprocessor_config.json"),
        (other_length, "tokenizer_model_max_length"),
        (other_positions, "max_position_embeddings"),
        (other_side, "tokenizer_padding_side"),
    ],
)
def test_a_checkpoint_that_shows_pictures_otherwise_fails(gate, tampered, change, name):
    change(tampered)
    code, outcome, report = gate(tampered)
    assert code == 3
    assert [entry["name"] for entry in report["wrong_settings"]] == [name]
    assert [failure["name"] for failure in outcome["failures"]] == [name]
    assert name in outcome["message"]


def test_scaled_positions_are_named_with_what_they_change(gate, tampered):
    scaled(tampered)
    code, outcome, report = gate(tampered)
    assert code == 3
    assert [entry["name"] for entry in report["wrong_settings"]] == ["rope_scaling"]
    assert "rope_scaling" in [failure["name"] for failure in outcome["failures"]]


def other_width(folder):
    edit_json(folder / "config.json", hidden_size=96)


def other_projector(folder):
    edit_json(folder / "config.json", mm_projector_type="linear")


def other_pieces(folder):
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("change", "name"),
    [(other_width, "hidden_size"), (other_projector, "config.json"), (other_pieces, "tokenizer")],
)
def test_a_checkpoint_that_cannot_be_loaded_is_reported_on(gate, tampered, change, name):
    change(tampered)
    code, outcome, report = gate(tampered)
    assert (code, report["passed"], report["prompts"]) == (3, False, [])
    assert [failure["name"] for failure in outcome["failures"]] == [name]
    assert report["unloadable"] is not None


def test_settings_that_the_adapter_was_not_trained_with(gate, merged, mgm_adapter, tmp_path):
    adapter = shutil.copytree(mgm_adapter, tmp_path / "adapter")
    edit_json(adapter / "config.json", rms_norm_eps=1e-3)
    code, outcome, report = gate(merged, adapter=adapter)
    assert code == 3
    assert [failure["name"] for failure in outcome["failures"]] == ["the adapter's rms_norm_eps"]
    assert report["wrong_settings"][0]["found"] == 1e-3


def test_a_head_of_its_own_may_not_be_missing(gate, tmp_path):
    parts = write_micro_parts(
        tmp_path / "vicuna", layers=2, hidden_size=64, conversation="vicuna_v1", seed=2
    )
    adapter = write_adapter(parts, tmp_path / "adapter", KINDS["LoRA"])
    merge_lora_weights(adapter, parts, tmp_path / "m", SETTINGS)
    tensors = {name: s.load() for name, s in open_model_folder(tmp_path / "m").items()}
    del tensors["lm_head.weight"]
    for path in (tmp_path / "m").glob("*.safetensors"):
        path.unlink()
    write_sharded(as_sources(tensors), tmp_path / "m", "5GB")
    code, outcome, report = gate(tmp_path / "m", parts=parts, adapter=adapter)
    assert (code, report["first_diverging_module"]) == (3, "lm_head")
    assert outcome["failures"][0]["problem"] == "missing from the merged checkpoint"


def test_another_layer_of_clip_is_blamed_on_the_tower(gate, tampered):
    edit_json(tampered / "config.json", mm_vision_select_layer=-1)
    code, _, report = gate(tampered)
    assert code == 3
    assert report["first_diverging_module"] == "model.vision_tower"
    assert report["wrong_settings"][0]["name"] == "mm_vision_select_layer"


# what is blamed


@pytest.mark.parametrize(
    ("name", "culprit"),
    [
        ("mm_projector.0.weight", "model.mm_projector"),
        ("vlm_uni_query_projector.1.weight", "model.vlm_uni"),
        ("vlm_uni_val_projector.0.bias", "model.vlm_uni"),
        ("vision_tower_aux.vision_stages.1.blocks.0.mlp.fc1.weight",
         "model.vision_tower_aux.vision_stages.1.blocks.0.mlp.fc1"),
    ],
)  # fmt: skip
def test_mining_and_projector_are_seen_by_the_search(mgm_parts, name, culprit):
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    models = [build_model(mgm_parts, dtype="float32", seed=0) for _ in "ab"]

    def run(model):
        with torch.no_grad():
            return model.encode_images(images)

    expected = record_outputs(models[0], run)
    assert first_divergence(models[1], expected, run, 1e-6) is None
    with torch.no_grad():
        models[1].get_parameter(name).mul_(3).add_(0.1)
    assert first_divergence(models[1], expected, run, 1e-6) == culprit
    assert first_overflow(models[1], run) is None
    models[1].get_parameter(name).data.fill_(float("nan"))
    guarded = "query" in name  # NaN in a logit of mining counts as zero
    assert first_overflow(models[1], run) == (None if guarded else culprit)
    assert models[1].observer is None


def test_nan_in_the_merged_weights_is_reported_with_its_module(gate, tampered):
    name = "model.layers.1.mlp.up_proj.weight"
    edit_tensor(tampered, name, lambda tensor: tensor[0, 0].fill_(float("nan")))
    code, outcome, report = gate(tampered)
    assert code == 3
    assert report["first_diverging_module"] == name.removesuffix(".weight")
    assert outcome["failures"][0]["problem"] == "holds NaN or infinite values"
    assert report["prompts"] == []


# inputs


def test_fewer_pictures_than_wanted_are_refused(gate, merged):
    settings = MergeSettings(parity_prompts=4, parity_max_new_tokens=1)
    code, outcome, report = gate(merged, settings=settings)
    assert (code, report) == (2, None)
    assert "asks about 3 different pictures, but 4" in outcome["message"]


@pytest.mark.parametrize("part", ["clip", "convnext", "language_model"])
def test_a_swapped_part_is_refused_with_both_fingerprints(gate, merged, mgm_parts, tmp_path, part):
    other = write_micro_parts(tmp_path / "other", seed=9, layers=2)
    swapped = replace(mgm_parts, **{part: getattr(other, part)})
    code, outcome, report = gate(merged, parts=swapped)
    assert (code, report) == (2, None)
    for parts in (mgm_parts, swapped):
        assert describe_base(parts)[part] in outcome["message"]


def test_the_checkpoint_s_own_manifest_binds_it_too(gate, merged, mgm_parts, mgm_adapter, tmp_path):
    """Upstream's adapters do not say what they were trained on; the merge does."""
    silent = shutil.copytree(mgm_adapter, tmp_path / "silent")
    config = json.loads((silent / "config.json").read_text())
    config["recap"].pop("base")
    (silent / "config.json").write_text(json.dumps(config))
    other = write_micro_parts(tmp_path / "other", seed=9, layers=2)
    swapped = replace(mgm_parts, clip=other.clip)
    code, outcome, _ = gate(merged, parts=swapped, adapter=silent)
    assert code == 2
    assert f"{merged} belongs to another base" in outcome["message"]
    assert gate(merged, adapter=silent)[0] == 0


def test_the_gate_writes_what_it_cost(gate, merged, tmp_path):
    assert gate(merged, "--perf", tmp_path / "perf.json")[0] == 0
    perf = json.loads((tmp_path / "perf.json").read_text())
    assert (perf["unit"], perf["items"]) == ("prompts", 3)
    assert perf["peak_rss_mib"] > 0
