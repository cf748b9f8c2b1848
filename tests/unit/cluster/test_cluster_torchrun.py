"""Several ranks of one node: their exit code and their own last lines, behind torchrun's."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from torchrun_log import torchrun_summary

from recap.cluster.torchrun import own_lines, rank_exit_code
from recap.config.launching import TrainLaunch
from recap.config.schema import ComputeSettings

ROOT = Path(__file__).resolve().parents[3]
GATE = "20:48:09 ERROR recap.cli: gate first_loss failed: 3.1 is not at most 2.0\n"
TRACEBACK = "Traceback (most recent call last):\n  File x\n    raise\nValueError: of a rank\n"
CANCELLED = """\
W1126 20:51:28.943000 2 /x/torch/distributed/elastic/agent/server/api.py:753] Received 15 death
Traceback (most recent call last):
  File "/x/torch/distributed/elastic/multiprocessing/api.py", line 86, in _handler
    raise SignalException(f"Process {os.getpid()} got signal: {sigval}", sigval=sigval)
torch.distributed.elastic.multiprocessing.api.SignalException: Process 2 got signal: 15
"""
RANK = """
import os, sys, time
if os.environ["RANK"] == "1":
    time.sleep(60)
print("ERROR recap.cli: the reason", file=sys.stderr, flush=True)
code = int(sys.argv[1])
sys.exit(code) if code > 0 else os.kill(os.getpid(), -code)
"""


@pytest.mark.parametrize("code", [1, 2, 3, 4, -9, -11])
def test_the_code_is_that_of_the_rank_that_failed_first(code: int) -> None:
    assert rank_exit_code(GATE + torchrun_summary(code)) == code
    # The end of a file is read without its last line break.
    assert rank_exit_code((GATE + torchrun_summary(code)).rstrip()) == code


def test_without_a_summary_nothing_is_known_of_a_rank() -> None:
    assert rank_exit_code(GATE) is None
    assert rank_exit_code(CANCELLED) is None


@pytest.mark.parametrize("text", [GATE, TRACEBACK, TRACEBACK + GATE, TRACEBACK * 2, ""])
def test_what_the_ranks_wrote_is_left_whole(text: str) -> None:
    assert own_lines(text) == text
    for added in (torchrun_summary(3), torchrun_summary(3).rstrip(), CANCELLED):
        assert own_lines(text + added) == text
    assert own_lines(torchrun_summary(3) + text) == text


@pytest.mark.parametrize("code", [3, -9])
def test_the_launcher_of_several_ranks_says_so(code: int, tmp_path: Path) -> None:
    """The real one: what it writes must be what is looked for."""
    (tmp_path / "rank.py").write_text(RANK)
    command = TrainLaunch(ComputeSettings(train_gpus=2)).command(threads=2)
    words = [*shlex.split(command), str(tmp_path / "rank.py"), str(code)]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert rank_exit_code(done.stderr) == code
    assert own_lines(done.stderr).splitlines()[-1] == "ERROR recap.cli: the reason"
