"""Running out of GPU memory in mid-run: smaller passes, the same trajectory."""

import gc
import json
import logging
import shutil
import weakref
from pathlib import Path

import pytest
import torch
import train_processes as processes
from safetensors.torch import load_file

import train_stage
from recap.errors import RecapError
from recap.io import read_json, read_jsonl
from recap.train import fitting
from recap.train.order import training_order
from recap.train.request import parse_settings
from recap.train.schedule import plan_steps
from recap.train.telemetry import Telemetry


def train(world, out: Path, stage: str = "pretrain", *more: str, **changes: object) -> Path:
    arguments = world.arguments(stage, out, world.settings(**changes), *more)
    train_stage.main(train_stage.parser().parse_args(arguments))
    return out / "result"


@pytest.fixture(scope="module")
def plenty(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(world, tmp_path_factory.mktemp("plenty"))


def assert_same_trajectory(result: Path, expected: Path) -> None:
    rows, others = (read_jsonl(folder / "telemetry.jsonl") for folder in (result, expected))
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-9)
    tensors = load_file(result / "mm_projector.safetensors")
    for name, tensor in load_file(expected / "mm_projector.safetensors").items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-5, atol=1e-5)


def test_halving_keeps_the_global_batch(world) -> None:
    def plan(micro: int):
        values = world.settings(global_batch_size=24, micro_batch_size=micro)
        return plan_steps(48, parse_settings("pretrain", values), 2)

    halves = [plan(n).halved() for n in (12, 6, 3)]
    assert [(p.micro_batch, p.accumulation) for p in halves] == [(6, 2), (3, 4), (1, 12)]
    assert all(p.micro_batch * p.accumulation * p.world_size == 24 for p in halves)
    assert plan(1).halved() is None


def test_a_run_goes_on_from_the_last_update(world, plenty: Path, tmp_path: Path, caplog) -> None:
    # One pass checks loss against gradient, each update has 2: the last one of update 2 fails.
    with caplog.at_level(logging.WARNING), processes.scarce_memory(2, after=4) as sizes:
        result = train(world, tmp_path)
    assert sizes == [4] * 5 + [2] * 12, "update 1 was made once"
    assert_same_trajectory(result, plenty)
    assert "update 2: micro-batch 4 becomes 2, accumulation 4" in caplog.text
    used = [row["micro_batch_size"] for row in read_jsonl(tmp_path / "perf.updates.jsonl")]
    assert used == [4, 2, 2, 2]
    perf = read_json(tmp_path / "perf.json")
    assert (perf["micro_batch_size"], perf["accumulation"], perf["updates"]) == (2, 4, 4)
    details = read_json(result / "manifest.json")["details"]
    assert details["micro_batch_sizes"] == [2, 4]
    assert details["plan"]["micro_batch"] == 4
    assert read_json(plenty / "manifest.json")["details"]["micro_batch_sizes"] == [4]
    gates = [gate["name"] for gate in read_json(result / "gates.json")["gates"]]
    assert len(gates) == len(set(gates))


@pytest.mark.parametrize(
    ("row", "micro"),
    [
        ({"micro_batch_size": 2, "micro_batch_asked": 8}, 2),  # it did not fit
        ({"micro_batch_size": 2, "micro_batch_asked": 2}, 8),  # the setting was raised
        ({"micro_batch_size": 8, "micro_batch_asked": 8}, 8),
    ],
)
def test_a_retry_starts_with_what_had_fitted_and_with_what_is_asked_for_now(
    world, row: dict[str, int], micro: int
) -> None:
    plan = plan_steps(48, parse_settings("pretrain", world.settings(micro_batch_size=8)))
    run = fitting.Run(*(None,) * 6, plan)
    telemetry = Telemetry(None)
    assert fitting.as_before(run, telemetry).plan == plan
    telemetry.perf.append(row)
    assert fitting.as_before(run, telemetry).plan.micro_batch == micro


def test_stage_1_may_begin_with_samples_without_a_picture(world, tmp_path: Path) -> None:
    """They give no gradient that loss and gradient could be compared by."""
    entries = read_json(world.captions)
    values = world.settings(micro_batch_size=1)
    plan = plan_steps(len(entries), parse_settings("pretrain", values))
    ids = [entry["id"] for entry in entries]
    for index in training_order(ids, [1] * len(ids), plan, grouped=False, seed=3)[:3]:
        del entries[index]["image"]
        entries[index]["conversations"][0]["value"] = "Name a color."
    data = tmp_path / "mixed.json"
    data.write_text(json.dumps(entries))
    arguments = world.arguments("pretrain", tmp_path, values, data=data)
    train_stage.main(train_stage.parser().parse_args(arguments))
    gates = {gate["name"]: gate for gate in read_json(tmp_path / "result/gates.json")["gates"]}
    assert gates["loss_gradient_consistency"]["passed"]


def test_a_trainer_that_ran_out_of_memory_leaves_none_of_it_behind(
    world, tmp_path: Path, monkeypatch
) -> None:
    build, built = fitting._build_trainer, []

    def watched(run, parts):
        assert all(earlier() is None for earlier in built), "its moments are still held"
        trainer = build(run, parts)
        built.append(weakref.ref(trainer))
        return trainer

    monkeypatch.setattr(fitting, "_build_trainer", watched)
    # pytest keeps log records, and with them the error's frames
    monkeypatch.setattr(logging.root.manager, "disable", logging.WARNING)
    gc.disable()
    try:
        with processes.scarce_memory(1, after=4):
            train(world, tmp_path)
    finally:
        gc.enable()
    assert len(built) == 3


def test_memory_that_never_sufficed_shrinks_the_first_pass(
    world, plenty: Path, tmp_path: Path
) -> None:
    with processes.scarce_memory(1, after=0) as sizes:
        result = train(world, tmp_path)
    assert sizes[:2] == [4, 2]
    assert set(sizes[2:]) == {1}
    assert_same_trajectory(result, plenty)


def test_one_sample_that_does_not_fit_ends_the_run(world, tmp_path: Path) -> None:
    with (
        processes.scarce_memory(0, after=4),
        pytest.raises(RecapError, match=r"not suffice for one sample in update 2; lower"),
    ):
        train(world, tmp_path)
    assert not (tmp_path / "result" / "manifest.json").exists()


def test_every_rank_shrinks_when_one_runs_out(world, plenty: Path, tmp_path: Path) -> None:
    arguments = world.arguments("pretrain", tmp_path, world.settings(micro_batch_size=4))
    ranks = processes.start_ranks(arguments, tmp_path, {1: {"SCARCE_MEMORY": "2,2"}})
    assert processes.ends(ranks) == [0, 0], (tmp_path / "log0").read_text()
    assert_same_trajectory(tmp_path / "result", plenty)
    for rank in (0, 1):
        assert "micro-batch 4 becomes 2" in (tmp_path / f"log{rank}").read_text()
    shutil.rmtree(tmp_path / "result")
