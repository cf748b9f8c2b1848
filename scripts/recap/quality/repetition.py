"""Captions that repeat themselves: shares of repeated n-grams, and degenerate ones."""

from collections.abc import Sequence

import numpy as np

from .ngrams import batches, character_ngrams
from .resampling import FloatArray
from .texts import Sequences

CHARACTER_NGRAM = 5
LONGEST_PHRASE = 4
TIMES = 3


def word_repetition(words: Sequences) -> FloatArray:
    """Return the share of a caption's words that occur more than once in it, (n,).

    Data-Juicer's ``word_rep_ratio`` with ``rep_len: 1``, on the bare caption.
    A caption without words has 0.
    """
    kinds = int(words.symbols.max()) + 1 if words.symbols.size else 1
    pairs, copies = np.unique(words.owners * kinds + words.symbols, return_counts=True)
    repeated = np.where(copies > 1, copies, 0)
    sums = np.bincount(pairs // kinds, weights=repeated, minlength=words.lengths.size)
    return sums / np.maximum(words.lengths, 1)


def character_repetition(captions: Sequence[str], length: int = CHARACTER_NGRAM) -> FloatArray:
    """Return Data-Juicer's ``char_rep_ratio`` of the bare captions, (n,).

    Of a caption's character n-grams, the k most frequent ones' share, with k
    the smaller of the root of the number of different n-grams, rounded down,
    and the number of those that repeat. A caption without n-grams has 0.
    """
    ratios = np.zeros(len(captions))
    for first, last in batches(captions):
        ratios[first:last] = _character_repetition(captions[first:last], length)
    return ratios


def _character_repetition(captions: Sequence[str], length: int) -> FloatArray:
    codes, owners = character_ngrams(captions, length)
    order = np.lexsort((codes, owners))
    codes, owners = codes[order], owners[order]
    edges = np.flatnonzero(
        np.concatenate([[True], (codes[1:] != codes[:-1]) | (owners[1:] != owners[:-1])])
        if codes.size
        else np.zeros(0, bool)
    )
    counts = np.diff(np.append(edges, codes.size))
    owner = owners[edges]
    ranked = np.lexsort((-counts, owner))
    counts, owner = counts[ranked], owner[ranked]
    distinct = np.bincount(owner, minlength=len(captions))
    repeating = np.bincount(owner[counts > 1], minlength=len(captions))
    top = np.minimum(np.floor(np.sqrt(distinct)), repeating)
    rank = np.arange(owner.size) - (np.cumsum(distinct) - distinct)[owner]
    chosen = rank < top[owner]
    sums = np.bincount(owner[chosen], weights=counts[chosen], minlength=len(captions))
    totals = np.bincount(owner, weights=counts, minlength=len(captions))
    return sums / np.maximum(totals, 1)


def degenerate(words: Sequences) -> FloatArray:
    """Return 1 for captions that say a phrase at least three times in a row, (n,).

    A phrase is one to four plain words, such as ``alice`` in ``alice - alice - alice``.
    """
    found = np.zeros(words.lengths.size)
    for period in range(1, LONGEST_PHRASE + 1):
        run = (TIMES - 1) * period
        if words.symbols.size < run + period:
            break
        same = (words.symbols[period:] == words.symbols[:-period]) & (
            words.owners[period:] == words.owners[:-period]
        )
        total = np.concatenate([[0], np.cumsum(same)])
        starts = np.flatnonzero(total[run:] - total[:-run] == run)
        found[words.owners[starts]] = 1.0
    return found
