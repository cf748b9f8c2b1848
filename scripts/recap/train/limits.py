"""When this process will be cut off, as far as it can be known."""

import logging
import os
import subprocess
import time
from datetime import datetime
from pathlib import Path

from ..errors import RecapError

logger = logging.getLogger(__name__)

SLURM_END = "SLURM_JOB_END_TIME"
SLURM_JOB = "SLURM_JOB_ID"


def run_end(time_limit_minutes: float | None) -> tuple[float | None, str]:
    """Return the UNIX time at which this process will be cut off, and who says so.

    Args:
        time_limit_minutes: from the start of the process, None for no limit.

    Returns:
        The earlier of that limit and of the end of the SLURM job; None if there is neither.

    Raises:
        RecapError: if SLURM's variable is not a number.
    """
    ends: list[tuple[float, str]] = []
    if time_limit_minutes is not None:
        end = process_start() + 60.0 * time_limit_minutes
        ends.append((end, f"--time-limit-minutes {time_limit_minutes:g}"))
    slurm = os.environ.get(SLURM_END)
    if slurm:
        try:
            ends.append((float(slurm), SLURM_END))
        except ValueError as error:
            raise RecapError(
                f"the environment variable {SLURM_END} is {slurm!r}, not UNIX seconds; unset it"
            ) from error
    elif job := os.environ.get(SLURM_JOB):
        asked = ask_slurm(job)
        if asked is not None:
            ends.append((asked, f"squeue, job {job}"))
    return min(ends, default=(None, ""))


def ask_slurm(job: str) -> float | None:
    """Return the UNIX time at which a SLURM job ends, as ``squeue`` knows it; None if it doesn't.

    SLURM 22.05, for one, does not set ``SLURM_JOB_END_TIME``.
    """
    command = ["squeue", "--noheader", "--format=%e", f"--job={job}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        # In local time, without its offset.
        return datetime.fromisoformat(done.stdout.split()[0]).timestamp()
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        logger.warning("SLURM does not tell when job %s ends: %s", job, error)
        return None


def process_start() -> float:
    """Return the UNIX time at which this process started (proc(5), field 22 of ``stat``)."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - started)
