"""Cutting a validated corpus into contiguous shards."""

from itertools import islice
from pathlib import Path

from ..errors import RecapError
from ..io import atomic_path
from ..shards import shard_bounds, shard_names


def split_corpus(records: str | Path, count: int, out_dir: str | Path) -> list[Path]:
    """Write ``count`` shard files ``00000.jsonl``, ... whose concatenation is the input.

    Raises:
        RecapError: if the file is missing or has fewer records than shards.
    """
    source = Path(records)
    if not source.is_file():
        raise RecapError(f"{source} does not exist")
    with source.open("rb") as stream:
        total = sum(1 for _ in stream)
    if not 1 <= count <= total:
        raise RecapError(
            f"{source} has {total} records, too few for {count} shards; raise curate.shard_size"
        )
    paths = []
    with source.open("rb") as stream:
        for name, (start, stop) in zip(shard_names(count), shard_bounds(total, count), strict=True):
            path = Path(out_dir) / f"{name}.jsonl"
            with atomic_path(path) as temporary, temporary.open("wb") as out:
                out.writelines(islice(stream, stop - start))
            paths.append(path)
    return paths
