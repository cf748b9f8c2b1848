"""Reading the sheets of ``config/``: tab-separated rows checked against a schema."""

import csv
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ..errors import RecapError
from ..settings import Settings, explain

Row = TypeVar("Row", bound=Settings)


def read_sheet(path: str | Path, key: str, model: type[Row]) -> dict[str, Row]:
    """Read a sheet into rows by the value of its ``key`` column.

    Lines starting with ``#`` are comments. Empty cells are left out, so that
    the schema's defaults apply.

    Raises:
        RecapError: naming file, line and column of whatever is wrong.
    """
    if not Path(path).is_file():
        raise RecapError(f"sheet {path} does not exist; see `sheets` in the configuration")
    rows: dict[str, Row] = {}
    with Path(path).open(encoding="utf-8", newline="") as stream:
        numbered = [(n, line) for n, line in enumerate(stream, 1) if line[:1] != "#"]
    reader = csv.DictReader((line for _, line in numbered), delimiter="\t")
    for (number, _), cells in zip(numbered[1:], reader, strict=False):
        if None in cells or None in cells.values():
            raise RecapError(f"{path}, line {number}: not as many cells as columns")
        values = {column: cell.strip() for column, cell in cells.items() if cell.strip()}
        name = values.pop(key, None)
        if name is None:
            raise RecapError(f"{path}, line {number}: column `{key}` is empty or missing")
        if name in rows:
            raise RecapError(f"{path}, line {number}: `{name}` is listed twice")
        try:
            rows[name] = model.model_validate(values)
        except ValidationError as error:
            raise RecapError(f"{path}, line {number} ({name}): {explain(error)}") from error
    return rows
