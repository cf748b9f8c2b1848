import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from recap.cli import run_cli
from recap.errors import GateError, RecapError
from recap.mgm.check import check_adapter
from recap.mgm.checkpoint import base_sources, load_checkpoint
from recap.mgm.lora import Update, merged_weight
from recap.mgm.merge import merge_lora_weights
from recap.mgm.parity import Trace, check_parity, compare_traces
from recap.mgm.reference import execution_rank
from recap.mgm.tensors import open_model_folder
from recap.settings import MergeSettings

SETTINGS = MergeSettings(max_shard_size="500KB", parity_prompts=2, parity_max_new_tokens=4)
LAYER = "model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def merged(mgm_parts, mgm_adapter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged") / "mgm-2b-micro"
    report = merge_lora_weights(mgm_adapter, mgm_parts, folder, SETTINGS)
    return folder, report


@pytest.fixture
def adapter(mgm_adapter, tmp_path):
    return shutil.copytree(mgm_adapter, tmp_path / "adapter")


def edit(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def read_all(folder):
    return {name: source.load() for name, source in open_model_folder(folder).items()}


def test_merged_weights_are_w_plus_two_b_a_rounded_once(mgm_parts, mgm_adapter, merged):
    found = read_all(merged[0])
    base = {name: source.load() for name, source in base_sources(mgm_parts).items()}
    adapter = load_file(mgm_adapter / "adapter_model.safetensors")
    touched = 0
    for name, tensor in base.items():
        if name == "lm_head.weight":
            continue
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" not in adapter:
            assert torch.equal(found[name], tensor.bfloat16()), name
            continue
        a, b = (adapter[f"{stem}.lora_{k}.weight"].double().numpy() for k in "AB")
        exact = tensor.double().numpy() + 32 / 16 * (b @ a)
        step = 2.0**-7 * 2.0 ** np.floor(np.log2(np.abs(exact)))  # bfloat16: 8 bits
        error = np.abs(found[name].double().numpy() - exact)
        assert (error <= 0.51 * step + 1e-7).all(), name
        touched += 1
    assert touched == 14
    assert all(tensor.dtype == torch.bfloat16 for tensor in found.values())


def test_rounding_happens_once():
    """Summed in bfloat16 the small update would vanish step by step."""
    base, a, b = torch.full((1, 1), 1.0), torch.full((64, 1), 1e-3), torch.ones(1, 64)
    update = Update(a, b, 1.0)
    assert merged_weight(base.bfloat16(), update, torch.bfloat16).item() == 1.0625
    low = Update(a.bfloat16(), b.bfloat16(), 2.0)
    assert merged_weight(base.bfloat16(), low, torch.float32).dtype == torch.float32


def test_projector_is_the_adapter_s(mgm_adapter, merged):
    wanted = load_file(mgm_adapter / "non_lora_trainables.safetensors")
    found = read_all(merged[0])
    for name, tensor in wanted.items():
        assert torch.equal(found[name.removeprefix("base_model.model.")], tensor.bfloat16())


def test_report_gives_the_relative_change(mgm_parts, mgm_adapter, merged):
    folder, report = merged
    assert (report["kind"], report["merged_modules"]) == ("LoRA", 14)
    assert {row["scale"] for row in report["modules"]} == {2.0}
    entry = next(row for row in report["modules"] if row["module"] == LAYER)
    base = base_sources(mgm_parts)[f"{LAYER}.weight"].load().double()
    found = read_all(folder)[f"{LAYER}.weight"].double()
    wanted = ((found - base).norm() / base.norm()).item()
    assert entry["relative_change"] == pytest.approx(wanted, rel=1e-5)


def test_manifest_binds_base_adapter_and_outputs(mgm_parts, merged):
    from recap.hashing import sha256_file
    from recap.mgm.checkpoint import describe_base

    folder, _ = merged
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["stage"] == "merge"
    assert manifest["details"]["base"] == describe_base(mgm_parts)
    assert set(manifest["outputs"]) == {p.name for p in folder.iterdir()} - {"manifest.json"}
    for name, entry in manifest["outputs"].items():
        assert entry["path"] == str(folder / name)
        assert entry["sha256"] == sha256_file(folder / name)


def test_merging_again_gives_the_same_bytes(mgm_parts, mgm_adapter, merged, tmp_path):
    other = tmp_path / "again"
    assert merge_lora_weights(mgm_adapter, mgm_parts, other, SETTINGS) == merged[1]
    for path in sorted(merged[0].iterdir()):
        if path.name != "manifest.json":
            assert (other / path.name).read_bytes() == path.read_bytes(), path.name
    merge_lora_weights(mgm_adapter, mgm_parts, other, SETTINGS)  # an earlier merge is replaced
    assert not list(tmp_path.glob(".*"))


def test_a_merge_runs_again_without_its_declared_outputs(mgm_parts, mgm_adapter, tmp_path):
    """Snakemake deletes those, the manifest among them, before it redoes a merge."""
    folder = tmp_path / "merged"
    merge_lora_weights(mgm_adapter, mgm_parts, folder, SETTINGS)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".safetensors"}
    for name in ("model.safetensors.index.json", "config.json", "manifest.json"):
        (folder / name).unlink()
    merge_lora_weights(mgm_adapter, mgm_parts, folder, SETTINGS)
    assert {n: (folder / n).read_bytes() for n in before} == before
    assert (folder / "manifest.json").is_file()


def test_a_moved_checkpoint_still_loads(merged, tmp_path):
    moved = shutil.copytree(merged[0], tmp_path / "elsewhere")
    model, _ = load_checkpoint(moved, dtype="float16")
    assert model.config.image_aspect_ratio == "pad"
    assert model.encode_images(torch.zeros(1, 3, 128, 128)).dtype == torch.float16


def test_foreign_folders_and_inputs_are_not_overwritten(mgm_parts, mgm_adapter, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RecapError, match="not empty"):
        merge_lora_weights(mgm_adapter, mgm_parts, tmp_path, SETTINGS)
    for target in (mgm_adapter, mgm_parts.language_model / "merged", mgm_parts.clip.parent):
        with pytest.raises(RecapError, match="is, holds or lies in"):
            merge_lora_weights(mgm_adapter, mgm_parts, target, SETTINGS)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def nan(tensors):
    tensors[f"base_model.model.{LAYER}.lora_A.weight"][0, 0] = float("nan")


def other_rank(tensors):
    name = f"base_model.model.{LAYER}.lora_A.weight"
    tensors[name] = tensors[name][:8].contiguous()


def empty(tensors):
    tensors[f"base_model.model.{LAYER}.lora_B.weight"] = torch.empty(0)


def dropped(tensors):
    del tensors[f"base_model.model.{LAYER}.lora_B.weight"]


def surplus(tensors):
    tensors["base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"] = torch.ones(16, 128)


FAULTS = [
    (nan, f"{LAYER}.lora_A.weight holds NaN"),
    (other_rank, rf"{LAYER}.lora_A.weight has shape \(8, 128\)"),
    (empty, "an empty tensor is what a sharded save leaves behind"),
    (dropped, f"{LAYER}.lora_B.weight is missing"),
    (surplus, "layers.9.mlp.up_proj.lora_A.weight does not belong to this base"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_faulty_adapters_are_refused(mgm_parts, adapter, tmp_path, fault, reason):
    edit(adapter / "adapter_model.safetensors", fault)
    with pytest.raises(RecapError, match=reason):
        merge_lora_weights(adapter, mgm_parts, tmp_path / "out", SETTINGS)
    with pytest.raises(GateError, match=reason):
        check_adapter(adapter, mgm_parts, report=tmp_path / "check.json")
    assert json.loads((tmp_path / "check.json").read_text())["failures"]
    assert not (tmp_path / "out").exists()


def test_truncated_and_missing_files_are_refused(mgm_parts, adapter, tmp_path):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    (adapter / "non_lora_trainables.safetensors").unlink()
    with pytest.raises(RecapError, match="not a whole safetensors") as caught:
        merge_lora_weights(adapter, mgm_parts, tmp_path / "out", SETTINGS)
    assert "neither non_lora_trainables.safetensors nor" in str(caught.value)


def test_missing_projector_tensor_is_refused(mgm_parts, adapter, tmp_path):
    edit(
        adapter / "non_lora_trainables.safetensors",
        lambda t: t.pop("base_model.model.model.mm_projector.2.bias"),
    )
    with pytest.raises(RecapError, match=r"mm_projector\.2\.bias is missing"):
        merge_lora_weights(adapter, mgm_parts, tmp_path / "out", SETTINGS)


def test_swapped_bases_are_refused_with_both_fingerprints(mgm_parts, mgm_adapter, tmp_path):
    from recap.mgm.checkpoint import describe_base
    from recap.mgm.micro import write_micro_parts

    other = write_micro_parts(tmp_path / "other", seed=2, layers=2)
    swapped = replace(mgm_parts, language_model=other.language_model)
    with pytest.raises(RecapError, match=r"language_model is .* was trained on") as caught:
        merge_lora_weights(mgm_adapter, swapped, tmp_path / "out", SETTINGS)
    assert describe_base(mgm_parts)["language_model"] in str(caught.value)
    assert describe_base(other)["language_model"] in str(caught.value)
    with pytest.raises(RecapError, match=r"clip is .* was trained on"):
        swapped = replace(mgm_parts, clip=other.clip)
        merge_lora_weights(mgm_adapter, swapped, tmp_path / "out", SETTINGS)


def test_swapped_tokenizer_is_refused(mgm_parts, mgm_adapter, tmp_path):
    folder = shutil.copytree(mgm_parts.language_model, tmp_path / "gemma")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text + "\n")
    with pytest.raises(GateError, match=r"tokenizer is .* was trained on"):
        check_adapter(mgm_adapter, replace(mgm_parts, language_model=folder))


def test_untrained_adapters_pass_the_merge_but_not_the_check(mgm_parts, adapter, tmp_path):
    def zero(tensors):
        for name in tensors:
            if "lora_B" in name:
                tensors[name].zero_()

    edit(adapter / "adapter_model.safetensors", zero)
    with pytest.raises(GateError, match="every lora_B is zero"):
        check_adapter(adapter, mgm_parts)
    report = merge_lora_weights(adapter, mgm_parts, tmp_path / "out", replace_dtype("float32"))
    assert report["unchanged_modules"] == 14


def replace_dtype(dtype):
    return SETTINGS.model_copy(update={"dtype": dtype})


def test_insane_alpha_and_unsupported_kinds_are_named(mgm_parts, adapter):
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"lora_alpha": 1e6}))
    with pytest.raises(GateError, match="alpha / rank"):
        check_adapter(adapter, mgm_parts)
    path.write_text(json.dumps(config | {"fan_in_fan_out": True}))
    with pytest.raises(GateError, match="fan_in_fan_out is not supported"):
        check_adapter(adapter, mgm_parts)
    path.write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    with pytest.raises(GateError, match="expected LoRA on"):
        check_adapter(adapter, mgm_parts)


def test_check_compares_with_the_stage_one_projector(mgm_parts, mgm_adapter, tmp_path):
    start = mgm_adapter / "non_lora_trainables.safetensors"
    with pytest.raises(GateError, match="nothing trained"):
        check_adapter(mgm_adapter, mgm_parts, initial_projector=start)
    moved = {name: tensor + 1 for name, tensor in load_file(start).items()}
    save_file(moved, tmp_path / "mm_projector.safetensors")
    report = check_adapter(
        mgm_adapter, mgm_parts, initial_projector=tmp_path / "mm_projector.safetensors"
    )
    assert report["failures"] == []
    assert (report["adapter_tensors"], report["projector_tensors"]) == (28, 16)
    assert report["lora_b_nonzero"] == 14


def gate(merged_dir, adapter, parts, questions, out, settings=SETTINGS):
    return check_parity(
        merged_dir,
        adapter,
        parts,
        images_root=questions.parent / "images",
        questions=questions,
        settings=settings,
        out=out,
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parity_holds_after_a_merge(mgm_parts, mgm_adapter, mgm_questions, tmp_path, dtype):
    merge_lora_weights(mgm_adapter, mgm_parts, tmp_path / "m", replace_dtype(dtype))
    report = gate(
        tmp_path / "m", mgm_adapter, mgm_parts, mgm_questions, tmp_path / "p.json",
        replace_dtype(dtype),
    )  # fmt: skip
    names = [row["prompt"] for row in report["prompts"]]
    assert names == ["0", "1", "blank image", "text only"]
    assert all(row["folded"]["max_difference"] == 0 for row in report["prompts"])
    moved = [row["unmerged"]["max_difference"] for row in report["prompts"]]
    assert all(0 < value < report["unmerged_tolerance"] / 1.5 for value in moved)
    assert report["passed"]
    assert json.loads((tmp_path / "p.json").read_text()) == report


def test_parity_names_the_first_wrong_tensor(
    mgm_parts, mgm_adapter, mgm_questions, merged, tmp_path
):
    folder = shutil.copytree(merged[0], tmp_path / "tampered")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for name in (f"{LAYER}.weight", "model.layers.1.mlp.up_proj.weight"):
        edit(folder / index[name], lambda tensors, name=name: tensors[name].mul_(1.02))
    with pytest.raises(GateError, match=f"first diverging module: {LAYER}"):
        gate(folder, mgm_adapter, mgm_parts, mgm_questions, tmp_path / "p.json")
    report = json.loads((tmp_path / "p.json").read_text())
    modules = [row["module"] for row in report["wrong_tensors"]]
    assert modules == [LAYER, "model.layers.1.mlp.up_proj"]
    assert not report["passed"]


def test_an_unmerged_copy_fails_the_gate(
    mgm_parts, mgm_adapter, mgm_questions, tmp_path, mgm_tokenizer
):
    """The predecessor's 'merge' copied files: base weights with the trained projector."""
    from recap.mgm.checkpoint import build_model, save_checkpoint

    model = build_model(
        mgm_parts, dtype="bfloat16", seed=0, image_aspect_ratio="pad",
        projector=mgm_adapter / "non_lora_trainables.safetensors",
    )  # fmt: skip
    save_checkpoint(model, mgm_tokenizer, tmp_path / "copy", dtype="bfloat16")
    with pytest.raises(GateError, match=r"first diverging module: model\.layers\.0\.self_attn"):
        gate(tmp_path / "copy", mgm_adapter, mgm_parts, mgm_questions, tmp_path / "p.json")


def test_parity_finds_a_module_that_right_weights_do_not_explain(
    mgm_parts, mgm_adapter, mgm_questions, merged, tmp_path
):
    folder = shutil.copytree(merged[0], tmp_path / "config")
    config = json.loads((folder / "config.json").read_text())
    config["hidden_act"] = config["hidden_activation"] = "relu"
    config["recap"]["vision_config"]["layer_norm_eps"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(GateError, match="pre_layrnorm"):
        gate(folder, mgm_adapter, mgm_parts, mgm_questions, tmp_path / "p.json")


def test_traces_part_only_at_ties():
    logits = torch.tensor([[4.0, 3.99, 0.0], [1.0, 0.0, 4.0]])
    same = Trace([0, 2], logits)
    tied = Trace([1, 2], logits + torch.tensor([[-0.02, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert compare_traces(same, same, 0.0)["agrees"]
    loose, strict = compare_traces(tied, same, 0.01), compare_traces(tied, same, 0.001)
    assert (loose["tokens_equal"], loose["agrees"], loose["steps_compared"]) == (False, True, 1)
    assert not strict["agrees"]
    far = Trace([2, 2], logits)
    assert not compare_traces(far, same, 0.01)["agrees"]
    broken = Trace([0, 2], logits * float("nan"))
    assert not compare_traces(broken, same, 1.0)["within"]


def test_stochastic_rounding_picks_a_neighbour_without_bias(mgm_parts, mgm_adapter, mgm_model):
    from recap.mgm.checkpoint import load_adapter
    from recap.mgm.rounding import round_stochastically, stochastically_rounded

    x = torch.full((20_000,), 1 + 2.0**-9)  # a quarter of a bfloat16 step above 1
    found = round_stochastically(x, torch.bfloat16, torch.Generator().manual_seed(0))
    assert set(found.tolist()) == {1.0, 1 + 2.0**-7}
    assert found.mean().item() == pytest.approx(1 + 2.0**-9, abs=2e-4)
    model = load_adapter(mgm_model, mgm_adapter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with stochastically_rounded(model, torch.bfloat16, seed=0):
        changed = [n for n, v in model.state_dict().items() if not torch.equal(v, before[n])]
    assert len(changed) == 14
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_tensors_sort_by_execution():
    names = [
        "model.norm.weight",
        "model.layers.10.mlp.up_proj.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.2.self_attn.q_proj.weight",
        "model.embed_tokens.weight",
        "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight",
    ]
    assert sorted(names, key=execution_rank) == [names[i] for i in (5, 4, 3, 2, 1, 0)]


def test_command_lines(mgm_parts, mgm_adapter, adapter, mgm_questions, tmp_path, capsys):
    import check_lora_model
    import check_parity as parity_script
    import merge_lora_weights as merge_script

    def run(script, *arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run_cli(script.main, script.parser(), [str(argument) for argument in arguments])
            raise SystemExit(0)
        return stopped.value.code

    parts = [
        "--language-model", mgm_parts.language_model, "--clip", mgm_parts.clip,
        "--convnext", mgm_parts.convnext, "--image-size-aux", "128",
    ]  # fmt: skip
    out, settings = tmp_path / "m", SETTINGS.model_dump_json()
    merge = ["--lora-path", mgm_adapter, *parts, "--output-path", out]
    parity = [
        "--merged", out, "--adapter", mgm_adapter, *parts, "--questions", mgm_questions,
        "--images-root", mgm_questions.parent / "images", "--settings", settings,
        "--out", tmp_path / "parity.json",
    ]  # fmt: skip
    assert run(merge_script, *merge, "--settings", '{"dtyp": "bfloat16"}') == 2
    assert "dtyp" in capsys.readouterr().err
    report = tmp_path / "report.json"
    assert run(merge_script, *merge, "--settings", settings, "--report", report) == 0
    assert len(json.loads(report.read_text())["modules"]) == 14
    assert run(check_lora_model, mgm_adapter, *parts, "--report", tmp_path / "c.json") == 0
    assert run(parity_script, *parity) == 0
    edit(adapter / "adapter_model.safetensors", nan)
    assert run(check_lora_model, adapter, *parts) == 3
    assert "holds NaN" in capsys.readouterr().err
