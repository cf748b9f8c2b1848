"""Killing real processes in mid-run: the retry must give the bytes of an undisturbed run."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import train_processes as processes
from safetensors.torch import load_file

from recap.io import read_json, read_jsonl
from recap.train.signals import EXIT_INTERRUPTED, GRACE_SECONDS

ROOT = Path(__file__).parents[3]
UPDATES = 16


def settings(world, **changes: object) -> dict:
    values = {
        "image_aspect_ratio": "pad",
        "group_by_modality_length": True,
        "learning_rate": 1e-3,
        "epochs": 4,
        "save_steps": 3,
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
    }
    return world.settings(**(values | changes))


@pytest.fixture
def command(world, stage_1: Path, tmp_path: Path):
    def arguments(out: Path, **changes: object) -> list[str]:
        values = settings(world, **changes)
        return world.arguments("finetune", out, values, "--projector", str(stage_1))

    return arguments


@pytest.fixture(scope="module")
def undisturbed(world, stage_1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    arguments = world.arguments("finetune", out, settings(world), "--projector", str(stage_1))
    run_to_the_end(arguments, out)
    return out / "result"


def run_to_the_end(arguments: list[str], out: Path) -> str:
    process = processes.start(arguments, out / "log")
    process.join()
    log = (out / "log").read_text()
    assert process.exitcode == 0, log
    return log


def assert_same_bytes(result: Path, expected: Path) -> None:
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in result.iterdir()) == names
    for name in set(names) - {"manifest.json"}:
        assert (result / name).read_bytes() == (expected / name).read_bytes(), name
    ours, theirs = read_json(result / "manifest.json"), read_json(expected / "manifest.json")
    for part in ("counts", "details", "settings", "seed", "stage_version"):
        assert ours[part] == theirs[part], part
    hashes = [{k: v["sha256"] for k, v in m["outputs"].items()} for m in (ours, theirs)]
    assert hashes[0] == hashes[1]


def checkpoint(out: Path, update: int) -> Path | None:
    return next((out / "state").glob(f"run-*/checkpoint-{update}"), None)


def test_kill_9_in_mid_run_and_retry(command, undisturbed: Path, tmp_path: Path) -> None:
    process = processes.start(command(tmp_path), tmp_path / "log")
    processes.wait_for(lambda: checkpoint(tmp_path, 6) is not None, process)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "result" / "manifest.json").exists()
    assert len(read_jsonl(next((tmp_path / "state").glob("run-*/telemetry.jsonl")))) < UPDATES
    log = run_to_the_end(command(tmp_path), tmp_path)
    assert "continuing after update" in log
    assert_same_bytes(tmp_path / "result", undisturbed)
    assert read_json(tmp_path / "perf.json")["resumed_from_update"] >= 6


def test_a_run_whose_end_counts_as_failed_is_tried_again_in_no_time(
    command, undisturbed: Path, tmp_path: Path
) -> None:
    """As after a signal, at the very end, to a launcher that then calls any end a failure."""
    shutil.copytree(undisturbed.parent / "state", tmp_path / "state")
    (saved,) = (tmp_path / "state").glob("run-*/checkpoint-*")
    assert saved.name == f"checkpoint-{UPDATES}"
    log = run_to_the_end(command(tmp_path), tmp_path)
    assert f"continuing after update {UPDATES} " in log
    assert_same_bytes(tmp_path / "result", undisturbed)
    perf = read_json(tmp_path / "perf.json")
    assert (perf["resumed_from_update"], perf["updates"]) == (UPDATES, 0)
    assert len(read_jsonl(tmp_path / "perf.updates.jsonl")) == UPDATES


def test_a_torn_checkpoint_costs_updates_but_no_bytes(
    command, undisturbed: Path, tmp_path: Path
) -> None:
    process = processes.start(command(tmp_path), tmp_path / "log")
    processes.wait_for(lambda: checkpoint(tmp_path, 9) is not None, process)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    newest = max(
        (tmp_path / "state").glob("run-*/checkpoint-*"), key=lambda p: int(p.name.split("-")[1])
    )
    with (newest / "optimizer.pt").open("r+b") as stream:
        stream.truncate(1000)
    log = run_to_the_end(command(tmp_path), tmp_path)
    assert "optimizer.pt is damaged" in log
    assert_same_bytes(tmp_path / "result", undisturbed)


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGUSR1]
)
def test_a_signal_ends_the_run_after_the_update(
    command, undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = processes.start(command(tmp_path, save_steps=1000), tmp_path / "log")
    started = lambda: any(  # noqa: E731
        len(read_jsonl(path)) >= 4 for path in (tmp_path / "state").glob("run-*/telemetry.jsonl")
    )
    processes.wait_for(started, process)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == EXIT_INTERRUPTED != 0
    log = (tmp_path / "log").read_text()
    assert f"stopped by {number.name} after update" in log
    assert "run the same command again" in log
    saved = next((tmp_path / "state").glob("run-*/checkpoint-*"))
    # only what was trained is saved, not the frozen weights
    names = load_file(saved / "trainables.safetensors").keys()
    assert all("lora_" in name or "vlm_uni" in name or "mm_projector" in name for name in names)
    # how often checkpoints are written changes no result, so the run may go on under another value
    log = run_to_the_end(command(tmp_path), tmp_path)
    assert f"continuing after update {saved.name.split('-')[1]} " in log
    for name in ("adapter_model.safetensors", "telemetry.jsonl", "gates.json"):
        assert (tmp_path / "result" / name).read_bytes() == (undisturbed / name).read_bytes()


def test_state_of_other_settings_is_not_continued(command, tmp_path: Path) -> None:
    process = processes.start(command(tmp_path, learning_rate=5e-4), tmp_path / "log")
    processes.wait_for(lambda: checkpoint(tmp_path, 3) is not None, process)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    log = run_to_the_end(command(tmp_path, epochs=1), tmp_path)
    assert "left alone and not used" in log
    assert "continuing" not in log


@pytest.mark.slow
def test_a_smaller_micro_batch_goes_on_from_the_checkpoint(command, tmp_path: Path) -> None:
    process = processes.start(command(tmp_path), tmp_path / "log")
    processes.wait_for(lambda: checkpoint(tmp_path, 3) is not None, process)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    changed = {"micro_batch_size": 1, "gradient_checkpointing": True}
    log = run_to_the_end(command(tmp_path, **changed), tmp_path)
    assert "continuing" in log


@pytest.mark.slow
def test_random_kills_change_no_byte(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/kills.py", "--runs", "2", "--kills", "3", "--seed", "3"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "scripts"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # How many of the kills come before the end is a matter of time.
    assert re.search(r"2 runs, [1-6] kills: 0 runs ended otherwise", done.stdout)


@pytest.mark.slow
def test_the_launcher_passes_sigterm_on_and_waits(world, stage_1: Path, tmp_path: Path) -> None:
    """By torchrun, which ``accelerate launch`` is on several devices; here on two CPU ranks."""
    values = settings(world, lora={"rank": 4, "alpha": 8, "dropout": 0.0}, micro_batch_size=1)
    arguments = world.arguments("finetune", tmp_path, values, "--projector", str(stage_1))
    launch = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
        *("--master_addr", "127.0.0.1", "--master_port", processes.free_port()),
        "scripts/train_stage.py",
    ]

    def started() -> subprocess.Popen:
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen([*launch, *arguments], cwd=ROOT, stdout=log, stderr=log)

    launcher = started()
    deadline = time.monotonic() + 120
    while not any(
        len(read_jsonl(path)) >= 4 for path in (tmp_path / "state").glob("run-*/telemetry.jsonl")
    ):
        assert launcher.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    launcher.terminate()
    assert launcher.wait(GRACE_SECONDS) != 0
    log = (tmp_path / "log").read_text()
    assert log.count("stopped by SIGTERM after update") == 2, log
    (saved,) = [p.name for p in (tmp_path / "state").glob("run-*/checkpoint-*")][-1:]
    assert started().wait() == 0
    assert f"continuing after update {saved.rpartition('-')[2]} " in (tmp_path / "log").read_text()
