"""Runs on two ranks (gloo, in processes of their own) beside runs on one."""

from pathlib import Path

import pytest
import torch
import train_processes as processes
from safetensors.torch import load_file

from recap.errors import EXIT_GATE_FAILED
from recap.hashing import sha256_file
from recap.io import read_json, read_jsonl
from recap.train.ranks import rank_seed
from recap.train.signals import EXIT_INTERRUPTED

UPDATES = 4
FILES = {
    "trainables.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state_0.pth",
    "rng_state_1.pth",
    "trainer_state.json",
    "telemetry.jsonl",
    "perf.jsonl",
    "held_out.jsonl",
    "complete.json",
}


def tuning(world, **changes: object) -> dict:
    values = {
        "image_aspect_ratio": "pad",
        "group_by_modality_length": True,
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
        "micro_batch_size": 2,
        "learning_rate": 3e-4,  # Adam divides by gradients that are near zero at first
        "save_steps": 1000,
        "packing": False,  # so that every update has 2 passes a rank
    }
    return world.settings(**(values | changes))


@pytest.fixture(scope="module")
def alone(world, stage_1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of stage 2 on one rank, undisturbed."""
    out = tmp_path_factory.mktemp("alone")
    return world.run("finetune", out, tuning(world), "--projector", str(stage_1))


@pytest.fixture
def command(world, stage_1: Path, tmp_path: Path):
    def arguments(**changes: object) -> list[str]:
        values = tuning(world, **changes)
        return world.arguments("finetune", tmp_path, values, "--projector", str(stage_1))

    return arguments


def assert_same_trajectory(result: Path, expected: Path, weights: str = "adapter_model") -> None:
    rows, others = (read_jsonl(folder / "telemetry.jsonl") for folder in (result, expected))
    assert len(rows) == UPDATES
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-9)
    tensors = load_file(result / f"{weights}.safetensors")
    for name, tensor in load_file(expected / f"{weights}.safetensors").items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-5, atol=1e-5)


def logs(folder: Path) -> list[str]:
    return [(folder / f"log{rank}").read_text() for rank in (0, 1)]


def on_two(arguments: list[str], folder: Path, seconds: float = 120.0) -> Path:
    codes = processes.ends(processes.start_ranks(arguments, folder), seconds)
    assert codes == [0, 0], "\n".join(logs(folder))
    return folder / "result"


@pytest.mark.parametrize(
    "micro", [1, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 4))]
)
def test_stage_2_is_the_same_on_two_ranks(command, alone: Path, tmp_path: Path, micro: int) -> None:
    result = on_two(command(micro_batch_size=micro), tmp_path)
    assert_same_trajectory(result, alone)
    plan = read_json(result / "manifest.json")["details"]["plan"]
    assert (plan["world_size"], plan["accumulation"]) == (2, 4 // micro)


@pytest.mark.parametrize("micro", [1, 4])
def test_stage_2_is_the_same_in_other_passes(
    world, stage_1: Path, alone: Path, tmp_path: Path, micro: int
) -> None:
    values = tuning(world, micro_batch_size=micro)
    result = world.run("finetune", tmp_path, values, "--projector", str(stage_1))
    assert_same_trajectory(result, alone)


def test_stage_1_is_the_same_on_two_ranks(world, stage_1: Path, tmp_path: Path) -> None:
    arguments = world.arguments("pretrain", tmp_path, world.settings(micro_batch_size=2))
    assert_same_trajectory(on_two(arguments, tmp_path), stage_1.parent, "mm_projector")


def test_no_two_ranks_draw_alike() -> None:
    seeds = {rank_seed(3, rank, update) for rank in range(4) for update in (0, 7)}
    assert len(seeds) == 8
    assert rank_seed(3, 0, 0) == 3, "one rank draws what any other trainer would"


def test_two_ranks_stop_together_and_one_goes_on(command, alone: Path, tmp_path: Path) -> None:
    # Rank 1 alone is told to stop, after the first of the 2 passes of update 3; SIGKILL is said
    # to be so near that the update is dropped. One pass before the first update is the gate's.
    only = {1: {"FAULT": "term,6", "GRACE_SECONDS": "20"}}
    ranks = processes.start_ranks(command(), tmp_path, only)
    assert processes.ends(ranks) == [EXIT_INTERRUPTED] * 2
    told, asked = logs(tmp_path)
    assert "stopped by another rank after update 2 of 4" in told
    assert "stopped by SIGTERM after update 2 of 4" in asked
    assert "checkpoint of update 2" in told
    assert "checkpoint of update" not in asked

    assert not (tmp_path / "result").exists()
    (saved,) = (tmp_path / "state").glob("run-*/checkpoint-*")
    assert saved.name == "checkpoint-2"
    assert {path.name for path in saved.iterdir()} == FILES
    seal = read_json(saved / "complete.json")
    assert seal["files"] == {n: sha256_file(saved / n) for n in FILES - {"complete.json"}}
    assert read_json(saved / "trainer_state.json")["global_step"] == 2
    assert torch.load(saved / "scheduler.pt")["last_epoch"] == 2
    for rank in (0, 1):
        torch.load(saved / f"rng_state_{rank}.pth", weights_only=False)
    tensors = load_file(saved / "trainables.safetensors")
    moments = torch.load(saved / "optimizer.pt")["state"].values()
    assert all(float(state["step"]) == 2 for state in moments)
    shapes = sorted(tuple(state["exp_avg"].shape) for state in moments)
    assert shapes == sorted(tuple(tensor.shape) for tensor in tensors.values())
    assert [row["step"] for row in read_jsonl(saved / "telemetry.jsonl")] == [1, 2]

    rest = processes.start(command(), tmp_path / "log")
    assert processes.ends([rest]) == [0], (tmp_path / "log").read_text()
    assert "continuing after update 2" in (tmp_path / "log").read_text()
    assert_same_trajectory(tmp_path / "result", alone)


@pytest.mark.slow
def test_two_ranks_leave_an_evaluation_together(world, command, tmp_path: Path) -> None:
    asked = world.write_set("two.json", 8, text_only=2)
    more = ["--held-out", f"asked={asked}", f"again={asked}", "--held-out-every", "2"]
    only = {1: {"FAULT": "evaluation,5", "GRACE_SECONDS": "20"}}
    ranks = processes.start_ranks([*command(), *more], tmp_path, only)
    assert processes.ends(ranks) == [EXIT_INTERRUPTED] * 2
    assert "stopped by another rank after update 2 of 4" in logs(tmp_path)[0]
    (saved,) = (tmp_path / "state").glob("run-*/checkpoint-2")
    assert read_jsonl(saved / "held_out.jsonl") == []
    result = on_two([*command(), *more], tmp_path)
    curves = read_json(result / "metrics.json")["held_out_curves"]
    assert [(row["step"], row["style"]) for row in curves] == [
        *((2, "asked"), (2, "again"), (4, "asked"), (4, "again"))
    ]
    assert curves[0]["loss"] == curves[1]["loss"]


def test_one_rank_stops_and_two_go_on(command, alone: Path, tmp_path: Path) -> None:
    # The first of the 4 passes of update 2; there is time to finish it.
    first = processes.start(command(), tmp_path / "log", FAULT="term,6")
    assert processes.ends([first]) == [EXIT_INTERRUPTED]
    assert "stopped by SIGTERM after update 2 of 4" in (tmp_path / "log").read_text()
    result = on_two(command(), tmp_path)
    assert "continuing after update 2" in logs(tmp_path)[0]
    assert_same_trajectory(result, alone)


@pytest.mark.parametrize(
    ("wrong", "gate", "moves"),
    [
        ("nan,1", "loss_gradient_consistency", 0),
        ("nan,4", "finite_loss", 1),
        ("gradient,4", "finite_grad_norm", 1),
    ],
)
def test_a_gate_that_trips_on_one_rank_ends_both(
    command, tmp_path: Path, wrong: str, gate: str, moves: int
) -> None:
    only = {0: {"FAULT": "none,0"}, 1: {"FAULT": wrong}}
    ranks = processes.start_ranks(command(), tmp_path, only)
    assert processes.ends(ranks) == [EXIT_GATE_FAILED] * 2
    for log in logs(tmp_path):
        assert f"gate {gate} failed: nan" in log
        assert log.count("the optimizer moves") == moves
    assert read_json(tmp_path / "result" / "gates.failed.json")["gates"][-1]["name"] == gate
    assert not list((tmp_path / "state").glob("run-*/checkpoint-*"))
