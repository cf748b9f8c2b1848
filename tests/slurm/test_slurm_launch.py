"""Training over the nodes of a real SLURM, with ranks on CPU."""

import json
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import slurm_client as client

from recap.config.launching import TrainLaunch
from recap.config.schema import ComputeSettings
from recap.io import read_json, read_jsonl

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]

# With GPUs the nodes' make-believe ones are asked for; torch sees none of them.
LAYOUTS = {
    "2x1": {"train_nodes": 2, "train_gpus": 0},
    "2x2": {"train_nodes": 2, "train_gpus": 2},
}
UPDATES = 24
PROBE = """
import json, os
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
names += ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SLURMD_NODENAME", "SLURM_JOB_ID")
print(json.dumps({name: os.environ.get(name) for name in names}))
"""


def launcher(layout: str, threads: int = 1) -> list[str]:
    """Return the words that the rules put before the script."""
    return shlex.split(TrainLaunch(ComputeSettings(**LAYOUTS[layout])).command(threads))


def training(world, out: Path) -> list[str]:
    """Return a training whose updates are of eight samples, in passes of two."""
    settings = world.settings(micro_batch_size=2, epochs=UPDATES // 4, save_steps=10)
    return ["scripts/train_stage.py", *world.arguments("pretrain", out, settings)]


@pytest.fixture(scope="module")
def one_rank(world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("one_rank")
    client.run("python", *training(world, out))
    return out / "result"


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory) -> Callable[[str], Path]:
    """A function from a layout to the folder of its run, with the messages of its ranks."""

    @cache
    def train(layout: str) -> Path:
        out = tmp_path_factory.mktemp(layout)
        done = client.attempt(*launcher(layout), *training(world, out))
        assert done.returncode == 0, done.stderr
        (out / "log").write_text(done.stderr)
        return out

    return train


def test_every_task_is_the_rank_that_torch_expects(tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(PROBE)
    shown = client.run(*launcher("2x2", threads=3), str(tmp_path / "probe.py"))
    ranks = sorted((json.loads(line) for line in shown.splitlines()), key=lambda r: int(r["RANK"]))
    assert [(r["RANK"], r["LOCAL_RANK"], r["SLURMD_NODENAME"]) for r in ranks] == [
        ("0", "0", "recap1"),
        ("1", "1", "recap1"),
        ("2", "0", "recap2"),
        ("3", "1", "recap2"),
    ]
    job = int(ranks[0]["SLURM_JOB_ID"])
    for rank in ranks:
        assert rank["WORLD_SIZE"] == "4"
        assert rank["LOCAL_WORLD_SIZE"] == "2"
        # recap1 is no host name: only SLURM knows where it is
        assert rank["MASTER_ADDR"] == "127.0.0.1"
        assert rank["MASTER_PORT"] == str(16_384 + job)
        assert rank["OMP_NUM_THREADS"] == "3"
        # all of the node's, so that ranks reach each other's memory
        assert rank["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize(
    ("layout", "ranks"), [("2x1", 2), pytest.param("2x2", 4, marks=pytest.mark.slow)]
)
def test_ranks_on_two_nodes_give_the_trajectory_of_one(
    one_rank: Path, trained: Callable[[str], Path], layout: str, ranks: int
) -> None:
    result = trained(layout) / "result"
    ours, theirs = (read_jsonl(path / "telemetry.jsonl") for path in (result, one_rank))
    assert len(ours) == len(theirs) == UPDATES
    losses = [[row["loss"] for row in rows] for rows in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # Gradients pass on the last bits of float32 to the weights, so that they drift apart.
    for row, expected in zip(ours[:4], theirs[:4], strict=True):
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-9)
    plan = read_json(result / "manifest.json")["details"]["plan"]
    assert (plan["world_size"], plan["accumulation"]) == (ranks, 4 // ranks)


@pytest.mark.parametrize("layout", ["2x1", pytest.param("2x2", marks=pytest.mark.slow)])
def test_rank_zero_alone_writes(
    one_rank: Path, trained: Callable[[str], Path], layout: str
) -> None:
    out = trained(layout)
    names = sorted(path.name for path in one_rank.iterdir())
    assert sorted(path.name for path in (out / "result").iterdir()) == names
    (saved,) = (out / "state").glob("run-*/checkpoint-*")
    assert saved.name == f"checkpoint-{UPDATES}"
    log = (out / "log").read_text()
    assert [log.count(f"checkpoint of update {update}:") for update in (10, 20)] == [1, 1]


@pytest.mark.slow
def test_a_cancelled_job_leaves_a_checkpoint_and_goes_on(
    world, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    command = [*launcher("2x1"), *training(world, tmp_path)]
    log = tmp_path / "log"
    options = ("--nodes=2", "--ntasks=2")
    job = client.submit(command, log, *options)
    telemetry = lambda: [*(tmp_path / "state").glob("run-*/telemetry.jsonl")]  # noqa: E731
    client.wait_for(lambda: any(len(read_jsonl(path)) >= 3 for path in telemetry()))
    client.run("scancel", job)
    assert client.end_of(job)[0] == "CANCELLED"
    # SIGTERM, then `KillWait` seconds; so does a job end whose time is up
    client.wait_for(lambda: "stopped by SIGTERM after update" in log.read_text())
    saved = (tmp_path / "state").glob("run-*/checkpoint-*")
    done = max(int(path.name.partition("-")[2]) for path in saved)
    assert 3 <= done < UPDATES

    job = client.submit(command, log, *options)
    assert client.end_of(job) == ("COMPLETED", 0), log.read_text()
    assert f"continuing after update {done} " in log.read_text()
    undisturbed = trained("2x1") / "result"
    for name in ("telemetry.jsonl", "mm_projector.safetensors"):
        assert (tmp_path / "result" / name).read_bytes() == (undisturbed / name).read_bytes()
