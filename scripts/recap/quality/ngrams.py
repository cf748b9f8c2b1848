"""Character n-grams of many captions at once, as integers."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .texts import IntArray

CodeArray = NDArray[np.uint64]
_CHARACTERS_AT_ONCE = 2_000_000


def batches(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of runs of texts with about two million characters each."""
    first, size = 0, 0
    for place, text in enumerate(texts):
        size += len(text)
        if size >= _CHARACTERS_AT_ONCE:
            yield first, place + 1
            first, size = place + 1, 0
    if first < len(texts):
        yield first, len(texts)


def character_ngrams(texts: Sequence[str], length: int) -> tuple[CodeArray, IntArray]:
    """Return the n-grams of texts as numbers, and which text each is from.

    Equal n-grams have equal numbers, here and in other calls: a polynomial in
    the code points modulo 2**64. Two different ones share a number with a
    chance of about 2**-64.

    Returns:
        codes (M,) and owners (M,), in order; texts shorter than ``length`` have none.
    """
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.array([len(text) for text in texts], np.int64)
    codes = np.zeros(max(0, points.size - length + 1), np.uint64)
    if not codes.size:
        return codes, np.zeros(0, np.int64)
    # An odd multiplier far above the largest code point spreads them over 64 bits.
    base = np.uint64(0x9E3779B97F4A7C15)
    for step in range(length):
        codes = codes * base + points[step : step + codes.size].astype(np.uint64)
    owners = np.repeat(np.arange(lengths.size), lengths)
    inside = owners[: codes.size] == owners[length - 1 :]
    return codes[inside], owners[: codes.size][inside]
