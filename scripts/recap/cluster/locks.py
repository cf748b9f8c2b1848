"""Clearing the lock of a Snakemake that was killed, so that the same command goes on."""

import contextlib
import os
import shutil
import socket
from pathlib import Path

from ..io import read_json, write_json

LOCKS = Path(".snakemake/locks")
CONTROLLER = Path(".snakemake/recap/controller.json")


def note_controller() -> None:
    """Write down that this process is the Snakemake which holds the folder's lock."""
    write_json(CONTROLLER, {"host": socket.gethostname(), "process": os.getpid()})


def clear_stale_lock() -> bool:
    """Remove Snakemake's lock if the process that took it is known to be gone.

    Known is only what runs on this machine: a lock taken from another login node stays, and
    ``snakemake --unlock`` removes it.

    Returns:
        Whether there was such a lock.
    """
    if not LOCKS.is_dir() or not any(LOCKS.iterdir()) or not CONTROLLER.is_file():
        return False
    owner = read_json(CONTROLLER)
    if owner["host"] != socket.gethostname() or Path(f"/proc/{owner['process']}").exists():
        return False
    if controllers():
        return False
    shutil.rmtree(LOCKS)
    return True


def controllers() -> list[int]:
    """Return the other processes of this machine that run the workflow in this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        number = int(entry.name)
        with contextlib.suppress(OSError):  # it has ended, or belongs to somebody else
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            here = (entry / "cwd").readlink() == Path.cwd()
            named = any(word.rpartition("/")[2] == "snakemake" for word in words[:3])
            # The Snakemakes of jobs have a mode, the one that deals them out has not.
            if here and named and "--mode" not in words and number != os.getpid():
                found.append(number)
    return found
