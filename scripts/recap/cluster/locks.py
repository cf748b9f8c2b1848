"""Clearing the lock of a Snakemake that was killed, so that the same command goes on."""

import contextlib
import os
import shutil
import socket
from pathlib import Path

from ..errors import RecapError
from ..io import read_json, write_json

LOCKS = Path(".snakemake/locks")
CONTROLLER = Path(".snakemake/recap/controller.json")


def note_controller() -> None:
    """Write down on which machine the Snakemake runs that holds the folder's lock."""
    write_json(CONTROLLER, {"host": socket.gethostname()})


def clear_stale_lock() -> bool:
    """Remove Snakemake's lock if it was taken on this machine, and no Snakemake runs here.

    Known is only what runs on this machine: a lock taken from another login node stays, and
    ``snakemake --unlock`` removes it. A process number would tell nothing: after a restart of
    the machine any program may have it.

    Returns:
        Whether there was such a lock.
    """
    if not LOCKS.is_dir() or not any(LOCKS.iterdir()):
        return False
    if _owner_host() != socket.gethostname() or controllers():
        return False
    shutil.rmtree(LOCKS)
    return True


def _owner_host() -> str | None:
    """Return the machine whose Snakemake took the lock; None if nobody knows.

    A file that a full disk or a crash left empty or torn tells nothing.
    """
    try:
        noted = read_json(CONTROLLER)
    except (RecapError, OSError):
        return None
    return noted.get("host") if isinstance(noted, dict) else None


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
