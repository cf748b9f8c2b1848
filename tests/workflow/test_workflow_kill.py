"""SIGKILL in the middle of every stage: what is finished stays, the result is the same."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from recap.hashing import sha256_file

from .conftest import EXPERIMENT, copy_repository

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

STAGES = (
    "build_demo_world",
    "register_local_model",
    "validate_corpus",
    "split_shard",
    "measure_shard",
    "select_shard",
    "caption_shard",
    "apply_caption_policy",
    "measure_arm_shard",
    "select_arm_shard",
    "merge_arm",
    "convert_llava",
    "pretrain",
    "finetune",
    "check_lora_model",
    "merge_lora_weights",
    "check_parity",
    "predict_shard",
    "gather_answers",
    "score_answers",
    "compare_runs",
    "build_report",
)
# What holds times: perf figures, costs, the page, card and tables that show them, and state
# folders. A killed writer also leaves its temporary file, under a hidden name that
# nothing reads.
VOLATILE = re.compile(
    r"/(perf|state|caption_store)/|report\.html$|/report/.*\.md$|/report/run_card\.json$"
    r"|/report/tables/cost[^/]*\.csv$|/costs\.(json|tsv)$|/\.[^/]*\.tmp$"
)


def start(project):
    log = (project.path / "kill.log").open("ab")
    return subprocess.Popen(
        [sys.executable, "scripts/run_demo.py", "--experiment", EXPERIMENT],
        cwd=project.path,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def wait_for_job(project, rule, process):
    """Wait until a job of the rule has started; return whether one did."""
    while process.poll() is None:
        if any((project.path / "logs").rglob(f"{rule}/**/*.log")) or any(
            (project.path / "logs" / EXPERIMENT).glob(f"{rule}.log")
        ):
            return True
        time.sleep(0.05)
    return False


def digests(root: Path) -> dict[str, str]:
    found = {}
    for folder in ("resources", "results"):
        for path in sorted((root / folder).rglob("*")):
            name = str(path.relative_to(root))
            if not path.is_file() or VOLATILE.search(name):
                continue
            if "manifest" in path.name and path.suffix == ".json":
                document = json.loads(path.read_text(encoding="utf-8"))
                document.pop("volatile", None)
                found[name] = json.dumps(document, sort_keys=True)
            else:
                found[name] = sha256_file(path)
    return found


def test_killed_in_every_stage_the_result_is_the_same(smoke, tmp_path):
    project = copy_repository(tmp_path)
    (project.path / "kill.log").touch()
    for delay, rule in enumerate(STAGES):
        process = start(project)
        assert wait_for_job(project, rule, process), f"{rule} never started"
        time.sleep(0.3 * (delay % 8))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process = start(project)
    assert process.wait() == 0, (project.path / "kill.log").read_text()[-4000:]

    finished = Counter(re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", project.logged()))
    once = Counter(re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", smoke.log))
    finished.pop("all", None)
    once.pop("all", None)
    assert finished == once, "a finished job ran again, or one was lost"
    disturbed, undisturbed = digests(project.path), digests(smoke.path)
    assert set(disturbed) == set(undisturbed)
    different = [name for name in undisturbed if disturbed[name] != undisturbed[name]]
    assert different == []
