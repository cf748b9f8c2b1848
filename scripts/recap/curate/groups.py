"""Groups of records with equal or near hashes, as Data-Juicer forms them."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .juicer import load_operator
from .recipe import Operator, name_of

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_HASH, _IMAGE, _MINHASH, _SIMHASH = (
    f"__dj__{name}" for name in ("hash", "imagehash", "minhash", "simhash")
)


@dataclass(frozen=True)
class Groups:
    """What each of ``n`` rows belongs to.

    Attributes:
        first: the first row of each row's group; its own number where it is alone.
        shared: the hash that ties a row to its group, or an empty string.
    """

    first: list[int]
    shared: list[str]


def may_repeat(name: str, table: "pa.Table") -> "NDArray[Any]":
    """Return the rows that share a hash with another one, in order.

    The others cannot be duplicates, so nothing needs to be held for them.
    Near hashes (simhash) allow no such cut: all rows are returned.
    """
    import numpy as np

    shares = np.zeros(len(table), dtype=bool)
    if name == "document_simhash_deduplicator":
        shares[:] = True
    elif len(table):
        for keys in _keys(table):
            codes = keys.dictionary_encode().indices.to_numpy(zero_copy_only=False)
            shares |= np.bincount(codes)[codes] > 1
    return np.flatnonzero(shares)


def find_groups(operator: Operator, table: "pa.Table") -> Groups:
    """Return the groups of all rows by a deduplicator's own rule."""
    groups = Groups(list(range(len(table))), [""] * len(table))
    if not len(table):
        return groups
    if name_of(operator) == "document_simhash_deduplicator":
        hashes = table[_SIMHASH].to_pylist()
        _join_equal(groups, hashes, text=str)
        _join_near(groups, hashes, operator)
    else:
        exact = name_of(operator) == "image_deduplicator" and len(table.column_names) == 2
        for keys in _keys(table):
            # A record without a picture has an empty hash and repeats nothing.
            _join_equal(groups, keys.to_pylist(), skip="" if exact else None, text=_readable)
    return Groups([_root(groups.first, index) for index in range(len(table))], groups.shared)


def _keys(table: "pa.Table") -> Iterable["pa.Array"]:
    """Yield arrays of keys; rows with an equal key in one of them belong together."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if _MINHASH in table.column_names:
        lists = table[_MINHASH].combine_chunks()
        bands = len(lists[0])
        flat = lists.flatten()
        for band in range(bands):
            yield flat.take(pa.array(np.arange(band, len(flat), bands)))
    elif _IMAGE in table.column_names and _HASH in table.column_names:
        both = pc.binary_join_element_wise(table[_IMAGE], table[_HASH], "|")
        yield both.combine_chunks()
    else:
        column = _IMAGE if _IMAGE in table.column_names else _HASH
        yield table[column].combine_chunks()


def _join_equal(
    groups: Groups, keys: list[Hashable], *, text: Any, skip: Hashable | None = None
) -> None:
    seen: dict[Hashable, int] = {}
    for index, key in enumerate(keys):
        if skip is not None and key == skip:
            continue
        earlier = seen.setdefault(key, index)
        if earlier != index:
            _unite(groups, earlier, index, text(key))


def _join_near(groups: Groups, hashes: list[str], operator: Operator) -> None:
    """Join rows whose hashes differ in few bits, through Data-Juicer's own search."""
    import numpy as np
    import simhash

    op = load_operator(operator, "Deduplicator")
    place = {key: index for index, key in reversed(list(enumerate(hashes)))}
    near = simhash.find_all(np.array(hashes).astype(np.uint64), op.num_blocks, op.hamming_distance)
    for one, other in near:
        low, high = sorted((place[str(one)], place[str(other)]))
        if low != high:
            _unite(groups, low, high, f"{hashes[low]} ~ {hashes[high]}")


def _unite(groups: Groups, one: int, other: int, shared: str) -> None:
    """Put two groups into one that is named after its first row."""
    low, high = sorted((_root(groups.first, one), _root(groups.first, other)))
    groups.first[high] = low
    for index in (one, other):
        groups.shared[index] = groups.shared[index] or shared


def _root(first: list[int], index: int) -> int:
    while first[index] != index:
        first[index] = first[first[index]]
        index = first[index]
    return index


def _readable(key: Any) -> str:
    return key.hex() if isinstance(key, bytes) else str(key)
