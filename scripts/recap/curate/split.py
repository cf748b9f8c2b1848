"""Cutting a validated corpus into shards without reading it again for each.

Beside the validated records lies an index: where every thousandth record starts.
A shard's job reads its own bytes, and fewer than a thousand records before them.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import VALIDATE_AGAIN, RecapError
from ..io import atomic_path, read_json
from ..shards import fixed_bounds

_STRIDE = 1000


class IndexedLines:
    """Writes lines and notes where every thousandth one starts."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offsets: list[int] = []
        self._lines = 0
        self._bytes = 0

    def write(self, line: str) -> None:
        """Write one line, which ends in a line feed, as UTF-8."""
        if self._lines % _STRIDE == 0:
            self._offsets.append(self._bytes)
        raw = line.encode("utf-8")
        self._stream.write(raw)
        self._lines += 1
        self._bytes += len(raw)

    def index(self) -> dict[str, Any]:
        """Return the index of what was written."""
        return {
            "records": self._lines,
            "bytes": self._bytes,
            "stride": _STRIDE,
            "offsets": self._offsets,
        }


def split_shard(
    records: str | Path,
    *,
    index: str | Path,
    shard: int,
    count: int,
    shard_size: int,
    out: str | Path,
) -> int:
    """Write one contiguous shard of a validated corpus, byte for byte.

    Args:
        records: validated records.
        index: their index, from validate_corpus.py.
        shard: which shard, from 0.
        count: number of shards.
        shard_size: records a full shard.
        out: the shard's records.

    Returns:
        The number of records written.

    Raises:
        RecapError: if the index is of another file, or there are too many or
            too few records for the shards.
    """
    document = _read_index(index)
    size = Path(records).stat().st_size if Path(records).is_file() else None
    if size != document["bytes"]:
        raise RecapError(
            f"{records} has {size} bytes, but {index} is of a file of {document['bytes']}; "
            f"{VALIDATE_AGAIN}"
        )
    start, stop = fixed_bounds(document["records"], shard_size, count)[shard]
    with atomic_path(out) as temporary, temporary.open("wb") as stream:
        stream.writelines(_lines(records, document, start, stop))
    return stop - start


def _read_index(path: str | Path) -> dict[str, Any]:
    document = read_json(path)
    keys = {"records", "bytes", "stride", "offsets"}
    if not isinstance(document, dict) or not keys <= document.keys():
        raise RecapError(f"{path} is not an index of validate_corpus.py")
    return document


def _lines(records: str | Path, index: dict[str, Any], start: int, stop: int) -> Iterator[bytes]:
    """Yield the lines of records ``start`` to ``stop``, reading none after them."""
    place, skipped = divmod(start, index["stride"])
    with Path(records).open("rb") as stream:
        stream.seek(index["offsets"][place])
        yield from islice(stream, skipped, skipped + stop - start)
