"""Balanced, never empty, contiguous shards of a sequence of known length."""

from .errors import RecapError


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
    return [f"{index:05d}" for index in range(count)]
