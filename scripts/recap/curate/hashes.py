"""Hashes of records for a deduplicator: computed a shard, stored as Parquet.

Only ids and hashes are stored, so that the decision over the whole corpus holds
no text and no picture.
"""

from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecapError
from ..io import atomic_path
from ..perf import PerfRecord
from .juicer import absolute_samples, hash_sample, load_operator
from .recipe import Operator, name_of
from .records import Record, read_records
from .texts import view

if TYPE_CHECKING:
    import pyarrow as pa

# A band of MinHash values is compared for equality only: 8 bytes stand for its
# 80. Two different bands of a million records agree with probability 3e-8.
_BAND_BYTES = 8


def hash_shard(
    records: str | Path,
    *,
    image_root: str | Path,
    operator: Operator,
    threads: int = 1,
    out: str | Path,
    perf: str | Path,
) -> None:
    """Compute a deduplicator's hashes for a shard.

    Args:
        records: the records.
        image_root: folder their image paths are relative to.
        operator: a deduplicator with its parameters.
        threads: pictures decoded at once.
        out: Parquet file with ``id`` and one column a hash, in the records' order.
        perf: JSON file with records a second and peak memory.

    Raises:
        RecapError: if a record cannot be hashed, with its id.
    """
    import pyarrow.parquet as pq

    figures = PerfRecord("hash", "records")
    rows = read_records(records)
    table = hash_table(rows, Path(image_root), operator, threads)
    with atomic_path(out) as temporary:
        pq.write_table(table, temporary)
    figures.items = len(rows)
    figures.extra = {"operators": [name_of(operator)]}
    figures.write(perf)


def hash_table(
    rows: list[Record], image_root: Path, operator: Operator, threads: int = 1
) -> "pa.Table":
    """Return ``id`` and hashes of records, one row each; see :func:`hash_shard`."""
    import pyarrow as pa

    op = load_operator(operator, "Deduplicator") if rows else None

    def hashes(row: Record) -> dict[str, Any]:
        [sample] = view(operator, absolute_samples([row], image_root))
        try:
            found = hash_sample(op, sample)
        except Exception as error:
            raise RecapError(
                f"{name_of(operator)} failed on id {row['id']!r} ({', '.join(row['images'])}): "
                f"{error}; fix or remove the record"
            ) from error
        return {"id": row["id"]} | {key: _short(value) for key, value in found.items()}

    with ThreadPoolExecutor(max(1, threads)) as pool:
        found = list(pool.map(hashes, rows))
    return pa.Table.from_pylist(found) if found else pa.table({"id": pa.array([], pa.string())})


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [blake2b(band, digest_size=_BAND_BYTES).digest() for band in value]
    return value
