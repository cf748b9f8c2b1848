"""What SLURM put back into its queue, from the lines that sacct prints."""

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from recap.cluster.digest import failure_digest
from recap.cluster.records import Failure, FailureLog, read_failures
from recap.cluster.requeued import requeued_failures
from recap.cluster.slurm import requeued_attempts

# JobIDRaw|State|NodeList|End|WorkDir|Comment
LISTED = """\
7|NODE_FAIL|gpu1|2026-11-20T10:05:00|/work|rule_finetune_wildcards_exp_a_1
7|PREEMPTED|gpu2|2026-11-20T10:20:00|/work|rule_finetune_wildcards_exp_a_1
7|COMPLETED|gpu3|2026-11-20T11:00:00|/work|rule_finetune_wildcards_exp_a_1
8|NODE_FAIL|gpu1|2026-11-20T10:05:01|/work|rule_split_split_shard
8|RUNNING|gpu2|Unknown|/work|rule_split_split_shard
9|NODE_FAIL|gpu1|2026-11-20T09:00:00|/work|rule_pretrain_wildcards_exp_a_1
9|COMPLETED|gpu1|2026-11-20T09:30:00|/work|rule_pretrain_wildcards_exp_a_1
10|TIMEOUT|gpu1|2026-11-20T10:30:00|/work|rule_predict_wildcards_exp_a_1
11|REQUEUED|gpu1|2026-11-20T10:31:00|/elsewhere|rule_finetune_wildcards_exp_a_1
11|COMPLETED|gpu1|2026-11-20T10:40:00|/elsewhere|rule_finetune_wildcards_exp_a_1
"""
JOB = SimpleNamespace(
    rule=SimpleNamespace(name="finetune"),
    wildcards=["exp", "a", "1"],
    wildcards_dict={"experiment": "exp", "arm": "a", "seed": "1"},
    log=["logs/exp/finetune/a.seed1.log"],
)
BEGUN = datetime(2026, 11, 20, 10, 0).timestamp()


@pytest.fixture
def found(monkeypatch) -> list[Failure]:
    monkeypatch.setattr("recap.cluster.slurm.ask", lambda *command: LISTED)
    return requeued_failures(requeued_attempts(Path("/work"), BEGUN), [JOB])


def test_attempts_of_this_run_that_were_repeated_are_failures(found: list[Failure]) -> None:
    assert [(one.slurm_job, one.kind, one.attempt, one.node) for one in found] == [
        ("7", "node_lost", 1, "gpu1"),
        ("7", "preempted", 2, "gpu2"),
        ("8", "node_lost", 1, "gpu1"),
    ]
    training, _, group = found
    assert (training.name, training.log) == (
        "finetune (arm=a,experiment=exp,seed=1)",
        "logs/exp/finetune/a.seed1.log",
    )
    assert training.members == ["finetune:arm=a,experiment=exp,seed=1"]
    assert (group.name, group.members) == ("split_split_shard", [])
    assert all(one.requeued for one in found)


def test_they_are_listed_in_the_order_of_time_and_told(found: list[Failure], tmp_path) -> None:
    log = FailureLog(tmp_path / "failures.json")
    log.insert(found)
    log.settle(set())
    listed = read_failures(log.path)
    assert [one.slurm_job for one in listed] == ["7", "8", "7"]
    digest = failure_digest(listed)
    assert "3 attempts failed and passed later (2 x node_lost, 1 x preempted)" in digest
    assert "attempt 1 on gpu1 (SLURM job 7): node_lost, requeued by SLURM" in digest


def test_without_accounting_there_are_none(monkeypatch) -> None:
    monkeypatch.setattr("recap.cluster.slurm.ask", lambda *command: None)
    assert requeued_attempts(Path("/work"), BEGUN) == []
