"""Reading MMBench's tables: the question TSV, and its keys alone as CSV or TSV."""

import base64
import binascii
import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ....errors import RecapError
from ....hashing import sha256_bytes

LETTERS = "ABCD"
ROTATION = 1_000_000
"""Rotation r of base question b is the row with index b + r * ROTATION."""

# An image cell this short is the index of the row that holds the picture.
_LONGEST_REFERENCE = 64


def read_rows(path: Path, required: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Return (line, cells by column) of a table, cells as they are written.

    A record whose cells hold line breaks goes by its last line.

    No cell becomes a missing value on its own: an option whose text is ``NA``
    stays one.

    Raises:
        RecapError: if the file is missing, lacks a column, or an index is not a
            number or is there twice.
    """
    rows = []
    seen: set[int] = set()
    for number, row in _records(path):
        where = f"{path}, line {number} (index {row.get('index', 'missing')})"
        missing = [name for name in required if row.get(name) is None]
        if missing:
            raise RecapError(f"{where}: lacks {', '.join(missing)}")
        if None in row:
            raise RecapError(f"{where}: more cells than columns; is a cell's quote missing?")
        if not row["index"].isdecimal():
            raise RecapError(f"{where}: the index is not a number")
        if int(row["index"]) in seen:
            raise RecapError(f"{where}: the index is there twice")
        seen.add(int(row["index"]))
        rows.append((number, row))
    return rows


def picture_key(index: int, rows: Mapping[int, Mapping[str, str]]) -> str:
    """Return a name that rows with the same picture share; the index if a table has none."""
    cell = rows[index].get("image") or ""
    if len(cell) <= _LONGEST_REFERENCE and cell.isdecimal() and int(cell) in rows:
        cell = rows[int(cell)].get("image") or ""
    return sha256_bytes(cell.encode()) if cell else str(index)


def _records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    if not path.is_file():
        raise RecapError(f"{path} does not exist")
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as stream:
        separator = "\t" if "\t" in stream.readline() else ","
        stream.seek(0)
        try:
            reader = csv.DictReader(stream, delimiter=separator)
            for row in reader:
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise RecapError(f"{path} is not a table in UTF-8: {error}") from error


def is_empty(cell: str | None) -> bool:
    """Say whether upstream takes a cell for empty: missing, or nan or none in any case."""
    return cell is None or cell == "" or cell.lower() in ("nan", "none")


def options_of(row: Mapping[str, str]) -> list[str]:
    """Return the leading non-empty options; the first empty one ends them."""
    options: list[str] = []
    for letter in LETTERS:
        if is_empty(row.get(letter)):
            break
        options.append(row[letter])
    return options


class ImageCells:
    """The encoded pictures of a table, each distinct one held once."""

    def __init__(self, path: Path, rows: list[tuple[int, dict[str, str]]]) -> None:
        """Take the rows of :func:`read_rows`."""
        self._path = path
        self._cells = {row["index"]: (number, row["image"]) for number, row in rows}
        self.images: dict[str, bytes] = {}

    def name(self, index: str) -> str:
        """Return the name of a row's picture, after decoding it.

        Raises:
            RecapError: if the cell is neither base64 nor the index of a row that is.
        """
        number, cell = self._cells[index]
        if len(cell) <= _LONGEST_REFERENCE and cell in self._cells:
            number, cell = self._cells[cell]
        try:
            data = base64.b64decode(cell, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RecapError(
                f"{self._path}, line {number} (index {index}): the image is not base64 ({error})"
            ) from error
        name = sha256_bytes(data)
        self.images.setdefault(name, data)
        return name
