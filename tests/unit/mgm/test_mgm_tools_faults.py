"""Every fault, through the command lines: refused, named, with what to do."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from mgm_adapters import KINDS, parts_flags, run_json, write_adapter
from safetensors.torch import load_file, save_file

LAYER = "base_model.model.model.layers.1.self_attn.q_proj"
PROJECTOR = "base_model.model.model.mm_projector.2.bias"
ADAPTER_FILE, PROJECTOR_FILE = "adapter_model.safetensors", "non_lora_trainables.safetensors"


@pytest.fixture
def adapter(mgm_adapter, tmp_path):
    return shutil.copytree(mgm_adapter, tmp_path / "adapter")


@pytest.fixture
def base(mgm_parts, tmp_path):
    """Parts whose language model may be tampered with."""
    folder = shutil.copytree(mgm_parts.language_model, tmp_path / "base")
    return replace(mgm_parts, language_model=folder)


def edit(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def forget_base(adapter):
    """Leave only what upstream writes: no fingerprints."""
    config = json.loads((adapter / "config.json").read_text())
    config["recap"].pop("base")
    (adapter / "config.json").write_text(json.dumps(config))


def check(capsys, adapter, parts, *more):
    import check_lora_model

    return run_json(capsys, check_lora_model, adapter, *parts_flags(parts), *more)


def merge(capsys, adapter, parts, out, *more):
    import merge_lora_weights

    flags = ["--model-path", adapter, *parts_flags(parts), "--save-model-path", out]
    return run_json(capsys, merge_lora_weights, *flags, *more)


def refused(capsys, adapter, parts, tmp_path):
    """Run both tools on a fault; return the failures that both must name."""
    code, checked = check(capsys, adapter, parts)
    assert code == 3
    code, merged = merge(capsys, adapter, parts, tmp_path / "out")
    assert code == 2
    assert not (tmp_path / "out").exists()
    assert merged["failures"] == checked["failures"]
    assert all(f["name"] and f["problem"] and f["fix"] for f in checked["failures"])
    return {failure["name"]: failure for failure in checked["failures"]}


def zero_size(tensors):
    tensors[f"{LAYER}.lora_B.weight"] = torch.empty(0)


def not_a_number(tensors):
    tensors[f"{LAYER}.lora_B.weight"][3, 1] = float("nan")


def other_rank(tensors):
    tensors[f"{LAYER}.lora_B.weight"] = tensors[f"{LAYER}.lora_B.weight"][:, :4].contiguous()


def wrong_magnitude(tensors):
    tensors[f"{LAYER}.lora_magnitude_vector"] = torch.ones(128)


TENSOR_FAULTS = [
    (zero_size, f"{LAYER}.lora_B.weight", "has shape (0,)", "stage3_gather_16bit"),
    (not_a_number, f"{LAYER}.lora_B.weight", "holds NaN", "save the adapter again"),
    (other_rank, f"{LAYER}.lora_B.weight", "has shape (128, 4)", "adapter_config.json"),
    (wrong_magnitude, f"{LAYER}.lora_magnitude_vector", "does not belong", "adapter_config.json"),
]


@pytest.mark.parametrize(("fault", "name", "problem", "fix"), TENSOR_FAULTS)
def test_one_faulty_tensor(mgm_parts, adapter, tmp_path, capsys, fault, name, problem, fix):
    edit(adapter / ADAPTER_FILE, fault)
    failures = refused(capsys, adapter, mgm_parts, tmp_path)
    assert list(failures) == [name]
    assert problem in failures[name]["problem"]
    assert fix in failures[name]["fix"]


def test_an_adapter_of_another_rank_than_its_configuration(mgm_parts, adapter, tmp_path, capsys):
    edit_json(adapter / "adapter_config.json", r=8, lora_alpha=16)
    failures = refused(capsys, adapter, mgm_parts, tmp_path)
    assert len(failures) == 28
    assert "ask for (8, 128)" in failures[f"{LAYER}.lora_A.weight"]["problem"]


def test_dora_without_its_lengths(mgm_parts, tmp_path, capsys):
    folder = write_adapter(mgm_parts, tmp_path / "dora", KINDS["DoRA"])
    edit(folder / ADAPTER_FILE, lambda t: t.pop(f"{LAYER}.lora_magnitude_vector"))
    failures = refused(capsys, folder, mgm_parts, tmp_path)
    assert failures[f"{LAYER}.lora_magnitude_vector"]["problem"] == "is missing"


def test_a_missing_projector(mgm_parts, adapter, tmp_path, capsys):
    edit(adapter / PROJECTOR_FILE, lambda tensors: tensors.pop(PROJECTOR))
    assert list(refused(capsys, adapter, mgm_parts, tmp_path)) == [
        "projector tensor mm_projector.2.bias"
    ]
    (adapter / PROJECTOR_FILE).unlink()
    failures = refused(capsys, adapter, mgm_parts, tmp_path)
    assert "neither non_lora_trainables" in failures["non_lora_trainables"]["problem"]


@pytest.mark.parametrize("keep", [4, 900, 20_000])
def test_truncated_files(mgm_parts, adapter, tmp_path, capsys, keep):
    """The file layer refuses them; the tools say which file, and go on to the next."""
    for name in (ADAPTER_FILE, PROJECTOR_FILE):
        (adapter / name).write_bytes((adapter / name).read_bytes()[:keep])
    failures = refused(capsys, adapter, mgm_parts, tmp_path)
    assert list(failures) == ["adapter_model", "non_lora_trainables"]
    assert ADAPTER_FILE in failures["adapter_model"]["problem"]


def test_a_swapped_base_has_both_fingerprints(mgm_parts, mgm_adapter, base, tmp_path, capsys):
    weights = base.language_model / "model.safetensors"
    edit(weights, lambda tensors: tensors["model.norm.weight"].add_(1e-3))
    failures = refused(capsys, mgm_adapter, base, tmp_path)
    recorded = json.loads((mgm_adapter / "config.json").read_text())["recap"]["base"]
    assert list(failures) == ["language_model"]
    assert recorded["language_model"] in failures["language_model"]["problem"]


def test_a_vocabulary_off_by_one(base, adapter, tmp_path, capsys):
    forget_base(adapter)
    weights = base.language_model / "model.safetensors"

    def shorten(tensors):
        embedding = tensors["model.embed_tokens.weight"]
        tensors["model.embed_tokens.weight"] = embedding[:-1].contiguous()

    edit(weights, shorten)
    rows = load_file(weights)["model.embed_tokens.weight"].shape[0]
    name = "base tensor model.embed_tokens.weight"
    assert list(refused(capsys, adapter, base, tmp_path)) == [name]
    edit_json(base.language_model / "config.json", vocab_size=rows)
    failures = refused(capsys, adapter, base, tmp_path)
    assert failures["tokenizer"]["problem"] == f"has {rows + 1} entries, the embedding {rows} rows"


def test_a_tied_head_that_differs(base, adapter, tmp_path, capsys):
    forget_base(adapter)
    weights = base.language_model / "model.safetensors"
    edit(weights, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert check(capsys, adapter, base)[0] == 0  # a duplicate that agrees says nothing new
    edit(weights, lambda t: t["lm_head.weight"].add_(1))
    failures = refused(capsys, adapter, base, tmp_path)
    assert "tie_word_embeddings" in failures["base tensor lm_head.weight"]["fix"]


def test_a_base_that_cannot_be_read_is_bad_input(base, adapter, capsys):
    weights = base.language_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    code, outcome = check(capsys, adapter, base)
    assert (code, outcome["failures"]) == (2, [])
    assert str(weights) in outcome["message"]


def test_one_run_names_every_failure(mgm_parts, adapter, capsys):
    def spoil(tensors):
        not_a_number(tensors)
        del tensors[f"{LAYER}.lora_A.weight"]

    edit(adapter / ADAPTER_FILE, spoil)
    edit(adapter / PROJECTOR_FILE, lambda t: t[PROJECTOR].fill_(float("inf")))
    edit_json(adapter / "adapter_config.json", lora_alpha=1e5)
    edit_json(adapter / "config.json", image_size_aux=256)
    code, outcome = check(capsys, adapter, mgm_parts)
    assert code == 3
    assert {failure["name"] for failure in outcome["failures"]} == {
        f"{LAYER}.lora_A.weight",
        f"{LAYER}.lora_B.weight",
        "projector tensor mm_projector.2.bias",
        "adapter_config.json",
        "image_size_aux",
    }


@pytest.mark.parametrize(
    "values",
    [
        {"fan_in_fan_out": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa_niter_4"}, {"target_modules": ["q_proj"]},
        {"peft_type": "IA3"},
    ],
)  # fmt: skip
def test_kinds_that_would_merge_wrongly_are_refused(mgm_parts, adapter, tmp_path, capsys, values):
    edit_json(adapter / "adapter_config.json", **values)
    failures = refused(capsys, adapter, mgm_parts, tmp_path)
    assert list(failures) == ["adapter_config.json"]


def test_each_projector_tensor_must_have_moved(mgm_parts, adapter, tmp_path, capsys):
    start = tmp_path / "start.safetensors"
    stored = load_file(adapter / PROJECTOR_FILE)
    still = ("mm_projector.0.weight", "vlm_uni_aux_projector.1.bias")
    save_file({n: t if n.endswith(still) else t + 1 for n, t in stored.items()}, start)
    code, outcome = check(capsys, adapter, mgm_parts, "--initial-projector", start)
    assert code == 3
    assert [f["name"] for f in outcome["failures"]] == ["projector tensor mm_projector.0.weight"]
    save_file({n: t if n.endswith(still[1:]) else t + 1 for n, t in stored.items()}, start)
    code, outcome = check(capsys, adapter, mgm_parts, "--initial-projector", start)
    assert code == 0  # softmax takes the key's bias away again: its gradient is zero
    assert any(still[1] in warning for warning in outcome["result"]["warnings"])


def test_an_adapter_trained_on_quantised_weights(mgm_parts, adapter, tmp_path, capsys):
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    edit_json(adapter / "config.json", quantization_config=quantization)
    code, outcome = merge(capsys, adapter, mgm_parts, tmp_path / "out")
    assert code == 0
    assert outcome["result"]["quantization"]["trained_on"] == quantization
    assert "quantisation error" in outcome["result"]["quantization"]["note"]
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    shutil.rmtree(tmp_path / "out")
    forget_base(adapter)
    failures = refused(capsys, adapter, mgm_parts, tmp_path)
    assert "base_model_name_or_path" in failures["base"]["fix"]
    name = f"google/{mgm_parts.language_model.name}"
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=name)
    assert merge(capsys, adapter, mgm_parts, tmp_path / "out")[0] == 0


def test_a_quantised_base_is_refused(base, adapter, tmp_path, capsys):
    forget_base(adapter)
    edit_json(base.language_model / "config.json", quantization_config={"load_in_4bit": True})
    assert "unquantised" in refused(capsys, adapter, base, tmp_path)["language_model"]["fix"]


def test_help_has_an_example_and_the_exit_codes(capsys):
    import check_lora_model
    import check_parity
    import convert_checkpoint
    import merge_lora_weights

    for script in (check_lora_model, merge_lora_weights, check_parity, convert_checkpoint):
        with pytest.raises(SystemExit) as stopped:
            script.parser().parse_args(["--help"])
        text = capsys.readouterr().out
        assert stopped.value.code == 0
        assert f"example:\n  {script.__name__}.py " in text
        assert "3  an evidence gate failed" in text
        assert "--json" in text
