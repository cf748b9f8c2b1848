"""How long jobs take: measured by this experiment, or by the priors that ship with it."""

import csv
import statistics
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from ..config.sheets import read_sheet
from ..settings import Settings
from .amounts import Amounts
from .dryrun import PlannedJob

PRIORS = "config/priors.tsv"
_ANY = "*"


class PriorRow(Settings):
    """What is expected of a rule that has not run yet."""

    start_seconds: float = Field(ge=0, description="of a job, whatever it works on")
    item_seconds: float = Field(ge=0, description="of each thing it works on")
    items: str = Field(pattern="^(one|shard|corpus|pretrain|finetune|questions)$")
    disk_mb: float = Field(ge=0, description="what a job leaves")
    source: str = Field(description="where the figures are from")


@dataclass(frozen=True)
class Expected:
    """What a job is expected to take.

    Attributes:
        measured: whether this experiment measured it, else it is a prior.
    """

    seconds: float
    disk_mb: float
    measured: bool


class Durations:
    """Expects durations from an experiment's own figures, else from the priors."""

    def __init__(
        self,
        amounts: Amounts,
        perf: Path,
        *,
        priors: str = PRIORS,
        gpu_speed: float = 1.0,
    ) -> None:
        """Read the priors and the figures so far.

        Args:
            amounts: says what jobs work on.
            perf: folder of Snakemake's benchmark files, one folder a rule.
            priors: sheet of the priors.
            gpu_speed: of the cluster's cards, where the priors' is 1.
        """
        self._amounts = amounts
        self._gpu_speed = gpu_speed
        self._priors = read_sheet(priors, "rule", PriorRow)
        self._measured = {folder.name: median_seconds(folder) for folder in perf.glob("*/")}

    def expect(self, job: PlannedJob) -> Expected:
        """Return what a job is expected to take."""
        row = self._priors.get(job.rule, self._priors[_ANY])
        measured = self._measured.get(job.measured_as)
        if measured is not None:
            return Expected(measured, row.disk_mb, measured=True)
        # A card's speed does nothing for the start of a process.
        speed = self._gpu_speed if job.gpus else 1.0
        items = self._amounts.of(job, row.items) / max(1, job.gpus)
        seconds = row.start_seconds + row.item_seconds * items / speed
        return Expected(seconds, row.disk_mb, measured=False)


def median_seconds(folder: Path) -> float | None:
    """Return the median wall time of a rule's jobs in seconds; None if none has run."""
    seconds = []
    # Those of steps lie deeper, by the place and step of their recipe.
    for path in folder.rglob("*.tsv"):
        with path.open(encoding="utf-8", newline="") as stream:
            seconds += [float(row["s"]) for row in csv.DictReader(stream, delimiter="\t")]
    return statistics.median(seconds) if seconds else None
