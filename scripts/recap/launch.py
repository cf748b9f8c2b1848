"""Starting Snakemake for people: one run at a time, stale locks cleared, a verdict at the end."""

import contextlib
import fcntl
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .cluster.locks import clear_stale_lock, controllers
from .cluster.torchrun import own_lines
from .errors import RecapError, StoppedByUserError
from .progress import ProgressPrinter

logger = logging.getLogger(__name__)

RUN_LOCK = Path(".snakemake/recap.lock")
RUN_LOG = Path(".snakemake/recap.log")
_POLL_SECONDS = 0.5


@contextmanager
def only_run() -> Iterator[int]:
    """Hold the lock that says a run is in progress in this folder.

    Yields:
        The lock's file descriptor. Children that inherit it hold the lock too,
        so that it outlives a launcher that was killed alone.

    Raises:
        RecapError: if another run holds it, or a plain ``snakemake`` is alive here.
    """
    RUN_LOCK.parent.mkdir(exist_ok=True)
    with RUN_LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecapError("another run is in progress in this folder; let it finish") from error
        alive = controllers()
        if alive:
            raise RecapError(f"Snakemake runs in this folder already (process {alive[0]}); wait")
        yield lock.fileno()


def snakemake(lock: int, *arguments: str) -> int:
    """Run Snakemake, which inherits the run's lock; return its exit code.

    What it writes goes to ``RUN_LOG``: not to a pipe, so that it goes on if the
    launcher alone is killed. Of that, one line a stage is shown.

    Raises:
        StoppedByUserError: on Ctrl-C, once Snakemake has ended.
    """
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = ["snakemake", *arguments]
    with RUN_LOG.open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, pass_fds=(lock,), stdout=log, stderr=subprocess.STDOUT
        )
    printer, code = ProgressPrinter(RUN_LOG), None
    try:
        while code is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(_POLL_SECONDS)
            for line in printer.lines():
                sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
                sys.stdout.flush()
    except KeyboardInterrupt:
        _let_end(process)
        raise StoppedByUserError from None
    if printer.run.nothing_to_do:
        sys.stdout.write("Nothing to be done: every result is there and up to date\n")
    return code


def _let_end(process: subprocess.Popen[bytes]) -> None:
    """Wait for Snakemake, which the terminal told to stop too; a second Ctrl-C kills it."""
    sys.stderr.write("\nstopping: jobs are being ended; Ctrl-C again to not wait for them\n")
    try:
        process.wait()
    except KeyboardInterrupt:
        process.kill()
        process.wait()


def failed_logs(folder: Path, since: float) -> list[Path]:
    """Return the job logs written since a time that end in an error, oldest first."""
    recent = [path for path in folder.rglob("*.log") if path.stat().st_mtime >= since]
    failed = [path for path in recent if re.search(r" ERROR |error:|Traceback", _tail(path))]
    return sorted(failed, key=lambda path: path.stat().st_mtime)


def _tail(path: Path, lines: int = 20) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    return "\n".join(own_lines(text).splitlines()[-lines:])


def run_experiment(experiment: str) -> None:
    """Run an experiment on this machine and print where its report is.

    A run that was killed leaves Snakemake's own lock behind, which is cleared if
    it was of this machine.

    Raises:
        RecapError: if the run did not finish.
        StoppedByUserError: on Ctrl-C.
    """
    common = ("--profile", "profiles/local", "--config", f"experiment={experiment}")
    again = f"make demo EXPERIMENT={experiment}"
    started = time.time()
    try:
        with only_run() as lock:
            if clear_stale_lock():
                logger.warning("the last run was interrupted; finished results are kept")
            sys.stdout.write(
                f"Experiment {experiment}: one line a stage; all else is in {RUN_LOG}. "
                "Ctrl-C stops it, and keeps what is done.\n"
            )
            sys.stdout.flush()
            code = snakemake(lock, *common, "--quiet", "rules", "reason", "host")
    except StoppedByUserError:
        raise StoppedByUserError(
            f"stopped. Finished jobs are kept, and so are the captions, checkpoints and answers of "
            f"those that were stopped; nothing half-written is left. To go on: {again}"
        ) from None
    if code:
        shown = failed_logs(Path("logs"), started) or [RUN_LOG]
        for log in shown:
            sys.stderr.write(f"\n{log}:\n{_tail(log)}\n")
        raise RecapError(
            f"experiment `{experiment}` did not finish (exit code {code}); the logs of what failed "
            f"end above, Snakemake's own is {RUN_LOG}. What is done is kept: fix the cause and "
            f"go on with: {again}"
        )
    report = Path("results") / experiment / "report"
    verdict = (report / "verdict.txt").read_text(encoding="utf-8").strip()
    sys.stdout.write(f"\nReport:  {report / 'report.html'}\nVerdict: {verdict}\n")
