"""The table of statistics: names of columns, writing and reading.

One row a record (column ``id``), one column a statistic. The Parquet metadata
say which operator wrote which columns, so that thresholds find their statistics
again whatever the order of a recipe.
"""

import json
from array import array
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import digest_json
from ..io import atomic_path
from .recipe import Operator, measurement, name_of, params_of

_METADATA_KEY = b"recap_operators"
# Parameters that never tell two columns of one recipe apart in practice.
_SILENT = {"lang": "en", "tokenization": False, "trust_remote_code": False}
_SILENT_ALWAYS = (
    "hf_watermark_model",
    "hf_clip",
    "hf_blip",
    "hf_scorer_model",
    "hf_nsfw_model",
)


@dataclass(frozen=True)
class StatisticsTable:
    """Statistics of one shard.

    Attributes:
        ids: record ids, in order.
        columns: column name to one value a record (number, or list of numbers).
        operators: digest of a measurement to its ``{statistic: column}``.
    """

    ids: list[str]
    columns: dict[str, list[Any]]
    operators: dict[str, dict[str, str]]

    def columns_of(self, operator: Operator) -> dict[str, str]:
        """Return ``{statistic: column}`` of an operator, thresholds disregarded.

        Raises:
            RecapError: if the operator was not measured.
        """
        found = self.operators.get(operator_key(operator))
        if found is None:
            raise RecapError(
                f"{name_of(operator)} with {params_of(measurement(operator))} was not measured; "
                "pass the same recipe to measure_shard.py"
            )
        return found


def operator_key(operator: Operator) -> str:
    """Return what identifies a measurement: its name and measurement parameters."""
    return digest_json(measurement(operator))


def column_name(statistic: str, operator: Operator) -> str:
    """Return a column's name, such as ``word_rep_ratio[rep_len=3]``.

    Parameters follow in brackets, sorted; language, tokenisation and model
    names are left out where they have their usual value.
    """
    params = params_of(measurement(operator))
    shown = [
        f"{key}={json.dumps(params[key]) if not isinstance(params[key], str) else params[key]}"
        for key in sorted(params)
        if key not in _SILENT_ALWAYS and (key not in _SILENT or params[key] != _SILENT[key])
    ]
    return f"{statistic}[{','.join(shown)}]" if shown else statistic


def write_statistics(path: str | Path, table: StatisticsTable) -> None:
    """Write a table as Parquet, atomically and byte for byte reproducibly."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {"id": _strings(table.ids)}
    for name, values in table.columns.items():
        arrays[name] = _column(values)
    metadata = {_METADATA_KEY: json.dumps(table.operators, sort_keys=True).encode()}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(arrays).replace_schema_metadata(metadata), temporary)


def _strings(values: list[str]) -> Any:
    import pyarrow as pa

    builder = pa.lib.StringBuilder()
    builder.append_values(values)
    return builder.finish()


def _column(values: list[Any]) -> Any:
    """Return the Arrow array that ``pa.array`` makes of numbers, or of lists of numbers.

    Numbers are handed over as buffers: ``pa.array`` imports pandas, which takes
    longer than all else that is done to a small shard.
    """
    import pyarrow as pa

    if values and all(type(value) is list for value in values):
        numbers = _numbers(list(chain.from_iterable(values)))
        if numbers is not None:
            ends = array("i", accumulate(map(len, values), initial=0))
            offsets = pa.Array.from_buffers(pa.int32(), len(ends), [None, pa.py_buffer(ends)])
            return pa.ListArray.from_arrays(offsets, numbers)
    numbers = _numbers(values)
    return pa.array(values) if numbers is None else numbers


def _numbers(values: list[Any]) -> Any:
    """Return an array of int64 or of float64, or ``None`` where values are neither or mixed."""
    import pyarrow as pa

    kinds = {type(value) for value in values}
    if kinds not in ({int}, {float}):
        return None
    code, kind = ("q", pa.int64()) if kinds == {int} else ("d", pa.float64())
    try:
        packed = array(code, values)
    except OverflowError:
        return None
    return pa.Array.from_buffers(kind, len(packed), [None, pa.py_buffer(packed)])


def read_statistics(path: str | Path) -> StatisticsTable:
    """Read a table written by :func:`write_statistics`.

    Raises:
        RecapError: if the file is missing or was not written here.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # `pq.read_table` would import pandas.
        table = pq.ParquetFile(path).read()
        operators = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        columns = table.to_pydict()
        ids = columns.pop("id")
    except FileNotFoundError as error:
        raise RecapError(f"{path} does not exist") from error
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise RecapError(f"{path} is not a table of measure_shard.py: {error}") from error
    return StatisticsTable(ids, columns, operators)
