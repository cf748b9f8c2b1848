import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recap import launch
from recap.cluster.locks import CONTROLLER, LOCKS, controllers, note_controller
from recap.errors import RecapError
from recap.launch import failed_logs, only_run, run_experiment

SUMMARY = (
    "Traceback (most recent call last):\n"
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"
    + "=" * 60
    + "\n  exitcode  : 3 (pid: 7)" * 20
    + "\n"
    + "=" * 60
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_lock_outlives_a_launcher_that_is_killed_alone(project):
    code = (
        "import subprocess, sys\n"
        "from recap.launch import only_run\n"
        "with only_run() as lock:\n"
        "    child = subprocess.Popen(['sleep', '30'], pass_fds=(lock,))\n"
        "    print(child.pid, flush=True)\n"
        "    child.wait()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "scripts")}
    launcher = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    )
    child = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    with pytest.raises(RecapError, match="another run"), only_run():
        pass
    os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while True:
        try:
            with only_run():
                break
        except RecapError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("command", [["./snakemake"], ["-m", "snakemake"]])
def test_a_plain_snakemake_in_this_folder_is_seen(project, command):
    for name in ("snakemake", "snakemake.py"):
        (project / name).write_text("import time\ntime.sleep(30)\n")
    process = subprocess.Popen([sys.executable, *command])
    try:
        deadline = time.monotonic() + 10
        while controllers() != [process.pid] and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(RecapError, match=f"process {process.pid}"), only_run():
            pass
    finally:
        process.kill()
        process.wait()
    assert controllers() == []


@pytest.mark.parametrize(("host", "kept"), [(None, False), ("another-login-node", True)])
def test_the_lock_of_a_killed_run_is_cleared_unless_it_may_be_alive_elsewhere(
    project, monkeypatch, host, kept
):
    """Snakemake's own `--unlock` would take the lock of a live run on another machine, too."""
    LOCKS.mkdir(parents=True)
    (LOCKS / "0.output.lock").write_text("all.txt\n")
    note_controller()
    if host:
        CONTROLLER.write_text(json.dumps({"host": host}))
    started = []

    def snakemake(lock, *arguments):
        assert LOCKS.exists() == kept
        started.append(arguments)
        return 1

    monkeypatch.setattr(launch, "snakemake", snakemake)
    (project / ".snakemake" / "recap.log").write_text("LockException\n")
    with pytest.raises(RecapError, match="did not finish"):
        run_experiment("demo")
    assert len(started) == 1
    assert "--unlock" not in started[0]


def test_failed_logs_are_the_new_ones_that_end_in_an_error(project):
    logs = project / "logs"
    logs.mkdir()
    (logs / "old.log").write_text("12:00:00 ERROR recap: stale\n")
    os.utime(logs / "old.log", (1, 1))
    (logs / "good.log").write_text("12:00:00 INFO recap: fine\n")
    (logs / "bad.log").write_text("12:00:00 INFO recap: fine\n12:00:01 ERROR recap.cli: why\n")
    ranks = "12:00:02 ERROR recap.cli: of a rank\n" + SUMMARY
    (logs / "ranks.log").write_text(ranks)
    os.utime(logs / "bad.log", (2000, 2000))
    assert failed_logs(logs, since=1000) == [logs / "bad.log", logs / "ranks.log"]
