"""Every record an arm lost, in one table: where, why, by which value and bound.

Data-Juicer's own tracer compares records with and without new statistics, so
it lists survivors too; here the ids themselves are followed.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GateError
from ..io import atomic_path, iter_jsonl, read_json
from .held_out import read_held_out

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]

_BATCH = 50_000  # rows held at a time


def gather_funnel(
    funnel: str | Path,
    *,
    rejects: str | Path,
    pre_drops: list[str | Path],
    post_drops: list[str | Path],
    shards: list[str | Path],
    merged: str | Path,
    match_ids: str | Path | None = None,
    held_out: str | Path | None = None,
    out: str | Path,
) -> dict[str, int]:
    """Write the table of an arm's lost records, checked against its funnel.

    Args:
        funnel: ``funnel.json`` of the arm.
        rejects: lines that the validation refused.
        pre_drops: drops before captioning, in shard order.
        post_drops: drops after it.
        shards: the arm's records after all filters.
        merged: the arm's records after matching and budget.
        match_ids: merged records of the arm it is matched to.
        held_out: ids that no arm trains on, if any are.
        out: Parquet file, one row a lost record: ``arm``, ``step``, ``operator``,
            ``id``, ``statistic``, ``value`` (a number, else null), ``value_text``
            (JSON), ``bound``, ``duplicate_of``. A second table, in the file's
            metadata under ``recap_counts``, is the funnel itself as JSON.

    Returns:
        Lost records, by step and operator.

    Raises:
        GateError: if a step lost more or fewer records here than in the funnel.
    """
    import pyarrow.parquet as pq

    document = read_json(funnel)
    arm = document["arm"]
    schema = _schema(document)
    found: Counter[str] = Counter()
    lines = _rejected(rejects)
    lines = _chain(lines, _dropped("select", pre_drops), _dropped("reselect", post_drops))
    lines = _chain(lines, _unmatched(shards, merged, match_ids, held_out))
    with atomic_path(out) as temporary:
        with pq.ParquetWriter(temporary, schema) as writer:
            for batch in _batches(lines):
                found.update(_label(row) for row in batch)
                writer.write_table(_table(arm, batch, schema))
        _check(arm, document["stages"], found)
    return dict(found)


def _chain(*parts: Iterable[Row]) -> Iterator[Row]:
    for part in parts:
        yield from part


def _rejected(path: str | Path) -> Iterator[Row]:
    for row in iter_jsonl(path):
        identity = row.get("id")
        yield {
            "step": "validate",
            "operator": None,
            "id": None if identity is None else str(identity),
            "statistic": row["reason"],
            "value": f"line {row['line']}: {row['detail']}",
            "bound": None,
        }


def _dropped(step: str, paths: list[str | Path]) -> Iterator[Row]:
    for path in paths:
        for row in iter_jsonl(path):
            yield {"step": step, **row}


def _unmatched(
    shards: list[str | Path],
    merged: str | Path,
    match_ids: str | Path | None,
    held_out: str | Path | None,
) -> Iterator[Row]:
    """Yield what was held out, and what matching and the budget took; all see only ids."""
    aside = set() if held_out is None else set(read_held_out(held_out))
    left = {row["id"] for row in iter_jsonl(merged)}
    wanted = None if match_ids is None else {row["id"] for row in iter_jsonl(match_ids)}
    for path in shards:
        for row in iter_jsonl(path):
            if row["id"] in left:
                continue
            matched = wanted is None or row["id"] in wanted
            taken = "budget" if matched else "match"
            yield {
                "step": "held_out" if row["id"] in aside else taken,
                "operator": None,
                "id": row["id"],
                "statistic": None,
                "value": None,
                "bound": None,
            }


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _table(arm: str, rows: list[Row], schema: "pa.Schema") -> "pa.Table":
    import pyarrow as pa

    plain = []
    for row in rows:
        value = row["value"]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        plain.append(
            {
                "arm": arm,
                **{key: row[key] for key in ("step", "operator", "id", "statistic", "bound")},
                "value": float(value) if number else None,
                "value_text": None if value is None else json.dumps(value, ensure_ascii=False),
                "duplicate_of": row.get("duplicate_of"),
            }
        )
    return pa.Table.from_pylist(plain, schema=schema)


def _schema(document: Row) -> "pa.Schema":
    import pyarrow as pa

    names = ("arm", "step", "operator", "id", "statistic")
    fields = [(name, pa.string()) for name in names]
    fields += [("value", pa.float64()), ("value_text", pa.string())]
    fields += [("bound", pa.string()), ("duplicate_of", pa.string())]
    counts = json.dumps(document["stages"], sort_keys=True).encode()
    return pa.schema(fields, metadata={b"recap_counts": counts})


def _label(row: Row) -> str:
    return f"{row['step']} / {row['operator']}" if row["operator"] else str(row["step"])


def _check(arm: str, stages: list[Row], found: Counter[str]) -> None:
    expected: Counter[str] = Counter()
    for stage in stages:
        expected[_label({"step": stage["stage"], "operator": stage["operator"]})] += stage[
            "rejected"
        ]
    for name in expected | found:
        if expected[name] != found[name]:
            raise GateError(
                f"arm {arm}: the funnel says that {name} lost {expected[name]} records, but "
                f"{found[name]} are on record; curate the arm again"
            )
