"""Applying a recipe's thresholds to stored statistics, in recipe order."""

from pathlib import Path
from typing import Any

from ..errors import GateError, RecapError
from ..io import write_json, write_jsonl
from .juicer import apply_thresholds, load_filter
from .native import native_filter
from .recipe import Operator, is_threshold, name_of, params_of
from .records import Record, read_records
from .statistics import StatisticsTable, read_statistics


def select_shard(
    records: str | Path,
    *,
    stats: str | Path,
    operators: list[Operator],
    kept: str | Path,
    drops: str | Path,
    counts: str | Path,
) -> dict[str, Any]:
    """Write the records that pass every operator, and why the others do not.

    Args:
        records: the records that were measured.
        stats: their statistics.
        operators: full operators, from :func:`recap.curate.recipe.thresholds`.
        kept: surviving records, in order and unchanged.
        drops: one line a dropped record: ``id``, ``operator``, ``statistic``,
            ``value``, ``bound``, of the first operator that refuses it.
        counts: records in and out, as a whole and an operator; also returned.

    Raises:
        RecapError: if records and statistics do not belong together.
        GateError: if records were lost.
    """
    rows = read_records(records)
    table = read_statistics(stats)
    if table.ids != [row["id"] for row in rows]:
        raise RecapError(f"{stats} does not hold the ids of {records}, in order; measure again")
    survivors, dropped, steps = select(rows, table, operators)
    if len(survivors) + len(dropped) != len(rows):
        raise GateError(
            f"{records}: {len(rows)} records in, {len(survivors)} kept, {len(dropped)} dropped"
        )
    summary = {
        "records_in": len(rows),
        "records_out": len(survivors),
        "rejected": len(dropped),
        "operators": steps,
    }
    write_jsonl(kept, survivors)
    write_jsonl(drops, dropped)
    write_json(counts, summary)
    return summary


def select(
    rows: list[Record], table: StatisticsTable, operators: list[Operator]
) -> tuple[list[Record], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return kept records, drops, and counts an operator."""
    alive = list(range(len(rows)))
    drops: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for operator in operators:
        before = len(alive)
        verdicts = _verdicts(operator, table, alive) if alive else []
        for index, keep in zip(alive, verdicts, strict=True):
            if not keep:
                drops.append({"id": rows[index]["id"], **_explain(operator, table, index)})
        alive = [index for index, keep in zip(alive, verdicts, strict=True) if keep]
        steps.append(
            {
                "operator": name_of(operator),
                "records_in": before,
                "records_out": len(alive),
                "rejected": before - len(alive),
            }
        )
    return [rows[index] for index in alive], drops, steps


def _verdicts(operator: Operator, table: StatisticsTable, alive: list[int]) -> list[bool]:
    columns = table.columns_of(operator)
    statistics = [
        {statistic: table.columns[column][index] for statistic, column in columns.items()}
        for index in alive
    ]
    native = native_filter(operator)
    if native is not None:
        return native.keeps(statistics)
    from .model_operators import model_verdicts

    found = model_verdicts(operator, statistics)
    return apply_thresholds(load_filter(operator), statistics) if found is None else found


def _explain(operator: Operator, table: StatisticsTable, index: int) -> dict[str, Any]:
    """Return operator, statistic, value and bound of a drop.

    The bound named is the one the value breaks; where that cannot be told
    (several images, a threshold of its own kind) all thresholds are named.
    """
    name = name_of(operator)
    limits = {k: v for k, v in params_of(operator).items() if is_threshold(name, k)}
    values = {
        statistic: (column, table.columns[column][index])
        for statistic, column in table.columns_of(operator).items()
    }
    for statistic, (column, value) in values.items():
        for key, limit in limits.items():
            if _breaks(value, key, limit, statistic, alone=len(values) == 1):
                return _drop(name, column, value, f"{key}={limit}")
    columns = ", ".join(column for column, _ in values.values())
    shown = [value for _, value in values.values()]
    bounds = ", ".join(f"{key}={limit}" for key, limit in limits.items())
    return _drop(name, columns, shown[0] if len(shown) == 1 else shown, bounds)


def _drop(name: str, statistic: str, value: Any, bound: str) -> dict[str, Any]:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return {"operator": name, "statistic": statistic, "value": value, "bound": bound}


def _breaks(value: Any, key: str, limit: Any, statistic: str, *, alone: bool) -> bool:
    side, _, subject = key.partition("_")
    if side not in ("min", "max") or isinstance(limit, bool) or not isinstance(limit, int | float):
        return False
    if not alone and not statistic.endswith(f"_{subject}"):
        return False
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, int | float) for number in numbers):
        return False
    return any(number < limit if side == "min" else number > limit for number in numbers)
