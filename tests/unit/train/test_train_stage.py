import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
import train_processes as processes
from safetensors.torch import load_file, save_file

import train_stage
from recap.errors import GateError, RecapError
from recap.hashing import sha256_file
from recap.io import read_json, read_jsonl


def run(world, stage: str, out: Path, settings: dict, *more: str, data: Path | None = None) -> Path:
    arguments = world.arguments(stage, out, settings, *more, data=data)
    train_stage.main(train_stage.parser().parse_args(arguments))
    return out / "result"


@pytest.fixture(scope="module")
def pretrained(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(world, "pretrain", tmp_path_factory.mktemp("pretrain"), world.settings())


def tuning(world, **changes: object) -> dict:
    values = {
        "image_aspect_ratio": "pad",
        "group_by_modality_length": True,
        "learning_rate": 2e-3,
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
    }
    return world.settings(**(values | changes))


def test_pretrain_writes_what_it_declares(world, pretrained: Path) -> None:
    assert sorted(path.name for path in pretrained.iterdir()) == [
        "gates.json",
        "manifest.json",
        "metrics.json",
        "mm_projector.safetensors",
        "telemetry.jsonl",
    ]
    (saved,) = (pretrained.parent / "state").glob("run-*/checkpoint-*")
    assert saved.name == "checkpoint-4"
    assert len(load_file(pretrained / "mm_projector.safetensors")) == 16
    rows = read_jsonl(pretrained / "telemetry.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert list(rows[0]) == [
        *("step", "loss", "grad_norm", "learning_rate", "supervised_tokens", "samples", "spike")
    ]
    assert rows[0]["learning_rate"] == pytest.approx(1e-3)
    assert rows[-1]["learning_rate"] == 0.0
    assert read_json(pretrained / "gates.json")["passed"] is True
    manifest = read_json(pretrained / "manifest.json")
    assert manifest["stage"] == "train"
    assert manifest["counts"]["samples"] == 32
    assert manifest["counts"]["unused"] == 0
    assert manifest["counts"]["supervised_tokens"] == sum(r["supervised_tokens"] for r in rows)
    details = manifest["details"]
    assert details["start_projector_hash"] != details["result_projector_hash"]
    perf = read_json(pretrained.parent / "perf.json")
    assert perf["items"] == 32
    assert perf["samples_per_training_second"] > 0
    costs = read_jsonl(pretrained.parent / "perf.updates.jsonl")
    assert [row["step"] for row in costs] == [1, 2, 3, 4]
    for row in costs:
        assert row["samples_per_second"] == pytest.approx(8 / row["seconds"], rel=1e-3)
        assert row["tokens_per_second"] > row["samples_per_second"]
        assert row["memory_mib"] > 0
        assert 0 < row["loading_seconds"] < row["seconds"]
        assert row["micro_batch_size"] == 4
    metrics = read_json(pretrained / "metrics.json")
    assert metrics["final_loss"] == rows[-1]["loss"]
    assert (metrics["stage"], metrics["updates"], metrics["spikes"]) == ("pretrain", 4, 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_finetune_starts_from_stage_1_and_moves_the_adapter(
    world, pretrained: Path, tmp_path: Path, dtype: str
) -> None:
    projector = pretrained / "mm_projector.safetensors"
    settings = tuning(world, dtype=dtype, gradient_checkpointing=dtype == "bfloat16")
    result = run(world, "finetune", tmp_path, settings, "--projector", str(projector))
    assert sorted(path.name for path in result.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "gates.json",
        "manifest.json",
        "metrics.json",
        "non_lora_trainables.safetensors",
        "telemetry.jsonl",
    ]
    adapter = load_file(result / "adapter_model.safetensors")
    moved = [name for name, tensor in adapter.items() if "lora_B" in name and tensor.any()]
    assert len(moved) == len(adapter) // 2
    # trained weights are float32 masters whatever the type of the rest
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    details = read_json(result / "manifest.json")["details"]
    stage_1 = read_json(pretrained / "manifest.json")["details"]
    assert details["start_projector_hash"] == stage_1["result_projector_hash"]
    assert details["base_fingerprints"] == stage_1["base_fingerprints"]
    assert details["stage2_data_hash"] == sha256_file(world.instructions)


def test_finetune_refuses_another_projector(world, pretrained: Path, tmp_path: Path) -> None:
    tensors = load_file(pretrained / "mm_projector.safetensors")
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1e-3
    save_file(tensors, tmp_path / "mm_projector.safetensors")
    more = ("--projector", str(tmp_path / "mm_projector.safetensors"))
    with pytest.raises(RecapError, match=r"stage 1's manifest.*--projector-manifest"):
        run(world, "finetune", tmp_path, tuning(world), *more)
    elsewhere = ("--projector-manifest", str(pretrained / "manifest.json"))
    with pytest.raises(GateError, match="start_projector_hash"):
        run(world, "finetune", tmp_path, tuning(world), *more, *elsewhere)
    assert read_json(tmp_path / "result" / "gates.json")["passed"] is False
    shutil.copy(pretrained / "manifest.json", tmp_path)
    with pytest.raises(RecapError, match=f"{name} has sha256 .* its manifest says"):
        run(world, "finetune", tmp_path, tuning(world), *more)


def test_finetune_refuses_a_projector_of_another_base(
    world, pretrained: Path, tmp_path: Path
) -> None:
    document = read_json(pretrained / "manifest.json")
    true = document["details"]["base_fingerprints"]["tokenizer"]
    document["details"]["base_fingerprints"]["tokenizer"] = "0" * 64
    shutil.copy(pretrained / "mm_projector.safetensors", tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    more = ("--projector", str(tmp_path / "mm_projector.safetensors"))
    with pytest.raises(RecapError, match=f"tokenizer: trained on {'0' * 64}, given {true}"):
        run(world, "finetune", tmp_path, tuning(world), *more)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_run_that_cannot_move_anything_fails(
    world, pretrained: Path, tmp_path: Path, stage: str
) -> None:
    # One update only: it has learning rate zero.
    more = (
        () if stage == "pretrain" else ("--projector", str(pretrained / "mm_projector.safetensors"))
    )
    settings = world.settings() if stage == "pretrain" else tuning(world)
    gate = "projector_changed" if stage == "pretrain" else "adapter_b_nonzero"
    with pytest.raises(GateError, match=gate):
        run(world, stage, tmp_path, settings | {"global_batch_size": 32}, *more)


def test_divergence_stops_before_the_update(world, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"Update \d was not applied; its samples: cap\d{4}, "):
        run(world, "pretrain", tmp_path, world.settings(learning_rate=1e30))
    last = read_json(tmp_path / "result" / "gates.json")["gates"][-1]
    assert last["name"] in {"finite_loss", "highest_loss", "finite_grad_norm"}
    assert not (tmp_path / "result" / "mm_projector.safetensors").exists()


def test_a_first_loss_above_the_bound_stops_before_the_update(
    world, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    # ln V is 5.7 or so, the untrained model's loss too; value and gradient are both tenfold.
    with (
        processes.fault("tenfold", "0"),
        pytest.raises(GateError, match=r"gate first_loss failed: .*Update 1 was not applied"),
    ):
        run(world, "pretrain", tmp_path, world.settings())
    assert "the optimizer moves" not in capfd.readouterr().err
    gates = [gate["name"] for gate in read_json(tmp_path / "result" / "gates.json")["gates"]]
    assert gates[-2:] == ["loss_gradient_consistency", "first_loss"]


def test_the_log_shows_what_is_trained(
    world, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="recap"):
        run(world, "pretrain", tmp_path, world.settings())
    shown = re.findall(r"sample (cap\d+) is trained to say '(.*)'", caplog.text)
    answers = {e["id"]: e["conversations"][1]["value"] for e in read_json(world.captions)}
    assert len(shown) == 3
    for name, text in shown:
        # spaces apart, as the micro tokenizer puts them elsewhere; the end token is trained too
        assert text.replace(" ", "").startswith(answers[name].replace(" ", "")), (text, name)
        assert text.endswith("<eos>")


def test_bad_input_is_refused_with_the_fix(world, pretrained: Path, tmp_path: Path) -> None:
    more = ("--projector", str(pretrained / "mm_projector.safetensors"))
    cases = [
        ("pretrain", {"micro_batch_size": 3}, (), "micro_batch_size may be one of"),
        ("pretrain", {"global_batch_size": 80}, (), "fewer than the 80"),
        ("pretrain", {"lora": {}}, (), "`lora`: unknown key"),
        ("pretrain", {"dtype": "float16"}, (), "bfloat16 or float32"),
        ("pretrain", {}, more, "belongs to --stage finetune"),
        ("finetune", {}, (), "needs stage 1's projector"),
    ]
    for stage, changes, arguments, message in cases:
        with pytest.raises(RecapError, match=message):
            run(world, stage, tmp_path, world.settings(**changes), *arguments)


def test_an_unreadable_image_stops_the_run(world, tmp_path: Path) -> None:
    entries = json.loads(world.captions.read_text())
    (world.images / "broken.png").write_bytes(b"\x89PNG broken")
    entries[17]["image"] = "broken.png"
    data = tmp_path / "train.json"
    data.write_text(json.dumps(entries))
    with pytest.raises(RecapError, match=rf"sample {entries[17]['id']}: cannot read .*broken\.png"):
        run(world, "pretrain", tmp_path, world.settings(), data=data)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_trajectory_does_not_depend_on_the_micro_batch(
    world, pretrained: Path, tmp_path: Path, stage: str
) -> None:
    more = (
        () if stage == "pretrain" else ("--projector", str(pretrained / "mm_projector.safetensors"))
    )
    base = world.settings() if stage == "pretrain" else tuning(world)
    weights = "mm_projector" if stage == "pretrain" else "adapter_model"
    seen = {}
    for micro in (1, 4, 16):
        settings = base | {"global_batch_size": 16, "micro_batch_size": micro, "epochs": 2}
        result = run(world, stage, tmp_path / str(micro), settings, *more)
        seen[micro] = (
            read_jsonl(result / "telemetry.jsonl"),
            load_file(result / f"{weights}.safetensors"),
        )
    rows, tensors = seen[16]
    assert len({row["supervised_tokens"] for row in rows}) > 1
    for micro in (1, 4):
        other_rows, other_tensors = seen[micro]
        for row, other in zip(rows, other_rows, strict=True):
            assert other == pytest.approx(row, rel=1e-5, abs=1e-9)
        for name, tensor in tensors.items():
            torch.testing.assert_close(other_tensors[name], tensor, rtol=1e-5, atol=1e-5)
