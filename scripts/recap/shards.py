"""Balanced, never empty, contiguous shards of a sequence of known length."""

import re
from collections.abc import Iterable, Sequence
from shlex import quote

from .errors import RecapError

_DIGITS = 5
_RANGE = re.compile(r'([^"]*)\{(\d{5})\.\.(\d{5})\}([^"]*)')


def shard_count(total: int, shard_size: int) -> int:
    """Return how many shards of at most ``shard_size`` hold ``total`` items."""
    if total < 1 or shard_size < 1:
        raise RecapError(f"cannot cut {total} items into shards of {shard_size}")
    return -(-total // shard_size)


def shard_bounds(total: int, count: int) -> list[tuple[int, int]]:
    """Return ``count`` half-open ranges covering ``range(total)``.

    Sizes differ by at most one and none is empty, unlike the ``ceil(n / k)``
    chunks of LLaVA's evaluation scripts, whose last workers may get nothing.

    Raises:
        RecapError: if there are more shards than items.
    """
    if not 1 <= count <= total:
        raise RecapError(f"cannot cut {total} items into {count} non-empty shards")
    base, extra = divmod(total, count)
    bounds, start = [], 0
    for index in range(count):
        stop = start + base + (1 if index < extra else 0)
        bounds.append((start, stop))
        start = stop
    return bounds


def fixed_bounds(total: int, size: int, count: int) -> list[tuple[int, int]]:
    """Return ``count`` ranges of ``size`` items, the last ones shorter, none empty.

    Unlike balanced bounds, the leading ranges stay the same when the sequence
    grows at its end, so that finished shards of a growing corpus stay valid.

    Raises:
        RecapError: if there are fewer items than shards, or more than fit.
    """
    if not count <= total <= size * count:
        raise RecapError(f"cannot cut {total} items into {count} non-empty shards of {size}")
    bounds, start = [], 0
    for index in range(count):
        shards_after = count - index - 1
        stop = min(start + size, total - shards_after)
        bounds.append((start, stop))
        start = stop
    return bounds


def shard_names(count: int) -> list[str]:
    """Return the shard wildcards, counted from ``00000``."""
    return [f"{index:0{_DIGITS}d}" for index in range(count)]


def shard_range(paths: Sequence[str]) -> str:
    """Return shard files as one word, such as ``kept/{00000..00099}.jsonl``.

    Linux allows 128 KiB for a command that is handed to a shell: the names of a
    few hundred shards. :func:`expand_ranges` undoes this on the other side.

    Args:
        paths: one file, or those of all shards in order.

    Raises:
        RecapError: if they are not the files of consecutive shards.
    """
    if len(paths) == 1:
        return paths[0]
    first, last = paths[0], paths[-1]
    folder, _, name = first.rpartition("/")
    folder = f"{folder}/" if folder else ""
    number, suffix = name[:_DIGITS], name[_DIGITS:]
    end = last.removeprefix(folder)[:_DIGITS]
    word = f"{folder}{{{number}..{end}}}{suffix}"
    if expand_ranges([word]) != list(paths):
        raise RecapError(f"{first} to {last} are not the files of consecutive shards")
    return word


def range_flag(flag: str, paths: Sequence[str]) -> str:
    """Return a flag with shard files, quoted for a shell, or nothing where there are none."""
    return f"{flag} {quote(shard_range(paths))}" if paths else ""


def expand_ranges(words: Iterable[str]) -> list[str]:
    """Replace each ``{00000..00099}`` among a command's words as a shell would, unquoted."""
    expanded: list[str] = []
    for word in words:
        found = _RANGE.fullmatch(word)
        if found is None:
            expanded.append(word)
            continue
        before, start, stop, after = found.groups()
        numbers = range(int(start), int(stop) + 1)
        expanded += [f"{before}{number:0{_DIGITS}d}{after}" for number in numbers]
    return expanded
