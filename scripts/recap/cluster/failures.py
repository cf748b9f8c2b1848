"""Why a job failed, whether trying it again can help, and what a person should do.

A job's end leaves evidence in three places: what SLURM says about it, SLURM's own messages in
the job's output, and the log of the command. None of them is enough: SLURM calls a job that
was killed for its memory ``FAILED`` where it polls instead of using cgroups, and the command
of such a job writes nothing at all.
"""

import re
from dataclasses import dataclass

from ..cli import GPU_MEMORY_ADVICE, MEMORY_ADVICE, QUOTA_ADVICE
from ..errors import EXIT_BAD_INPUT, EXIT_BUG, EXIT_GATE_FAILED

EXIT_INTERRUPTED = 75  # recap.train.signals says the same, and imports more
EXIT_BAD_NODE = 4
_KILLED = (137, -9)


@dataclass(frozen=True)
class FailureClass:
    """What is done about one kind of failure.

    Attributes:
        retry: whether the job is tried again.
        counted: whether that uses up one of the profile's ``retries``.
        grows: ``memory`` or ``time`` if the next attempt gets more of it.
        avoid_node: whether no further job goes to the node.
        advice: what a person should do if it does not pass by itself.
    """

    retry: bool
    advice: str
    counted: bool = True
    grows: str = ""
    avoid_node: bool = False


CLASSES: dict[str, FailureClass] = {
    "out_of_memory": FailureClass(
        True,
        "it is tried again with more memory; raise compute.cpu_mem_mb or compute.model_mem_mb so "
        "that the first attempt has enough",
        grows="memory",
    ),
    "time_limit": FailureClass(
        True,
        "it is tried again with more time; raise compute.runtime_minutes or "
        "compute.train_runtime_minutes",
        grows="time",
    ),
    "stopped": FailureClass(
        True,
        "it saved its state and goes on from there; if it makes no update in its time, raise "
        "compute.train_runtime_minutes",
    ),
    "preempted": FailureClass(True, "it goes on where it stopped; nothing has to be done"),
    "cancelled": FailureClass(
        True, "somebody cancelled it; to end a run, stop Snakemake with Ctrl-C instead"
    ),
    "node_lost": FailureClass(
        True, "it runs again on another node; tell the administrator", avoid_node=True
    ),
    "bad_node": FailureClass(
        True,
        "further jobs avoid the node; tell the administrator what the log says",
        avoid_node=True,
    ),
    "slurm_unreachable": FailureClass(
        True, "it is submitted again when SLURM answers; nothing has to be done", counted=False
    ),
    "queue_full": FailureClass(
        True,
        "it is submitted again as the queue empties; lower `jobs` in the profile to what the "
        "cluster lets one user submit",
        counted=False,
    ),
    "unknown": FailureClass(True, "read the job's log and SLURM's messages"),
    "rejected": FailureClass(
        False,
        "SLURM refuses such a job: correct partition, account, time or memory in the profile or "
        "in `compute`",
    ),
    "gpu_memory": FailureClass(
        False, "the model does not fit the card: lower the batch size, or take a larger card"
    ),
    "shared_memory": FailureClass(
        True,
        "shared memory (/dev/shm) is full or too small: give a container more (`--shm-size`), else "
        "remove what dead processes left there",
    ),
    "disk_full": FailureClass(False, "free space or raise the quota, then run the same command"),
    "bad_data": FailureClass(False, "correct the input or setting that the log names"),
    "gate_failed": FailureClass(
        False, "the result would not be trustworthy: read the gate's value and bound in the log"
    ),
    "bug": FailureClass(False, "report the traceback in the log"),
}


@dataclass(frozen=True)
class Evidence:
    """What is known about a job that failed.

    Attributes:
        state: SLURM's, such as ``TIMEOUT``; empty for a job of this machine.
        message: what Snakemake says.
        scheduler_log: output of the job besides its own log: SLURM's messages, Snakemake's.
        job_log: the log of the job's command, without torchrun's own lines.
        exit_code: of the command, or of its first rank that failed; negative for a signal, None
            if nobody knows it.
    """

    state: str = ""
    message: str = ""
    scheduler_log: str = ""
    job_log: str = ""
    exit_code: int | None = None


_STATES = {
    "OUT_OF_MEMORY": "out_of_memory",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "node_lost",
    "BOOT_FAIL": "node_lost",
    "TIMEOUT": "time_limit",
    "DEADLINE": "time_limit",
}
_UNREACHABLE = re.compile(
    r"Unable to contact slurm controller|Connection refused|Socket timed out|"
    r"Unable to establish control|Zero Bytes were transmitted|Transport endpoint",
    re.IGNORECASE,
)
# A share of the queue, or all of it. The line "Job violates accounting/QOS policy (job submit
# limit, ...)" comes with every limit; only the limit's name tells, such as QOSMaxSubmitJobPerUser.
_QUEUE_FULL = re.compile(
    r"SubmitJob|temporarily unable to accept job|Resource temporarily unavailable", re.IGNORECASE
)
# In SLURM's words (slurmstepd, slurmctld); the order is that in which they are believed.
_SCHEDULER_SAYS = (
    (r"oom.?kill|out of memory handler|exceeded (job )?memory limit", "out_of_memory"),
    (r"DUE TO PREEMPTION", "preempted"),
    (r"DUE TO NODE FAILURE|node failure", "node_lost"),
    (r"DUE TO TIME LIMIT", "time_limit"),
    (r"Unable to (contact slurm controller|confirm allocation)", "slurm_unreachable"),
)
# Of torch's DataLoader and of NCCL; "No space left on device" may follow.
_SHARED_MEMORY = re.compile(
    r"out of shared memory|insufficient shared memory|"
    r"shared memory object <(?!.*Too many open files)|"
    r"unable to allocate shared memory|creating shared memory segment"
)
_WORKER_KILLED = re.compile(r"DataLoader worker .*killed by signal: Killed")
_DISK = re.compile(r"No space left on device|Disk quota exceeded|File too large")
_BAD_NODE = re.compile(
    r"uncorrectable ECC|No CUDA GPUs are available|device\(s\) is/are busy or unavailable|"
    r"CUDA driver initialization failed|unable to determine the device handle|"
    r"CUDA error: unspecified launch failure",
    re.IGNORECASE,
)
_PASSING = re.compile(
    r"Stale file handle|Input/output error|Connection reset|NCCL (error|WARN)|DistBackendError|"
    r"DistNetworkError|DistStoreError|Address already in use|Broken pipe",
    re.IGNORECASE,
)
# What recap.train.signals ends with, and recap.train.stage begins with.
_STOPPED = re.compile(
    r"stopped (?:by (?:SIG\w+|another rank) )?"
    r"(?:after update (\d+)|before the model was loaded|while it tried how)"
)
_OUT_OF_TIME = re.compile(r"stopped [^:]*: -?\d+ s are left")
_CONTINUED = re.compile(r"continuing after update (\d+)")
_EXIT = re.compile(r"non-zero exit status (\d+)")
_SIGNAL = re.compile(r"died with <Signals\.\w+: (\d+)>")


def find_exit_code(text: str) -> int | None:
    """Return the last exit code that Snakemake reports in a text; a signal's is negative."""
    found = [(match.start(), int(match[1])) for match in _EXIT.finditer(text)]
    found += [(match.start(), -int(match[1])) for match in _SIGNAL.finditer(text)]
    return max(found)[1] if found else None


def updates_made(job_log: str) -> int | None:
    """Return how far training was when it saved its state and ended; None if it didn't."""
    found = _STOPPED.findall(job_log)
    return int(found[-1] or 0) if found else None


def _ran_in_vain(job_log: str) -> bool:
    """Return whether training ended for want of time before it made an update."""
    started = _CONTINUED.findall(job_log)
    begun = int(started[-1]) if started else 0
    return bool(_OUT_OF_TIME.search(job_log)) and (updates_made(job_log) or 0) <= begun


def classify(evidence: Evidence) -> str:
    """Return the class of a failure, a key of :data:`CLASSES`."""
    if "sbatch failed" in evidence.message or "submission failed" in evidence.message:
        return _by_submission(evidence.message)
    by_cluster = _by_cluster(evidence)
    saved = updates_made(evidence.job_log) is not None
    if saved and by_cluster in ("", "time_limit"):
        return "time_limit" if _ran_in_vain(evidence.job_log) else "stopped"
    return by_cluster or _by_command(evidence)


def _by_submission(message: str) -> str:
    """Return why SLURM did not take a job."""
    if _UNREACHABLE.search(message):
        return "slurm_unreachable"
    return "queue_full" if _QUEUE_FULL.search(message) else "rejected"


def _by_cluster(evidence: Evidence) -> str:
    """Return what SLURM says happened to the job, if it says anything."""
    if evidence.state in _STATES:
        return _STATES[evidence.state]
    for pattern, name in _SCHEDULER_SAYS:
        if re.search(pattern, evidence.scheduler_log, re.IGNORECASE):
            return name
    # Last: SLURM cancels what it ends for another reason, too.
    return "cancelled" if evidence.state.startswith("CANCELLED") else ""


def _by_command(evidence: Evidence) -> str:
    """Return what the command's exit code and log say."""
    code, log = evidence.exit_code, evidence.job_log
    for matches, name in (
        (code == EXIT_INTERRUPTED, "stopped"),
        (_SHARED_MEMORY.search(log), "shared_memory"),
        (_DISK.search(log + evidence.scheduler_log), "disk_full"),
        (code == EXIT_BAD_NODE or _BAD_NODE.search(log), "bad_node"),
        # Who kills without a word is the kernel, when the machine's memory is full.
        (code in _KILLED or _WORKER_KILLED.search(log), "out_of_memory"),
        (code == EXIT_BAD_INPUT, _bad_input(log)),
        (code == EXIT_GATE_FAILED, "gate_failed"),
        (_PASSING.search(log), "unknown"),
        (code == EXIT_BUG and "Traceback (most recent call last)" in log, "bug"),
    ):
        if matches:
            return name
    return "unknown"


def _bad_input(log: str) -> str:
    """Tell a machine that ran out of something from input that is wrong."""
    for advice, name in (
        (GPU_MEMORY_ADVICE, "gpu_memory"),
        (MEMORY_ADVICE, "out_of_memory"),
        (QUOTA_ADVICE, "disk_full"),
    ):
        if advice in log:
            return name
    return "bad_data"
