"""What a failed job's evidence is taken for; the lines are those that the programs write."""

import errno

import pytest

from recap.cli import advise
from recap.cluster.failures import CLASSES, Evidence, classify, find_exit_code, updates_made
from recap.train.signals import EXIT_INTERRUPTED, StopRequest

TRACEBACK = "Traceback (most recent call last):\n  File x\nKeyError: 'a'"
STEP_KILLED = "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.0."
POLLED = "slurmstepd: error: Step 15.0 exceeded memory limit (712345 > 524288), being killed"
CUT = "*** STEP 16.0 ON recap1 CANCELLED AT 2026-11-20T10:00:00 DUE TO TIME LIMIT ***"
MADE_ROOM = "*** JOB 17 ON recap2 CANCELLED AT 2026-11-20T10:00:00 DUE TO PREEMPTION ***"
GONE = "*** JOB 3 ON recap1 CANCELLED AT 2026-11-20T1:00:00 DUE TO NODE FAILURE, SEE SLURMCTLD ***"
AWAY = (
    "SLURM sbatch failed. The error message was 'sbatch: error: Batch job submission failed: "
    "Unable to contact slurm controller (connect failure)'"
)
REFUSED = (
    "SLURM sbatch failed. The error message was 'sbatch: error: invalid partition specified: gpuu'"
)
LIMIT = (
    "SLURM sbatch failed. The error message was 'sbatch: error: {}\nsbatch: error: Batch job "
    "submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or "
    "time limits)'"
)
BUSY = "SLURM sbatch failed. The error message was 'sbatch: error: Batch job submission failed: {}'"
WORKER = f"{TRACEBACK}\nRuntimeError: DataLoader worker (pid 7) is killed by signal: "
SAVED = "ERROR recap.cli: stopped by SIGTERM after update 7 of 24; run the same command again"


@pytest.mark.parametrize(
    ("kind", "evidence"),
    [
        ("out_of_memory", Evidence(state="OUT_OF_MEMORY")),
        ("out_of_memory", Evidence(state="FAILED", scheduler_log=STEP_KILLED)),
        ("out_of_memory", Evidence(state="FAILED", scheduler_log=POLLED, exit_code=1)),
        ("out_of_memory", Evidence(exit_code=-9)),
        ("out_of_memory", Evidence(exit_code=137)),
        ("time_limit", Evidence(state="TIMEOUT", scheduler_log=CUT)),
        ("time_limit", Evidence(state="FAILED", scheduler_log=CUT)),
        ("stopped", Evidence(state="TIMEOUT", scheduler_log=CUT, job_log=SAVED)),
        ("stopped", Evidence(state="FAILED", job_log=SAVED, exit_code=75)),
        # accelerate and torchrun end with 1 after a signal
        ("stopped", Evidence(job_log=f"{SAVED}\n{TRACEBACK}", exit_code=1)),
        ("preempted", Evidence(state="PREEMPTED", job_log=SAVED)),
        ("preempted", Evidence(state="CANCELLED", scheduler_log=MADE_ROOM)),
        ("cancelled", Evidence(state="CANCELLED")),
        ("node_lost", Evidence(state="NODE_FAIL")),
        ("node_lost", Evidence(state="FAILED", scheduler_log=GONE)),
        ("slurm_unreachable", Evidence(message=AWAY)),
        ("slurm_unreachable", Evidence(state="FAILED", scheduler_log=AWAY)),
        ("rejected", Evidence(message=REFUSED)),
        # What every limit is answered with; only its name tells whether waiting helps.
        ("rejected", Evidence(message=LIMIT.format("QOSMaxWallDurationPerJobLimit"))),
        ("rejected", Evidence(message=LIMIT.format("QOSMaxGRESPerUser"))),
        ("queue_full", Evidence(message=LIMIT.format("QOSMaxSubmitJobPerUserLimit"))),
        ("queue_full", Evidence(message=LIMIT.format("AssocGrpSubmitJobsLimit"))),
        ("queue_full", Evidence(message=BUSY.format("Resource temporarily unavailable"))),
        ("queue_full", Evidence(message=BUSY.format("Slurm temporarily unable to accept job"))),
        ("bad_data", Evidence(exit_code=2, job_log="ERROR recap.cli: corpus.jsonl: no `id`")),
        ("gate_failed", Evidence(exit_code=3, job_log="ERROR recap.cli: first loss is 12.1")),
        ("bad_node", Evidence(exit_code=4, job_log="ERROR recap.cli: node gpu3: 1 of 2 GPUs")),
        ("bad_node", Evidence(exit_code=1, job_log="RuntimeError: No CUDA GPUs are available")),
        ("bug", Evidence(exit_code=1, job_log=TRACEBACK)),
        ("unknown", Evidence(exit_code=1, job_log=f"{TRACEBACK}\nOSError: Stale file handle")),
        (
            "unknown",
            Evidence(
                exit_code=1,
                job_log=f"{TRACEBACK}\ntorch.distributed.DistNetworkError: The client socket has "
                "timed out after 600000ms while trying to connect to (gpu1, 29500).",
            ),
        ),
        ("out_of_memory", Evidence(exit_code=1, job_log=f"{WORKER}Killed. ")),
        (
            "shared_memory",
            Evidence(
                exit_code=1,
                job_log=f"{WORKER}Bus error. It is possible that dataloader's workers are out of "
                "shared memory. Please try to raise your shared memory limit.",
            ),
        ),
        (
            "shared_memory",
            Evidence(
                exit_code=1,
                job_log=f"{TRACEBACK}\nRuntimeError: unable to open shared memory object "
                "</torch_7_1> in read-write mode: No space left on device (28)",
            ),
        ),
        (
            "shared_memory",
            Evidence(
                exit_code=-7,
                job_log="ERROR: Unexpected bus error encountered in worker. This might be caused "
                "by insufficient shared memory (shm).",
            ),
        ),
        ("unknown", Evidence(exit_code=1, job_log="")),
        ("unknown", Evidence()),
        ("disk_full", Evidence(exit_code=1, scheduler_log="OSError: No space left on device")),
    ],
)
def test_each_kind_of_failure_is_recognised(kind: str, evidence: Evidence) -> None:
    assert classify(evidence) == kind


def test_what_a_machine_lacks_is_told_from_input_that_is_wrong() -> None:
    """Scripts end with 2 for both; the advice they print tells."""
    full = OSError(errno.EDQUOT, "Disk quota exceeded")
    for error, kind in ((full, "disk_full"), (MemoryError(), "out_of_memory")):
        assert classify(Evidence(exit_code=2, job_log=f"ERROR: {advise(error)}")) == kind


@pytest.mark.parametrize(
    ("start", "done", "kind"), [(0, 3, "stopped"), (3, 5, "stopped"), (3, 3, "time_limit")]
)
def test_training_gets_more_time_only_if_it_made_no_update(start, done, kind) -> None:
    stop = StopRequest(end=1000.0, source="the cluster", clock=lambda: 990.0)
    log = f"continuing after update {start} from checkpoint\n" if start else ""
    log += f"ERROR recap.cli: {stop.interruption(f'after update {done} of 9')}"
    assert updates_made(log) == done
    assert classify(Evidence(exit_code=EXIT_INTERRUPTED, job_log=log)) == kind


def test_training_stopped_while_it_loads_has_made_nothing() -> None:
    stop = StopRequest(end=1000.0, source="the cluster", clock=lambda: 990.0)
    log = f"ERROR recap.cli: {stop.interruption('before the model was loaded')}"
    assert updates_made(log) == 0
    assert classify(Evidence(exit_code=EXIT_INTERRUPTED, job_log=log)) == "time_limit"


def test_the_last_exit_code_counts() -> None:
    text = "returned non-zero exit status 1.\nCommand 'x' returned non-zero exit status 3.\n"
    assert find_exit_code(text) == 3
    assert find_exit_code(text + "Command 'x' died with <Signals.SIGKILL: 9>.") == -9
    assert find_exit_code("Finished jobid: 3") is None


def test_only_memory_and_time_grow_and_only_when_tried_again() -> None:
    growing = {name: one.grows for name, one in CLASSES.items() if one.grows}
    assert growing == {"out_of_memory": "memory", "time_limit": "time"}
    assert all(CLASSES[name].retry for name in growing)
    assert {name for name, one in CLASSES.items() if not one.retry} == {
        *("bad_data", "gate_failed", "bug", "disk_full", "gpu_memory", "rejected")
    }
