"""What SLURM's accounting says about an experiment's jobs, lost attempts included."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from ..cluster.slurm import ask

_FIELDS = (
    "JobIDRaw",
    "State",
    "ElapsedRaw",
    "AllocTRES",
    "WorkDir",
    "ConsumedEnergyRaw",
    "Comment",
)
# Where no energy is measured, SLURM writes nothing, zero or this.
_NO_ENERGY = ("", "0", "18446744073709551614")


@dataclass
class Attempts:
    """The attempts of one job of the workflow.

    Attributes:
        joules: measured by SLURM over whole nodes; None if it does not measure energy.
    """

    seconds: list[float] = field(default_factory=list)
    gpu_seconds: float = 0.0
    joules: float | None = None


def ask_accounting(folder: Path, days: int = 60) -> dict[str, Attempts] | None:
    """Return what jobs submitted from a folder took.

    Args:
        folder: where Snakemake ran.
        days: how far to look back.

    Returns:
        The attempts by :func:`comment_key`; None where there is no accounting.
    """
    listed = ask(
        *("sacct", "--allocations", "--duplicates", "--noheader", "--parsable2"),
        *(f"--starttime=now-{days}days", f"--format={','.join(_FIELDS)}"),
    )
    return None if listed is None else read_accounting(listed, folder)


def read_accounting(listed: str, folder: Path) -> dict[str, Attempts]:
    """Return the attempts in a listing of ``sacct``; see :func:`ask_accounting`."""
    found: dict[str, Attempts] = {}
    for line in listed.splitlines():
        cells = line.split("|", len(_FIELDS) - 1)
        if len(cells) != len(_FIELDS):
            continue
        row = dict(zip(_FIELDS, cells, strict=True))
        if Path(row["WorkDir"]) != folder or not row["Comment"].startswith("rule_"):
            continue
        attempts = found.setdefault(comment_key(row["Comment"]), Attempts())
        seconds = float(row["ElapsedRaw"] or 0)
        gpus = re.search(r"\bgres/gpu=(\d+)", row["AllocTRES"])
        attempts.seconds.append(seconds)
        attempts.gpu_seconds += seconds * int(gpus[1] if gpus else 0)
        if row["ConsumedEnergyRaw"] not in _NO_ENERGY:
            attempts.joules = (attempts.joules or 0.0) + float(row["ConsumedEnergyRaw"])
    return found


def comment_key(comment: str) -> str:
    """Return the plugin's comment, ``rule_<rule>_wildcards_<wildcards>``, as a key.

    Punctuation is one underscore: wildcards may be empty there, and hold dots.
    """
    return re.sub(r"[^A-Za-z0-9]+", "_", comment)
