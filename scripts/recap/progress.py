"""Progress of a run, read from the log that Snakemake writes: one line a stage."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_COUNT = re.compile(r"^(\w+) +(\d+)$")
_TIME = re.compile(r"^\[(\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})\]$")
_FINISHED = re.compile(r"^Finished jobid: \d+ \(Rule: (\w+)\)")
_FAILED = re.compile(r"^Error in rule (\w+), jobid")
_TARGET = "all"  # the target rule: it runs nothing
_GPU_QUERY = "--query-gpu=utilization.gpu,memory.used,memory.total"


@dataclass
class StageProgress:
    """Jobs of one rule.

    Attributes:
        name: the rule.
        total: jobs that this run has to do.
        done: jobs that have finished.
        failed: attempts that ended in an error.
        first: when the first job finished, in seconds since the epoch.
        last: when the last one did.
    """

    name: str
    total: int
    done: int = 0
    failed: int = 0
    first: float = 0.0
    last: float = 0.0

    @property
    def rate(self) -> float | None:
        """Return jobs a second between the first and the last finish; none before two."""
        if self.done < 2 or self.last <= self.first:
            return None
        return (self.done - 1) / (self.last - self.first)

    @property
    def seconds_left(self) -> float | None:
        """Return how long the rest takes at that rate, or none if it is unknown."""
        return (self.total - self.done) / self.rate if self.rate else None


@dataclass
class RunProgress:
    """What a Snakemake log says so far; ``feed`` it the lines as they come.

    Attributes:
        stages: the rules that have jobs in this run, by name.
        nothing_to_do: whether every result was there.
        clock: when the lines fed next were written, in seconds since the epoch; a log's own
            lines of time set it.
    """

    stages: dict[str, StageProgress] = field(default_factory=dict)
    nothing_to_do: bool = False
    clock: float = 0.0
    _counting: bool = False

    @property
    def done(self) -> int:
        """Return the number of finished jobs."""
        return sum(stage.done for stage in self.stages.values())

    @property
    def total(self) -> int:
        """Return the number of jobs this run has to do."""
        return sum(stage.total for stage in self.stages.values())

    def feed(self, lines: Iterable[str]) -> Iterator[StageProgress]:
        """Read lines; yield a stage each time one of its jobs has finished or failed."""
        for line in map(str.rstrip, lines):
            if moment := _TIME.match(line):
                self.clock = time.mktime(time.strptime(moment[1], "%a %b %d %H:%M:%S %Y"))
            elif line == "Job stats:":
                self._counting, self.stages = True, {}
            elif self._counting:
                self._count(line)
            elif found := _FINISHED.match(line):
                if found[1] != _TARGET:
                    yield self._finish(found[1])
            elif found := _FAILED.match(line):
                stage = self._stage(found[1])
                stage.failed += 1
                yield stage
            elif line.startswith("Nothing to be done"):
                self.nothing_to_do = True

    def _count(self, line: str) -> None:
        found = _COUNT.match(line)
        if found and found[1] not in ("total", _TARGET):
            self.stages[found[1]] = StageProgress(found[1], int(found[2]))
        elif not line:
            self._counting = False

    def _stage(self, name: str) -> StageProgress:
        return self.stages.setdefault(name, StageProgress(name, 0))

    def _finish(self, name: str) -> StageProgress:
        stage = self._stage(name)
        stage.done += 1
        stage.first = stage.first or self.clock
        stage.last = self.clock
        return stage


def progress_line(stage: StageProgress, run: RunProgress, gpu: str = "") -> str:
    """Return a stage as a line: done of total, rate, time left, GPU use, the whole run."""
    parts = [f"{stage.name:<24}{stage.done:>5} of {stage.total:<5}"]
    if stage.rate and stage.done < stage.total:
        parts.append(f"{60 * stage.rate:.3g} a minute, {duration(stage.seconds_left)} left")
    if stage.failed:
        parts.append(f"{stage.failed} FAILED")
    if gpu:
        parts.append(gpu)
    parts.append(f"all stages {run.done} of {run.total}")
    return "  ".join(parts)


def duration(seconds: float | None) -> str:
    """Return a rough time for reading; a dash where it is unknown."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def gpu_use() -> str:
    """Return use and memory of this machine's GPUs; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, _GPU_QUERY, "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    cards = [line.split(",") for line in result.stdout.splitlines() if line.count(",") == 2]
    try:
        return "; ".join(
            f"GPU {int(use)} %, {int(used) / 1024:.1f} of {int(total) / 1024:.0f} GiB"
            for use, used, total in cards
        )
    except ValueError:  # a card that does not tell, such as one cut into instances
        return ""


@dataclass
class LinePicker:
    """Tells which finished jobs are worth a line, so that there are few.

    Attributes:
        pause: seconds between two lines about unfinished stages.
    """

    pause: float = 30.0
    _printed: float = field(default_factory=time.monotonic)

    def is_due(self, stage: StageProgress) -> bool:
        """Return whether a stage is done, has a failure, or none was shown for the pause."""
        now = time.monotonic()
        if stage.failed or stage.done >= stage.total or now - self._printed >= self.pause:
            self._printed = now
            return True
        return False


@dataclass
class ProgressPrinter:
    """Turns a growing log into few lines: when a stage is done, else now and then.

    Attributes:
        log: the file that Snakemake writes.
        pause: seconds between two lines about unfinished stages.
    """

    log: Path
    pause: float = 30.0
    run: RunProgress = field(default_factory=RunProgress)
    _place: int = 0
    _rest: str = ""

    def __post_init__(self) -> None:
        """Begin the first pause."""
        self._picker = LinePicker(self.pause)

    def lines(self) -> Iterator[str]:
        """Yield what is worth a line since the last call."""
        for stage in self.run.feed(self._new_lines()):
            if self._picker.is_due(stage):
                yield progress_line(stage, self.run, gpu_use())

    def _new_lines(self) -> list[str]:
        with self.log.open("rb") as stream:
            stream.seek(self._place)
            data = stream.read()
            self._place = stream.tell()
        *whole, self._rest = (self._rest + data.decode("utf-8", "replace")).split("\n")
        return whole
