"""Reading the sheets of ``config/``: tab-separated rows checked against a schema."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ..errors import RecapError
from ..settings import Settings, explain
from .names import require_name

Row = TypeVar("Row", bound=Settings)


def read_sheet(
    path: str | Path, key: str, model: type[Row], names: str | None = None
) -> dict[str, Row]:
    """Read a sheet into rows by the value of its ``key`` column.

    Lines starting with ``#`` are comments. Empty cells are left out, so that
    the schema's defaults apply. Quotes are characters like any other.

    Args:
        path: of the sheet.
        key: the column that names the rows.
        model: schema of a row.
        names: pattern of a row's name, where it becomes a part of paths.

    Raises:
        RecapError: naming file, line and column of whatever is wrong.
    """
    if not Path(path).is_file():
        raise RecapError(f"sheet {path} does not exist; see `sheets` in the configuration")
    rows: dict[str, Row] = {}
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    numbered = [(n, line.split("\t")) for n, line in enumerate(lines, 1) if _holds_cells(line)]
    columns = [column.strip() for column in numbered[0][1]] if numbered else []
    for number, cells in numbered[1:]:
        if len(cells) != len(columns):
            raise RecapError(f"{path}, line {number}: not as many cells as columns")
        pairs = zip(columns, cells, strict=True)
        values = {column: cell.strip() for column, cell in pairs if cell.strip()}
        name = values.pop(key, None)
        if name is None:
            raise RecapError(f"{path}, line {number}: column `{key}` is empty or missing")
        if name in rows:
            raise RecapError(f"{path}, line {number}: `{name}` is listed twice")
        try:
            if names is not None:
                require_name(name, names)
            rows[name] = model.model_validate(values)
        except ValidationError as error:
            raise RecapError(f"{path}, line {number} ({name}): {explain(error)}") from error
        except ValueError as error:
            raise RecapError(f"{path}, line {number}: `{key}`: {error}") from error
    return rows


def _holds_cells(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")
