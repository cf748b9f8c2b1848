"""Progress under plain Snakemake: a line a stage among what it writes itself.

A log handler in the main process, which sees each job end in the order and at the time that
Snakemake does, whatever the executor. Tested with the pinned Snakemake.
"""

import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

from snakemake_interface_logger_plugins.common import LogEvent

from .progress import LinePicker, RunProgress, gpu_use, progress_line

logger = logging.getLogger("snakemake.logging")


class LiveProgress(logging.Handler):
    """Writes done of total, rate, time left and GPU use when a stage is worth a line."""

    def __init__(self, out: TextIO | None = None, pause: float = 30.0) -> None:
        """Write to a stream.

        Args:
            out: where lines go; standard error, beside Snakemake's own, if none is given.
            pause: seconds between two lines about unfinished stages.
        """
        super().__init__(logging.INFO)
        self._out = out or sys.stderr
        self._picker = LinePicker(pause)
        self._run = RunProgress()
        # Asking the GPUs takes up to seconds, which the scheduler must not wait for.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="progress")

    def start(self, workflow: Any) -> None:
        """Before the first job: count what there is to do, and listen from now on."""
        counts, _ = workflow.dag.stats()
        list(self._run.feed([*counts.splitlines(), ""]))
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record of Snakemake's log."""
        if getattr(record, "event", None) not in (LogEvent.JOB_FINISHED, LogEvent.JOB_ERROR):
            return
        try:
            self._run.clock = record.created
            for stage in self._run.feed([record.getMessage()]):
                if self._picker.is_due(stage):
                    line = progress_line(stage, self._run)
                    self._writer.submit(self._write, time.strftime("%H:%M:%S"), line)
        except Exception:  # the run must not end because its progress can't be told
            self.handleError(record)

    def close(self) -> None:
        """Write what is left."""
        self._writer.shutdown()
        super().close()

    def _write(self, moment: str, line: str) -> None:
        use = gpu_use()
        self._out.write(f"{moment}  {line}{'  ' if use else ''}{use}\n")
        self._out.flush()
