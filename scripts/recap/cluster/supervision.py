"""What happens around a run: before its first job, at each failure, and at its end.

Snakemake calls these hooks in its main process only, and not in dry runs.
"""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from .digest import failure_digest
from .locks import clear_stale_lock, note_controller
from .records import FailureLog, job_key
from .requeued import requeued_failures
from .slurm import LiveJob, live_jobs, requeued_attempts
from .watch import FailureWatch

logger = logging.getLogger("snakemake.logging")

_PAUSE_SECONDS = 10.0


class Supervision:
    """Looks after one run of the workflow."""

    def __init__(self, workflow: Any, failures: Path) -> None:
        """Look after ``workflow``, Snakemake's, and list its failures in a file."""
        self._workflow = workflow
        self._started = time.time()
        self._log = FailureLog(failures)
        if workflow.is_main_process and clear_stale_lock():
            logger.warning("The last run here was killed; its lock is removed, its results stay.")

    def start(self) -> None:
        """Before the first job: let an earlier run's jobs end, then watch this one's."""
        note_controller()
        if self._workflow.executor_plugin.name == "slurm":
            self._await_earlier_jobs()
        self._log.clear()
        self._started = time.time()
        logger.addHandler(FailureWatch(self._running, self._avoid, self._log))

    def finish(self) -> None:
        """After the last job: say what failed, and what to do."""
        try:
            self._conclude()
        except Exception:  # the results are there: what is said about them must not fail the run
            logger.exception("The list of failures could not be finished.")

    def _conclude(self) -> None:
        if self._workflow.executor_plugin.name == "slurm":
            attempts = requeued_attempts(Path.cwd(), self._started)
            self._log.insert(requeued_failures(attempts, self._workflow.dag.jobs))
        failed = [member for job in self._workflow.scheduler.failed for member in _members(job)]
        self._log.settle(set(failed))
        digest = failure_digest(self._log.failures)
        if digest:
            sys.stderr.write(f"\n{digest}\nAll of it: {self._log.path}\n\n")

    def _running(self) -> set[Any]:
        return self._workflow.scheduler.running

    def _avoid(self, node: str) -> None:
        """Keep further jobs from a node, as the plugin does where it notices itself."""
        excluded = getattr(self._workflow.scheduler._executor, "_failed_nodes", None)
        if excluded is not None:
            excluded.add(node)

    def _await_earlier_jobs(self) -> None:
        """Wait for jobs that a Snakemake which is gone left behind, then start anew.

        Submitting their work again would have two jobs write the same files. What they will
        have finished is not to be done again, so the plan is made again after them.
        """
        folder = Path.cwd()
        left = live_jobs(folder)
        if not left:
            return
        numbers = " ".join(job.number for job in left)
        # Snakemake's formatter takes messages as they are, without arguments.
        logger.warning(
            f"An earlier run of this folder left {len(left)} jobs behind: {_described(left)}. "
            "Waiting until they end, so that nothing is done twice. To do without them: "
            f"scancel {numbers}"
        )
        while live_jobs(folder):
            time.sleep(_PAUSE_SECONDS)
        logger.warning("They have ended; starting again with what they finished.")
        self._workflow.persistence.unlock()
        sys.stderr.flush()
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606


def _members(job: Any) -> list[str]:
    jobs = job.jobs if job.is_group() else [job]
    return [f"{one.rule.name}:{job_key(one.wildcards_dict)}" for one in jobs]


def _described(jobs: list[LiveJob]) -> str:
    return ", ".join(f"{job.number} ({job.what}, {job.state.lower()})" for job in jobs)
