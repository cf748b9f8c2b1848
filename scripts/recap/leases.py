"""Giving each job of one machine GPUs of its own, as Snakemake counts them but names none.

A lease is a lock on a file, held by the job's own process. It ends with the process, however
that ends, so nothing has to be cleaned up after a crash.
"""

import fcntl
import logging
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from .errors import RecapError

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
FOLDER = "recap-gpu-leases"
_PAUSE_SECONDS = 1.0


def lease_gpus(count: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Wait for GPUs that no other leased job has, and return the variable that shows only them.

    The locks are held by this process and by the program it becomes. A cluster deals out GPUs
    itself, so inside a SLURM job nothing is leased.

    Args:
        count: number of GPUs; 0 for none.
        environment: of the process. Where ``CUDA_VISIBLE_DEVICES`` is set, its GPUs are
            the ones to be had.

    Returns:
        ``CUDA_VISIBLE_DEVICES``; nothing if nothing was leased, as on a machine without GPUs.

    Raises:
        RecapError: if the machine has fewer.
    """
    if not count or "SLURM_JOB_ID" in environment:
        return {}
    gpus = visible_gpus(environment)
    if not gpus:
        return {}
    if count > len(gpus):
        raise RecapError(
            f"the job asks for {count} GPUs, this machine has {len(gpus)} to give; lower "
            "compute.gpus or compute.train_gpus"
        )
    folder = Path(tempfile.gettempdir()) / FOLDER
    _open_folder(folder)
    waited = False
    while True:
        held = _take(folder, gpus, count)
        if len(held) == count:
            return {VISIBLE: ",".join(held)}
        for descriptor in held.values():
            os.close(descriptor)
        if not waited:
            logger.info("waiting for %d of the GPUs %s", count, ", ".join(gpus))
            waited = True
        # Not in step with others that wait.
        time.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1.5))


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the GPUs that may be used: indices or UUIDs."""
    given = environment.get(VISIBLE)
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.strip() for line in shown.splitlines() if line.strip()]


def _open_folder(folder: Path) -> None:
    """Create the folder of locks for every user of the machine."""
    try:
        folder.mkdir(exist_ok=True)
        if folder.stat().st_uid == os.getuid():
            folder.chmod(0o1777)
    except OSError as error:
        raise RecapError(
            f"GPUs cannot be leased in {folder} ({error.strerror}); set TMPDIR to a folder that "
            "all jobs of this machine share"
        ) from error


def _take(folder: Path, gpus: list[str], count: int) -> dict[str, int]:
    """Lock up to ``count`` free GPUs; return the open file of each."""
    held: dict[str, int] = {}
    for gpu in gpus:
        if len(held) == count:
            break
        descriptor = _open_lock(folder / f"{gpu.replace('/', '_')}.lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        os.set_inheritable(descriptor, True)
        held[gpu] = descriptor
    return held


def _open_lock(path: Path) -> int:
    """Open a GPU's lock, which any user of the machine may have made.

    Linux refuses ``O_CREAT`` on somebody else's file in a sticky folder, so it is made or opened,
    not both at once. NFS locks only what is open for writing, other file systems don't mind.
    """
    previous = os.umask(0)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        writable = os.access(path, os.W_OK)
        return os.open(path, os.O_RDWR if writable else os.O_RDONLY)
    finally:
        os.umask(previous)
