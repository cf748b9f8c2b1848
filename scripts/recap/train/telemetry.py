"""One row an update, free of times, so that a resumed run writes the same bytes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..io import read_jsonl, write_jsonl

TELEMETRY_NAME = "telemetry.jsonl"


class Telemetry:
    """All rows of a run, and a live copy that can be watched while it runs.

    Row: ``step`` (from 1), ``loss`` (mean over the update's supervised tokens),
    ``grad_norm`` (before clipping), ``learning_rate`` (after the scheduler's
    step, as trainers log it), ``supervised_tokens``, ``samples``.
    """

    def __init__(self, live_path: Path | None = None) -> None:
        """Start empty; ``live_path`` is rewritten now and appended to with each row."""
        self.rows: list[dict[str, Any]] = []
        self._live_path = live_path
        self._rewrite_live()

    def append(self, row: dict[str, Any]) -> None:
        """Add the row of an update."""
        self.rows.append(row)
        if self._live_path is not None:
            with self._live_path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row, allow_nan=False) + "\n")

    def restore(self, checkpoint: Path) -> None:
        """Take over the rows that a checkpoint holds."""
        self.rows = read_jsonl(checkpoint / TELEMETRY_NAME)
        self._rewrite_live()

    def save(self, folder: Path) -> None:
        """Write every row into a checkpoint."""
        write_jsonl(folder / TELEMETRY_NAME, self.rows)

    def write(self, path: Path, every: int) -> None:
        """Write the result: the first, the last and each ``every``-th update."""
        last = self.rows[-1]["step"] if self.rows else 0
        write_jsonl(path, _thinned(self.rows, every, last))

    def _rewrite_live(self) -> None:
        if self._live_path is not None:
            write_jsonl(self._live_path, self.rows)


def _thinned(rows: list[dict[str, Any]], every: int, last: int) -> Iterable[dict[str, Any]]:
    return (row for row in rows if row["step"] in (1, last) or row["step"] % every == 0)
