import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recap.errors import RecapError
from recap.train import rendezvous

# the second task of the second of two nodes, as SLURM 22.05 describes it
TASK = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "9",  # of the job; the step's own number is what counts
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "localhost,gpu[07-08]",
    "SLURM_JOB_ID": "1000",
    "SLURM_STEP_ID": "0",
    "SLURM_CPUS_PER_TASK": "6",
}


def test_a_task_of_slurm_is_a_rank_of_torch():
    assert rendezvous.rank_environment(TASK) == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "17384",
        "OMP_NUM_THREADS": "6",
    }


def test_without_a_number_of_cores_the_threads_stay_as_they_are():
    task = {key: value for key, value in TASK.items() if key != "SLURM_CPUS_PER_TASK"}
    assert "OMP_NUM_THREADS" not in rendezvous.rank_environment(task)


def test_a_process_that_srun_did_not_start_is_told_so():
    # a batch script has the job's variables, but not a step's
    batch = {key: value for key, value in TASK.items() if "STEP" not in key}
    with pytest.raises(RecapError, match=r"no SLURM_STEP_TASKS_PER_NODE: start this by `srun`"):
        rendezvous.rank_environment(batch)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu01", "gpu01"),
        ("gpu-3,gpu-4", "gpu-3"),
        ("gpu[01-04,07]", "gpu01"),
        ("gpu[7,01-04],login1", "gpu7"),
        ("rack[2-3]n[05,07]-ib,x1", "rack2n05-ib"),
        ("node3.example.org", "node3.example.org"),
    ],
)
def test_rank_zero_is_on_the_first_node_of_the_list(nodes, first):
    assert rendezvous.first_host(nodes) == first


@pytest.mark.parametrize(
    ("text", "counts"), [("1", [1]), ("4(x2),1", [4, 4, 1]), ("2,3(x3)", [2, 3, 3, 3])]
)
def test_tasks_of_each_node(text, counts):
    assert rendezvous.tasks_per_node(text) == counts


def test_jobs_that_run_together_have_ports_of_their_own():
    ports = [rendezvous.port_of(job, step) for job in range(990, 1990) for step in (0, 1, 2)]
    assert len(set(ports)) == len(ports)
    far = [rendezvous.port_of(job, 0) for job in (0, 16_383, 16_384, 67_108_863)]
    assert far == [16_384, 32_767, 16_384, 32_767]


def test_a_node_that_does_not_resolve_is_looked_up_in_slurm(tmp_path, monkeypatch):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        '#!/bin/sh\n[ "$3" = no-such-host.invalid ] && '
        "echo NodeName=$3 NodeAddr=10.0.0.7 NodeHostName=n7 Version=22.05.8\n"
    )
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert rendezvous.address_of("no-such-host.invalid") == "10.0.0.7"
    with pytest.raises(RecapError, match=r"rank zero's node other\.invalid has no address"):
        rendezvous.address_of("other.invalid")


def test_the_rank_is_the_same_process_with_the_arguments_as_they_were(tmp_path):
    script = tmp_path / "show.py"
    script.write_text(
        "import json, os, sys\n"
        "print(json.dumps([os.getpid(), sys.argv[1:], os.environ['RANK'], os.environ['OWN']]))\n"
    )
    arguments = ["--settings", '{"a": "b c"}', "--", "-x"]
    process = subprocess.Popen(
        [sys.executable, "scripts/start_rank.py", str(script), *arguments],
        env=os.environ | TASK | {"OWN": "kept"},
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    pid, received, rank, own = json.loads(process.communicate()[0])
    assert (pid, received, rank, own) == (process.pid, arguments, "3", "kept")
