"""The launcher of one node, for real: its ranks, their port and threads, and their signals."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recap.config.launching import TrainLaunch
from recap.config.schema import ComputeSettings

# A rank that works on after a signal, as the end of an update does, and says so.
RANK = """
import json, os, signal, sys, time
from pathlib import Path

folder, rank, caught = Path(sys.argv[1]), os.environ["RANK"], []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: caught.append(signal.Signals(number).name))
names = ("WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "OMP_NUM_THREADS")
started = folder / f"started{rank}"
started.with_suffix(".new").write_text(json.dumps({name: os.environ[name] for name in names}))
started.with_suffix(".new").rename(started)
while not caught:
    time.sleep(0.05)
time.sleep(2)
(folder / f"ended{rank}").write_text(caught[0])
sys.exit(75)
"""


def wait_for(paths: list[Path], processes: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + 120
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


@pytest.fixture
def jobs(tmp_path: Path):
    """Two jobs of two ranks each, on one node at the same time."""
    (tmp_path / "rank.py").write_text(RANK)
    command = TrainLaunch(ComputeSettings(train_gpus=2)).command(threads=6)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "6",  # what Snakemake sets
    }
    started = {}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        words = [*shlex.split(command), str(tmp_path / "rank.py"), str(tmp_path / name)]
        started[tmp_path / name] = subprocess.Popen(
            words, env=environment, stderr=subprocess.DEVNULL
        )
    yield started
    for process in started.values():
        process.kill()


@pytest.mark.slow
def test_jobs_of_one_node_keep_apart_and_their_ranks_get_signals(jobs) -> None:
    processes = [*jobs.values()]
    wait_for([folder / f"started{rank}" for folder in jobs for rank in (0, 1)], processes)
    ports = set()
    for folder in jobs:
        ranks = [json.loads((folder / f"started{rank}").read_text()) for rank in (0, 1)]
        assert [rank["LOCAL_RANK"] for rank in ranks] == ["0", "1"]
        assert {rank["WORLD_SIZE"] for rank in ranks} == {"2"}
        assert {rank["OMP_NUM_THREADS"] for rank in ranks} == {"3"}
        ports.update(rank["MASTER_PORT"] for rank in ranks)
    assert len(ports) == len(jobs)

    for (folder, process), number in zip(
        jobs.items(), (signal.SIGUSR1, signal.SIGTERM), strict=True
    ):
        process.send_signal(number)
        assert process.wait(timeout=60) != 0
        ended = [(folder / f"ended{rank}").read_text() for rank in (0, 1)]
        assert ended == [number.name, number.name]
