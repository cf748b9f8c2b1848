"""What a run writes down update by update.

``telemetry.jsonl`` is free of times, so that a resumed run writes the same
bytes; what depends on the machine is in a log of its own.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..io import read_jsonl, write_jsonl
from .stability import SPIKE_WINDOW, is_spike

TELEMETRY_NAME = "telemetry.jsonl"
PERF_NAME = "perf.jsonl"
HELD_OUT_NAME = "held_out.jsonl"


class RowLog:
    """All rows of one kind, and a live copy that can be watched while the run goes on."""

    def __init__(self, name: str, folder: Path | None) -> None:
        """Start empty; a file ``name`` in ``folder`` is rewritten now and appended to."""
        self.rows: list[dict[str, Any]] = []
        self.name = name
        self._live_path = None if folder is None else folder / name
        self._rewrite_live()

    def append(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self.rows.append(row)
        if self._live_path is not None:
            with self._live_path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row, allow_nan=False) + "\n")

    def restore(self, checkpoint: Path) -> None:
        """Take over the rows that a checkpoint holds."""
        self.rows = read_jsonl(checkpoint / self.name)
        self._rewrite_live()

    def save(self, folder: Path) -> None:
        """Write every row into a checkpoint."""
        write_jsonl(folder / self.name, self.rows)

    def _rewrite_live(self) -> None:
        if self._live_path is not None:
            write_jsonl(self._live_path, self.rows)


class Telemetry:
    """The logs of a run.

    Attributes:
        updates: ``step`` (from 1), ``loss`` (mean over the update's supervised
            tokens), ``grad_norm`` (before clipping), ``learning_rate`` (after the
            scheduler's step, as trainers log it), ``supervised_tokens``,
            ``samples``, ``spike`` (see :mod:`.stability`).
        perf: of the same updates ``seconds``, ``samples_per_second``,
            ``tokens_per_second`` (text and image, padding apart), ``loading_seconds``
            (waited for inputs), ``communication_seconds`` (for other ranks), ``memory_mib``
            (peak so far: reserved on a GPU, resident on a CPU) and
            ``micro_batch_size`` (and ``micro_batch_asked``, before memory ran out), as rank zero
            saw them.
        held_out: ``step``, ``style``, ``samples``, ``supervised_tokens``, ``loss``
            (mean over those tokens) and ``ids_sha256`` of each evaluation.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Start empty; ``folder`` gets live copies."""
        self.updates = RowLog(TELEMETRY_NAME, folder)
        self.perf = RowLog(PERF_NAME, folder)
        self.held_out = RowLog(HELD_OUT_NAME, folder)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of all updates so far."""
        return self.updates.rows

    def append(self, row: dict[str, Any]) -> None:
        """Add the row of an update, marked as a spike or not."""
        spike = is_spike([earlier["loss"] for earlier in self.rows[-SPIKE_WINDOW:]], row["loss"])
        self.updates.append({**row, "spike": spike})

    def restore(self, checkpoint: Path) -> None:
        """Take over what a checkpoint holds."""
        for log in self._logs():
            log.restore(checkpoint)

    def save(self, folder: Path) -> None:
        """Write everything into a checkpoint."""
        for log in self._logs():
            log.save(folder)

    def write(self, path: Path, every: int) -> None:
        """Write the result: the first, the last, each ``every``-th update and every spike."""
        last = self.rows[-1]["step"] if self.rows else 0
        write_jsonl(path, _thinned(self.rows, every, last))

    def _logs(self) -> tuple[RowLog, ...]:
        return (self.updates, self.perf, self.held_out)


def _thinned(rows: list[dict[str, Any]], every: int, last: int) -> Iterable[dict[str, Any]]:
    return (
        row for row in rows if row["step"] in (1, last) or row["step"] % every == 0 or row["spike"]
    )
