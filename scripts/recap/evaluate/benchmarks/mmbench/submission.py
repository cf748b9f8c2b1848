"""The table that MMBench's server takes, as LLaVA's converter writes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...spreadsheet import Cell, write_spreadsheet

SUBMITTED = ("index", "question", "A", "B", "answer")
_COLUMNS = ("index", "question", "A", "B", "C", "D", "answer", "split")
_PREDICTION = 6


def write_table(rows: Sequence[Mapping[str, str]], given: Mapping[int, str], out: Path) -> None:
    """Write ``index, question, A, B, C, D, prediction, answer, split`` as xlsx.

    Those are the columns of the question table without ``hint``, ``category``,
    ``source``, ``image``, ``comment`` and ``l2-category``, with the raw answers
    inserted (LLaVA, ``convert_mmbench_for_submission.py``). Cells are written as
    the table has them: an option ``None``, which upstream leaves empty, stays.

    Args:
        rows: the question table.
        given: the answer by index, one to every row.
        out: the file.
    """
    columns = [name for name in _COLUMNS if name in rows[0]]
    header = [*columns[:_PREDICTION], "prediction", *columns[_PREDICTION:]]
    table: list[list[Cell]] = []
    for row in rows:
        index = int(row["index"])
        cells: dict[str, Cell] = {**row, "index": index, "prediction": given[index]}
        table.append([cells[name] for name in header])
    write_spreadsheet(out, header, table)
