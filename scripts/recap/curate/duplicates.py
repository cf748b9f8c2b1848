"""Which records of a whole corpus repeat an earlier one, and which one.

Data-Juicer's own ``process`` decides on the hashes of all shards, in corpus
order, so the first record of a group stays as in one ``dj-process`` run. It
names no reason; the groups are found once more here, must lead to the same
decision, and say which record each duplicate repeats.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GateError, RecapError
from ..io import atomic_path, write_json, write_jsonl
from .groups import Groups, find_groups, may_repeat
from .juicer import load_operator
from .recipe import Operator, name_of
from .records import read_records

if TYPE_CHECKING:
    import pyarrow as pa

_INDEX = "recap_index"


def decide_duplicates(
    hashes: list[str | Path], *, operator: Operator, out: str | Path, report: str | Path
) -> dict[str, Any]:
    """Decide over all shards which records go.

    Args:
        hashes: Parquet files of :func:`recap.curate.hashes.hash_shard`, in shard order.
        operator: the deduplicator that made them.
        out: Parquet file, one row a record to drop: ``id``, ``duplicate_of``, ``shared``.
        report: ``records``, ``candidates``, ``duplicates``, ``groups``; also returned.

    Raises:
        RecapError: if shards share an id or were hashed by another operator.
        GateError: if the groups found here contradict Data-Juicer's decision.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = _read(hashes)
    ids = table["id"]
    if len(ids.unique()) != len(ids):
        raise RecapError("two shards of hashes share an id; the shards must come from one split")
    chosen = may_repeat(name_of(operator), table)
    candidates = table.take(chosen)
    kept = _survivors(operator, candidates)
    groups = find_groups(operator, candidates)
    _compare(operator, kept, groups, candidates["id"])
    names = candidates["id"].to_pylist()
    dropped = [index for index, first in enumerate(groups.first) if first != index]
    rows = {
        "id": pa.array([names[index] for index in dropped], pa.string()),
        "duplicate_of": pa.array([names[groups.first[index]] for index in dropped], pa.string()),
        "shared": pa.array([groups.shared[index] for index in dropped], pa.string()),
    }
    metadata = {b"recap_operator": json.dumps(operator, sort_keys=True).encode()}
    with atomic_path(out) as temporary:
        pq.write_table(pa.table(rows).replace_schema_metadata(metadata), temporary)
    summary = {
        "operator": name_of(operator),
        "records": len(ids),
        "candidates": len(names),
        "duplicates": len(dropped),
        "groups": len({groups.first[index] for index in dropped}),
    }
    write_json(report, summary)
    return summary


def drop_duplicates(
    records: str | Path,
    *,
    duplicates: str | Path,
    operator: Operator,
    kept: str | Path,
    drops: str | Path,
    counts: str | Path,
) -> dict[str, Any]:
    """Take the corpus's duplicates out of one shard.

    Args:
        records: the records that were hashed.
        duplicates: the decision of :func:`decide_duplicates`.
        operator: the deduplicator.
        kept: surviving records, in order and unchanged.
        drops: one line a dropped record: ``id``, ``operator``, ``statistic``,
            ``value`` (the shared hash), ``bound``, ``duplicate_of``.
        counts: records in and out, as a whole and for the operator; also returned.
    """
    import pyarrow.parquet as pq

    name, statistic = name_of(operator), _STATISTICS[name_of(operator)]
    reasons = {row["id"]: row for row in pq.read_table(duplicates).to_pylist()}
    rows = read_records(records)
    dropped = [
        {
            "id": row["id"],
            "operator": name,
            "statistic": statistic,
            "value": reasons[row["id"]]["shared"],
            "bound": f"first of its group: {reasons[row['id']]['duplicate_of']}",
            "duplicate_of": reasons[row["id"]]["duplicate_of"],
        }
        for row in rows
        if row["id"] in reasons
    ]
    numbers = {
        "records_in": len(rows),
        "records_out": len(rows) - len(dropped),
        "rejected": len(dropped),
    }
    document = {**numbers, "operators": [{"operator": name, **numbers}]}
    write_jsonl(kept, (row for row in rows if row["id"] not in reasons))
    write_jsonl(drops, dropped)
    write_json(counts, document)
    return document


_STATISTICS = {
    "document_deduplicator": "hash",
    "document_minhash_deduplicator": "minhash",
    "document_simhash_deduplicator": "simhash",
    "image_deduplicator": "imagehash",
}


def _read(paths: list[str | Path]) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(path) for path in paths]
    filled = [table for table in tables if len(table)]
    try:
        return pa.concat_tables(filled) if filled else tables[0]
    except pa.ArrowInvalid as error:
        raise RecapError(f"the shards were hashed differently; hash them again: {error}") from error


def _survivors(operator: Operator, table: "pa.Table") -> set[int]:
    """Return the rows that Data-Juicer's own ``process`` keeps."""
    import datasets
    import pyarrow as pa

    if not len(table):
        return set()
    op = load_operator(operator, "Deduplicator")
    # A cache would be written into the user's home, and could answer for other data.
    datasets.disable_caching()
    datasets.disable_progress_bars()
    indexed = table.append_column(_INDEX, pa.array(range(len(table)), pa.int64()))
    survivors, _ = op.process(datasets.Dataset(indexed), show_num=0)
    return set(survivors[_INDEX])


def _compare(operator: Operator, kept: set[int], groups: Groups, ids: Iterable[Any]) -> None:
    expected = {index for index, first in enumerate(groups.first) if first == index}
    if kept == expected:
        return
    names = [str(name) for index, name in enumerate(ids) if index in kept ^ expected]
    raise GateError(
        f"{name_of(operator)}: Data-Juicer keeps {len(kept)} of the records that share a hash, "
        f"their groups {len(expected)}; they differ on {', '.join(names[:10])}. Has the version "
        "of Data-Juicer changed?"
    )
