"""What the autopilot picks from measurements, and what it leaves alone."""

import json
from pathlib import Path

import pytest
import torch

import train_stage
from recap.errors import RecapError
from recap.io import read_json
from recap.train import autopilot
from recap.train.autopilot import Choice, ProbeCache, Trial, choose_execution
from recap.train.execution import Execution, checkpoint_layers, compile_blocks
from recap.train.probing import open_choice
from recap.train.schedule import plan_steps
from recap.train_settings import StageSettings


def settings(**changes: object) -> StageSettings:
    values = {"global_batch_size": 32, "learning_rate": 1e-3, "image_aspect_ratio": "square"}
    return StageSettings(**(values | changes))


def choose(monkeypatch, speeds: dict[tuple[int, float], float | None], shares=(0.0, 0.5, 1.0)):
    """Choose on a card where each way has a given speed; None is out of memory."""
    asked, counted = [], []

    def measure(model, trial, make_batch, memory_bytes):
        asked.append((trial.micro_batch, trial.checkpointed))
        counted.append("trial")
        speed = speeds.get(asked[-1])
        return Trial(trial.micro_batch, trial.checkpointed, trial.compiled, 1.0, speed)

    monkeypatch.setattr(autopilot, "_measure", measure)
    monkeypatch.setattr(autopilot, "_start_afresh", lambda: counted.append("peak forgotten"))
    found, trials = choose_execution(None, Choice((1, 2, 4, 8), shares, True), None, 1 << 30)
    assert [(trial.micro_batch, trial.checkpointed) for trial in trials] == asked
    assert counted == ["trial"] * len(asked) + ["peak forgotten"], "the run's peak is its own"
    return found, asked


def test_the_fastest_way_that_fits_is_taken(monkeypatch) -> None:
    speeds = {(1, 0.0): 10.0, (2, 0.0): None, (1, 0.5): 9.0, (2, 0.5): 16.0, (4, 0.5): None}
    speeds |= {(1, 1.0): 8.0, (2, 1.0): 14.0, (4, 1.0): 15.0, (8, 1.0): 15.1}
    found, asked = choose(monkeypatch, speeds)
    assert found == Execution(2, 0.5, True)
    assert asked[-1] == (8, 1.0)


def test_layers_are_not_computed_twice_where_memory_is_no_limit(monkeypatch) -> None:
    found, asked = choose(monkeypatch, {(1, 0.0): 10.0, (2, 0.0): 18.0, (4, 0.0): 18.1})
    assert found == Execution(4, 0.0, True)
    assert asked == [(1, 0.0), (2, 0.0), (4, 0.0)]


def test_nothing_that_fits_is_an_error_that_says_what_to_change(monkeypatch) -> None:
    with pytest.raises(RecapError, match=r"longest kind does not fit into 1\.0 GiB.*nf4"):
        choose(monkeypatch, {})


@pytest.mark.parametrize(
    ("changes", "on_gpu", "wanted"),
    [
        ({}, True, ((1, 2, 4, 8, 16, 32), (0.0, 0.5, 1.0))),
        ({"micro_batch_size": 4}, True, ((4,), (0.0, 0.5, 1.0))),
        ({"gradient_checkpointing": 0.25}, True, ((1, 2, 4, 8, 16, 32), (0.25,))),
        ({"gradient_checkpointing": True, "micro_batch_size": 2}, True, ((2,), (1.0,))),
        ({"global_batch_size": 24}, False, ((8,), (0.0,))),
        ({"gradient_checkpointing": True, "micro_batch_size": 2}, False, ((2,), (1.0,))),
    ],
)
def test_what_settings_leave_open(changes, on_gpu, wanted) -> None:
    given = settings(compile_blocks=False, **changes)
    choice = open_choice(given, plan_steps(64, given), on_gpu=on_gpu)
    assert (tuple(choice.micro_batches), tuple(choice.shares)) == wanted
    assert (choice.settled is None) == (len(wanted[0]) * len(wanted[1]) > 1)


def test_ranks_share_the_global_batch() -> None:
    given = settings(global_batch_size=24, compile_blocks=True)
    choice = open_choice(given, plan_steps(48, given, 2), on_gpu=True)
    assert tuple(choice.micro_batches) == (1, 2, 3, 4, 6, 12)
    assert choice.compiled is True


def test_choices_are_kept_by_what_they_depend_on(tmp_path: Path) -> None:
    cache = ProbeCache(tmp_path / "probes", {"gpu": "a"})
    assert cache.read() is None
    chosen = Execution(4, 0.5, True)
    cache.write(chosen, [Trial(4, 0.5, True, 20.0, 30.0)])
    assert cache.read() == chosen
    assert ProbeCache(tmp_path / "probes", {"gpu": "b"}).read() is None
    [path] = (tmp_path / "probes").iterdir()
    document = read_json(path)
    assert document["of"] == {"gpu": "a"}
    assert document["trials"][0]["reserved_gib"] == 20.0
    nowhere = ProbeCache(None, {})
    nowhere.write(chosen, [])
    nowhere.correct(1)
    assert nowhere.read() is None


def test_a_choice_that_ran_out_of_memory_is_lowered_for_later_runs(tmp_path: Path) -> None:
    cache = ProbeCache(tmp_path, {"gpu": "a"})
    cache.correct(2)
    assert cache.read() is None
    cache.write(Execution(8, 0.5, True), [Trial(8, 0.5, True, 20.0, 30.0)])
    cache.correct(4)
    assert cache.read() == Execution(4, 0.5, True)
    cache.correct(6)
    assert cache.read() == Execution(4, 0.5, True)
    [path] = tmp_path.iterdir()
    assert read_json(path)["lowered_by_a_run"] is True


def test_a_share_of_the_layers_is_checkpointed(mgm) -> None:
    layers = mgm.language_model.model.layers
    for share, wanted in ((0.0, 0), (0.5, 1), (1.0, 2)):
        checkpoint_layers(mgm, share)
        assert sum(layer.gradient_checkpointing for layer in layers) == wanted


def test_compiling_is_undone(mgm) -> None:
    compile_blocks(mgm, compiled=True)
    assert mgm.vision_tower_aux.join is not None
    assert mgm.language_model.model.layers[0]._compiled_call_impl is not None
    compile_blocks(mgm, compiled=False)
    assert mgm.vision_tower_aux.join is None
    assert mgm.language_model.model.layers[0]._compiled_call_impl is None


@pytest.fixture
def mgm(world):
    from recap.mgm.checkpoint import build_model

    return build_model(world.parts, dtype="float32", seed=1)


@pytest.mark.slow
def test_compiled_blocks_give_the_same_trajectory(world, tmp_path: Path) -> None:
    losses = {}
    for compiled in (False, True):
        values = world.settings(compile_blocks=compiled, global_batch_size=8)
        out = tmp_path / str(compiled)
        arguments = world.arguments("pretrain", out, values)
        train_stage.main(train_stage.parser().parse_args(arguments))
        lines = (out / "result" / "telemetry.jsonl").read_text().splitlines()
        losses[compiled] = [json.loads(line)["loss"] for line in lines]
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    torch._dynamo.reset()


def test_a_run_says_how_it_made_its_passes(world, tmp_path: Path) -> None:
    values = world.settings(micro_batch_size="auto", gradient_checkpointing="auto")
    arguments = world.arguments("pretrain", tmp_path, values)
    train_stage.main(train_stage.parser().parse_args(arguments))
    details = read_json(tmp_path / "result" / "manifest.json")["details"]
    assert details["execution"] == {"micro_batch": 8, "checkpointed": 0.0, "compiled": False}
    assert details["plan"]["accumulation"] == 1


def test_a_signal_is_heard_between_trials(monkeypatch) -> None:
    made = []

    def measure(model, trial, make_batch, memory_bytes):
        made.append(trial.micro_batch)
        return Trial(trial.micro_batch, 0.0, True, 1.0, 10.0 * trial.micro_batch)

    def check() -> None:
        if len(made) == 2:
            raise InterruptedError

    monkeypatch.setattr(autopilot, "_measure", measure)
    with pytest.raises(InterruptedError):
        choose_execution(None, Choice((1, 2, 4), (0.0,), True), None, 1 << 30, check)
    assert made == [1, 2]
