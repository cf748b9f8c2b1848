"""Looking at every failure while Snakemake runs, so that only what can help is tried again.

Snakemake knows one number of retries and asks nobody. It logs each failure, though, in the
thread that reports it and before it decides, and it decides by the job's ``attempt``: a log
handler in the main process is all that is needed. Tested with the pinned Snakemake.
"""

import logging
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

from ..errors import EXIT_BUG
from .failures import CLASSES, Evidence, classify, find_exit_code, updates_made
from .records import Failure, FailureLog, job_key
from .slurm import QueuePause, job_facts, wait_for_controller
from .torchrun import own_lines, rank_exit_code

logger = logging.getLogger("snakemake.logging")

TAIL_LINES = 12
_SLURM_LOG = re.compile(r"/(\d+)\.log$")
# Of retries that count for nothing: a mistake of ours must not go on for ever.
MOST_FREE_RETRIES = 50
OUTAGE_SECONDS = 3600.0


class FailureWatch(logging.Handler):
    """Notes each failure of a run, and decides whether the job is tried again."""

    def __init__(
        self, running: Callable[[], set[Any]], avoid: Callable[[str], None], log: FailureLog
    ) -> None:
        """Watch.

        Args:
            running: returns Snakemake's jobs under way, each with ``attempt`` and
                ``restart_times``.
            avoid: is told the nodes that no further job should go to.
            log: where failures are kept.
        """
        super().__init__(logging.ERROR)
        self.log = log
        self._avoid = avoid
        self._running = running
        self._said = threading.local()
        self._queue = QueuePause()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record of Snakemake's log."""
        event = getattr(record, "event", None)
        if event in (None, LogEvent.ERROR):
            # What failed, with its exit code, comes just before the job in the same thread.
            self._said.text = record.getMessage()
            return
        if event not in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR):
            return
        try:
            job = self._job(record)
            if job is not None:
                self._take(job, record)
        except Exception:  # the run must not end because its failures can't be explained
            self.handleError(record)
        finally:
            self._said.text = ""

    def _job(self, record: logging.LogRecord) -> Any:
        """Return the submission that a record is about; None for a member of a group."""
        group = getattr(record, "groupid", None)
        for job in list(self._running()):
            if job.is_group():
                if group is not None and job.groupid == group and _is_it(job, record):
                    return job
            elif group is None and job.jobid == getattr(record, "jobid", None):
                return job
        return None

    def _take(self, job: Any, record: logging.LogRecord) -> None:
        failure = self._explain(job, record)
        earlier = self.log.of(failure.members)
        reaction = CLASSES[failure.kind]
        free = self._is_free(failure, earlier)
        if failure.kind == "slurm_unreachable":
            wait_for_controller(OUTAGE_SECONDS)
        elif failure.kind == "queue_full":
            self._queue.wait(tuple(failure.members))
        if reaction.avoid_node:
            for node in _blamed_nodes(failure):
                self._avoid(node)
        retries = job.restart_times
        failure.final = not reaction.retry or (not free and job.attempt > retries)
        self.log.add(failure)
        if failure.final:
            # Snakemake tries again while `attempt` is at most `restart_times`.
            job.attempt = max(job.attempt, retries + 1)
        elif free:
            job.attempt -= 1

    def _is_free(self, failure: Failure, earlier: list[Failure]) -> bool:
        """Return whether the next attempt uses up none of the retries."""
        if len(earlier) >= MOST_FREE_RETRIES:
            return False
        if failure.kind == "stopped" and failure.updates is not None:
            # Training that gets on will end, however often its time is up.
            return failure.updates > max((one.updates or 0 for one in earlier), default=0)
        return not CLASSES[failure.kind].counted

    def _explain(self, job: Any, record: logging.LogRecord) -> Failure:
        members = sorted(job.jobs, key=str) if job.is_group() else [job]
        own = [str(path) for member in members for path in member.log]
        others = [*getattr(record, "aux_logs", []), *getattr(record, "log", [])]
        slurm_log = next((path for path in map(str, others) if _is_slurm_log(path, own)), "")
        number = match[1] if (match := _SLURM_LOG.search(slurm_log)) else ""
        facts = job_facts(number)
        scheduler_log = _read_tail(slurm_log, 200)
        blamed = [path for path in own if not _ended_well(path)] if job.is_group() else own
        whole_log = "\n".join(_read_tail(path, 200) for path in blamed)
        job_log = own_lines(whole_log)
        said = getattr(self._said, "text", "")
        message = str(getattr(record, "rule_msg", None) or "")
        code = find_exit_code(scheduler_log if slurm_log else said)
        if code == EXIT_BUG:  # torchrun's whatever its ranks end with
            code = rank_exit_code(whole_log) or code
        kind = classify(Evidence(facts.state, message, scheduler_log, job_log, code))
        shown = job_log.strip() or _slurm_lines(scheduler_log) or said or message
        return Failure(
            rule=str(job.groupid) if job.is_group() else job.rule.name,
            wildcards={} if job.is_group() else dict(job.wildcards_dict),
            kind=kind,
            attempt=job.attempt,
            node=facts.node,
            slurm_job=number,
            state=facts.state,
            exit_code=code,
            log=next(iter(blamed), slurm_log),
            log_tail=shown.splitlines()[-TAIL_LINES:],
            advice=CLASSES[kind].advice,
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            updates=updates_made(job_log),
            members=[f"{one.rule.name}:{job_key(one.wildcards_dict)}" for one in members],
        )


def _blamed_nodes(failure: Failure) -> list[str]:
    """Return the nodes that a preflight names, else the job's own."""
    named = re.findall(r"\bnode (\S+): ", "\n".join(failure.log_tail))
    return sorted(set(named)) or ([failure.node] if failure.node else [])


def _is_it(job: Any, record: logging.LogRecord) -> bool:
    """Return whether a group's record is about this one of the group's submissions."""
    listed = {info["jobid"] for info in getattr(record, "job_error_info", [])}
    return {member.jobid for member in job.jobs} == listed


def _is_slurm_log(path: str, own: list[str]) -> bool:
    return path not in own and bool(_SLURM_LOG.search(path))


def _read_tail(path: str, lines: int) -> str:
    """Return the end of a text file, nothing if there is none."""
    if not path:
        return ""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _slurm_lines(text: str) -> str:
    """Return what SLURM itself wrote into a job's output, else all of it."""
    lines = [line for line in text.splitlines() if re.match(r"slurmstepd|srun: ", line)]
    return "\n".join(lines) or text.strip()


def _ended_well(path: str) -> bool:
    """Return whether a member of a group left no trace of an error."""
    tail = _read_tail(path, 40)
    return not re.search(r" ERROR |Traceback|[Ee]rror:|stopped |[Kk]illed", tail)
