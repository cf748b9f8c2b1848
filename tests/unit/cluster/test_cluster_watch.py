"""A small workflow whose jobs fail in every way that can be had on one machine."""

import inspect
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_slurm import Executor
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_interface_logger_plugins.common import LogEvent
from torchrun_log import torchrun_summary

from recap.cluster import slurm, watch
from recap.cluster.records import FailureLog, read_failures
from recap.cluster.supervision import Supervision

ROOT = Path(__file__).resolve().parents[3]
SNAKEFILE = f"""
include: "{ROOT / "tests/supervised.smk"}"

rule all:
    default_target: True
    input: expand("{{how}}.done", how="data gate ranks bug killed training flaky fine".split())

rule work:
    output: "{{how}}.done"
    log: "{{how}}.log"
    resources:
        mem_mb=growing("memory", 100),
        runtime=growing("time", 10),
    shell:
        "bash work.sh {{wildcards.how}} {{resources.mem_mb}} {{resources.runtime}} {{output}} "
        "2>{{log}}"
"""
# Each attempt leaves what it was given; some succeed at last.
WORK = """
echo "$2 $3" >>"$1.attempts"
attempt=$(wc -l <"$1.attempts")
case $1 in
    data) echo "ERROR recap.cli: corpus.jsonl, line 3: no id" >&2; exit 2 ;;
    gate) echo "ERROR recap.cli: first loss is too high" >&2; exit 3 ;;
    ranks) echo "ERROR recap.cli: first loss is too high" >&2; cat summary >&2; exit 1 ;;
    bug) echo "Traceback (most recent call last):" >&2; exit 1 ;;
    killed) [ "$2" -ge 300 ] || exec bash -c 'kill -9 $$' ;;
    training) [ "$attempt" -ge 5 ] || {
        echo "ERROR: stopped by SIGTERM after update $((attempt * 10)) of 45; run it again" >&2
        exit 75; } ;;
    flaky) [ "$attempt" -ge 3 ] || exit 1 ;;
esac
touch "$4"
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a run with two retries, and what it said."""
    folder = tmp_path_factory.mktemp("watch")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    (folder / "Snakefile").write_text(SNAKEFILE)
    (folder / "work.sh").write_text(WORK)
    (folder / "summary").write_text(torchrun_summary(3))
    command = [sys.executable, "-m", "snakemake", "--cores", "4", "--keep-going", "--retries", "2"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return folder, done


def attempts(folder: Path, how: str) -> list[str]:
    return (folder / f"{how}.attempts").read_text().splitlines()


@pytest.mark.parametrize(
    ("how", "given"),
    [
        # would fail the same way again
        ("data", ["100 10"]),
        ("gate", ["100 10"]),
        # on several GPUs of a node
        ("ranks", ["100 10"]),
        ("bug", ["100 10"]),
        # more memory each time, time as before
        ("killed", ["100 10", "200 10", "300 10"]),
        # gets on each time, which uses up no retry, and gets no more of anything
        ("training", ["100 10"] * 5),
        ("flaky", ["100 10"] * 3),
        ("fine", ["100 10"]),
    ],
)
def test_a_job_is_tried_again_where_that_helps(run, how: str, given: list[str]) -> None:
    folder, done = run
    assert attempts(folder, how) == given, done.stderr
    assert (folder / f"{how}.done").exists() == (how not in ("data", "gate", "ranks", "bug"))


def test_every_failed_attempt_is_listed(run) -> None:
    folder, _ = run
    failures = read_failures(folder / "failures.json")
    noted = [
        (one.wildcards["how"], one.kind, one.attempt, one.final, one.cured) for one in failures
    ]
    assert sorted(noted) == sorted(
        [
            ("data", "bad_data", 1, True, False),
            ("gate", "gate_failed", 1, True, False),
            ("ranks", "gate_failed", 1, True, False),
            ("bug", "bug", 1, True, False),
            ("killed", "out_of_memory", 1, False, True),
            ("killed", "out_of_memory", 2, False, True),
            *[("training", "stopped", 1, False, True)] * 4,
            ("flaky", "unknown", 1, False, True),
            ("flaky", "unknown", 2, False, True),
        ]
    )
    (data,) = (one for one in failures if one.kind == "bad_data")
    assert (data.rule, data.exit_code, data.log) == ("work", 2, "data.log")
    assert data.log_tail == ["ERROR recap.cli: corpus.jsonl, line 3: no id"]
    (ranks,) = (one for one in failures if one.wildcards["how"] == "ranks")
    assert ranks.exit_code == 3
    assert ranks.log_tail == ["ERROR recap.cli: first loss is too high"]


def test_the_run_ends_with_what_to_do(run) -> None:
    _, done = run
    assert done.returncode == 1
    digest = done.stderr.partition("4 jobs failed:")[2]
    assert "work (how=data)\n    class     bad_data, exit code 2, after 1 attempt\n" in digest
    assert "      | ERROR recap.cli: corpus.jsonl, line 3: no id" in digest
    assert "(2 x out_of_memory, 4 x stopped, 2 x unknown)" in digest


def test_a_node_to_avoid_is_left_out_of_what_the_pinned_plugin_submits() -> None:
    """The plugin keeps such nodes for itself; this is the one place where we reach into it."""
    source = inspect.getsource(Executor)
    assert "self._failed_nodes = set()" in source
    assert "failed_nodes=self._failed_nodes" in source
    executor = SimpleNamespace(_failed_nodes=set())
    workflow = SimpleNamespace(is_main_process=False, scheduler=SimpleNamespace(_executor=executor))
    Supervision(workflow, Path("failures.json"))._avoid("gpu7")
    job = SimpleNamespace(threads=1, resources={})
    parameters = dict.fromkeys(
        ("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir"), "x"
    )
    line = get_submit_command(job, parameters, failed_nodes=executor._failed_nodes)
    assert " --exclude=gpu7 " in line


def test_a_full_queue_is_given_time_and_costs_no_retry(tmp_path, monkeypatch) -> None:
    """SLURM answers at once, so that the free retries would be gone in seconds."""
    now = [1000.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(slurm, "time", clock)
    rule = SimpleNamespace(name="pretrain")
    jobs = {
        number: SimpleNamespace(
            jobid=number,
            rule=rule,
            wildcards_dict={"seed": str(number)},
            log=[],
            attempt=1,
            restart_times=2,
            is_group=lambda: False,
        )
        for number in (1, 2)
    }
    said = (
        "SLURM sbatch failed. The error message was 'sbatch: error: QOSMaxSubmitJobPerUserLimit\n"
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job "
        "submit limit, user's size and/or time limits)'"
    )
    handler = watch.FailureWatch(
        lambda: list(jobs.values()), print, FailureLog(tmp_path / "failures.json")
    )
    for _ in range(6):
        for number, job in jobs.items():
            record = logging.makeLogRecord(
                {"event": LogEvent.JOB_ERROR, "jobid": number, "rule_msg": said}
            )
            handler.emit(record)
            assert job.attempt == 0
            job.attempt += 1  # as Snakemake does
    assert slept == [30, 60, 120, 240, 300, 300]
    kinds = {(one.kind, one.final) for one in read_failures(tmp_path / "failures.json")}
    assert kinds == {("queue_full", False)}
