import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recap.errors import RecapError
from recap.launch import failed_logs, live_snakemakes, only_run


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


def test_a_plain_snakemake_in_this_folder_is_seen(project):
    script = project / "snakemake"
    script.write_text("import time\ntime.sleep(30)\n")
    process = subprocess.Popen([sys.executable, str(script)])
    try:
        deadline = time.monotonic() + 10
        while live_snakemakes() != [process.pid] and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(RecapError, match=f"process {process.pid}"), only_run():
            pass
    finally:
        process.kill()
        process.wait()
    assert live_snakemakes() == []


def test_failed_logs_are_the_new_ones_that_end_in_an_error(project):
    logs = project / "logs"
    logs.mkdir()
    (logs / "old.log").write_text("12:00:00 ERROR recap: stale\n")
    os.utime(logs / "old.log", (1, 1))
    (logs / "good.log").write_text("12:00:00 INFO recap: fine\n")
    (logs / "bad.log").write_text("12:00:00 INFO recap: fine\n12:00:01 ERROR recap.cli: why\n")
    assert failed_logs(logs, since=1000) == [logs / "bad.log"]
