"""Captions that another record has too, word for word or nearly so."""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .ngrams import CodeArray, batches, character_ngrams
from .resampling import FloatArray
from .texts import IntArray

SHINGLE = 5
BANDS, ROWS = 16, 4
SIMILARITY = 0.8
NEIGHBOURS = 8
_SEED = 20100
# Signatures estimate the Jaccard index with a standard deviation below 0.063.
_SLACK = 0.2
_REMEMBERED = 20_000


def normalized(caption: str) -> str:
    """Return a caption in NFKC and lower case, with single spaces and nothing at its ends."""
    return " ".join(unicodedata.normalize("NFKC", caption).lower().split())


def duplicates(captions: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Return which captions another record has exactly, and which it has nearly, (n,) each.

    Near: the Jaccard index of the sets of character 5-grams of two different
    normalised captions is at least 0.8. Candidates come from MinHash (Broder
    1997) with 64 functions in 16 bands of 4 (Leskovec, Rajaraman and Ullman
    2014, section 3.4): a pair at 0.8 is missed with a chance of 0.0002. Among
    captions that share a band, each is held against the first and the 8 before
    it. Candidates are then checked on the sets themselves.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, caption in enumerate(captions):
        places[normalized(caption)].append(place)
    exact, near = np.zeros(len(captions)), np.zeros(len(captions))
    texts = list(places)
    for found in places.values():
        if len(found) > 1:
            exact[found] = 1.0
    for number in _near(texts):
        near[places[texts[number]]] = 1.0
    return exact, near


def _near(texts: list[str]) -> set[int]:
    """Return the texts that nearly equal another one."""
    padded = [text.ljust(SHINGLE) for text in texts]
    signatures = _signatures(padded)
    pairs = _candidates(signatures)
    agree = np.zeros(len(pairs))
    for start in range(0, len(pairs), 100_000):
        part = pairs[start : start + 100_000]
        agree[start : start + 100_000] = np.mean(
            signatures[:, part[:, 0]] == signatures[:, part[:, 1]], axis=0
        )
    found: set[int] = set()

    @lru_cache(maxsize=_REMEMBERED)
    def shingles(number: int) -> frozenset[str]:
        text = padded[number]
        return frozenset(text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1))

    for first, second in pairs[agree >= SIMILARITY - _SLACK].tolist():
        if first in found and second in found:
            continue
        one, two = shingles(first), shingles(second)
        common = len(one & two)
        if common >= SIMILARITY * (len(one) + len(two) - common):
            found |= {first, second}
    return found


def _signatures(texts: list[str]) -> NDArray[np.uint32]:
    """Return MinHash signatures (64, n): the smallest hash of a text's shingles, each function."""
    rng = np.random.default_rng(_SEED)
    functions = BANDS * ROWS
    factors = rng.integers(0, 2**63, functions, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = rng.integers(0, 2**63, functions, dtype=np.uint64)
    signatures = np.zeros((functions, len(texts)), np.uint32)
    for first, last in batches(texts):
        codes, owners = character_ngrams(texts[first:last], SHINGLE)
        codes = _mixed(codes)
        starts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
        for row in range(functions):
            hashes = ((codes * factors[row] + offsets[row]) >> np.uint64(32)).astype(np.uint32)
            signatures[row, first:last] = np.minimum.reduceat(hashes, starts)
    return signatures


def _mixed(codes: CodeArray) -> CodeArray:
    """Return the codes with every bit depending on every other (SplitMix64's finalizer)."""
    codes = (codes ^ (codes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    codes = (codes ^ (codes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return codes ^ (codes >> np.uint64(31))


def _candidates(signatures: NDArray[np.uint32]) -> IntArray:
    """Return pairs of texts that share a band, (P, 2), each once."""
    size = signatures.shape[1]
    pairs = np.zeros(0, np.int64)
    for band in range(BANDS):
        keys = np.zeros(size, np.uint64)
        for row in signatures[band * ROWS : (band + 1) * ROWS]:
            keys = _mixed(keys ^ row.astype(np.uint64))
        order = np.argsort(keys, kind="stable")
        sorted_keys = keys[order]
        edges = np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]])
        begin = np.maximum.accumulate(np.where(edges, np.arange(size), 0))
        found = [pairs]
        for distance in range(1, NEIGHBOURS + 1):
            later = np.flatnonzero(sorted_keys[distance:] == sorted_keys[:-distance]) + distance
            found.append(order[later - distance] * size + order[later])
        far = np.flatnonzero(np.arange(size) - begin > NEIGHBOURS)
        found.append(order[begin[far]] * size + order[far])
        pairs = np.unique(np.concatenate(found))
    return np.stack([pairs // size, pairs % size], axis=1)
