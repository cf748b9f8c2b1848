"""Independent samples made by several processes, in order."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Made = TypeVar("Made")
_CHUNK = 512


def make_samples(
    make: Callable[[range], list[Made]], count: int, workers: int = 1
) -> Iterator[Made]:
    """Yield what ``make`` returns for each of ``count`` indices, whatever ``workers`` is.

    Args:
        make: a picklable function from a range of indices to one item an index;
            an item must depend on nothing but its index.
        count: how many.
        workers: processes, each of which takes seconds to start; with one, or work for no
            more than one, everything is made in this process.
    """
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    if min(workers, len(chunks)) <= 1:
        for chunk in chunks:
            yield from make(chunk)
        return
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=get_context("spawn")) as pool:
        for made in pool.map(make, chunks):
            yield from made
