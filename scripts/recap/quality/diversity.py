"""Lexical diversity: MTLD, MATTR, HD-D, and the type-token ratio at a fixed size.

Each function returns the measure spread over the records it comes from, so
that records can be resampled. Values equal those of the ``lexicalrichness``
package, which tests use as an oracle; it is not used here because it has no
per-record form, and a resample would cost it a full pass over the text.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..hashing import stable_fraction
from .resampling import FloatArray, Statistic
from .texts import IntArray, Sequences

MTLD_THRESHOLD = 0.72
WINDOW = 50
DRAWS = 42
# Lengths of a block at which intervals are as wide as corpora differ (docs/quality.md).
_FACTORS_A_BLOCK, _WINDOWS_A_BLOCK = 4, 2


def mtld(text: Sequences, threshold: float = MTLD_THRESHOLD) -> Statistic | None:
    """Return the measure of textual lexical diversity, both directions averaged.

    McCarthy and Jarvis (2010): a factor ends where the type-token ratio since
    its start falls to the threshold; MTLD is tokens over factors, the
    unfinished factor counting in part. A factor's unit is shared out evenly
    over its tokens, so that each record knows its share.

    Returns:
        ``None`` for a text without tokens.
    """
    tokens = text.symbols
    if not tokens.size:
        return None
    counts = text.lengths.astype(np.float64)
    parts = []
    for step in (1, -1):
        credit = _factor_credit(tokens[::step], threshold)[::step]
        parts.append((counts, _by_record(credit, text)))
    statistic = Statistic(tuple(parts))
    return _in_blocks(statistic, text, _FACTORS_A_BLOCK * statistic.value)


def _factor_credit(tokens: IntArray, threshold: float) -> FloatArray:
    """Return the factors a token accounts for, (N,); they add up to the factors."""
    last = [-1] * (int(tokens.max()) + 1)
    ends, start, types = [], 0, 0
    for place, token in enumerate(tokens.tolist()):
        if last[token] < start:
            types += 1
        last[token] = place
        if types / (place + 1 - start) <= threshold:
            ends.append(place + 1)
            start, types = place + 1, 0
    lengths = np.diff(np.array([0, *ends]))
    credit = np.repeat(1 / lengths, lengths) if ends else np.zeros(0)
    rest = tokens.size - start
    if rest:
        partial = (1 - types / rest) / (1 - threshold)
        # A text in which no word repeats counts as one factor.
        partial = partial or float(not ends)
        credit = np.concatenate([credit, np.full(rest, partial / rest)])
    return credit


def mattr(text: Sequences, window: int = WINDOW) -> Statistic | None:
    """Return the moving-average type-token ratio (Covington and McFall 2010).

    The mean type-token ratio of all windows of ``window`` tokens; a window
    belongs to the record in which it starts.

    Returns:
        ``None`` for a text shorter than one window.
    """
    windows = text.symbols.size - window + 1
    if windows < 1:
        return None
    ratios = _window_types(text.symbols, window) / window
    padding = np.zeros(window - 1)
    tops = _by_record(np.concatenate([ratios, padding]), text)
    bottoms = _by_record(np.concatenate([np.ones(windows), padding]), text)
    return _in_blocks(Statistic(((tops, bottoms),)), text, _WINDOWS_A_BLOCK * window)


def _window_types(tokens: IntArray, window: int) -> IntArray:
    """Return the types of every window, in linear time.

    A token is new to the windows that start after its previous occurrence and
    hold it: one added at the first such start, one taken away past the last.
    """
    size = tokens.size
    order = np.argsort(tokens, kind="stable")
    same = np.flatnonzero(tokens[order][1:] == tokens[order][:-1])
    previous = np.full(size, -1)
    previous[order[same + 1]] = order[same]
    places = np.arange(size)
    first = np.maximum(previous + 1, np.maximum(places - window + 1, 0))
    change = np.bincount(first, minlength=size + 1) - np.bincount(places + 1, minlength=size + 1)
    return np.cumsum(change)[: size - window + 1]


def hdd(text: Sequences, draws: int = DRAWS) -> Statistic | None:
    """Return HD-D, the hypergeometric diversity (McCarthy and Jarvis 2007).

    The expected type-token ratio of ``draws`` tokens drawn without
    replacement. It does not depend on order, but each record touches the
    frequencies of all others, so records enter by their jackknife pseudo-values
    (Efron and Tibshirani 1993, chapter 11), exactly computed and centred on HD-D.

    Returns:
        ``None`` for fewer tokens than ``draws``, or when leaving out one record would.
    """
    size = text.symbols.size
    if size == 0 or size - int(text.lengths.max()) < draws:
        return None
    frequencies = np.bincount(text.symbols)
    kinds, counts = np.unique(frequencies[frequencies > 0], return_counts=True)
    whole = float(counts @ _drawn(kinds, size, draws)) / draws
    records = text.lengths.size
    if records == 1:
        return Statistic(((np.array([whole]), np.ones(1)),))
    changes = np.zeros(records)
    base = _drawn(kinds, size, draws)
    for length in np.unique(text.lengths).tolist():
        of_length = text.lengths == length
        changes[of_length] = counts @ (_drawn(kinds, size - length, draws) - base)
    changes += _own_types(text, frequencies, draws)
    pseudo = -(records - 1) * changes / draws
    return Statistic(((whole + pseudo - pseudo.mean(), np.ones(records)),))


def _drawn(frequencies: NDArray[np.integer], size: "int | IntArray", draws: int) -> FloatArray:
    """Return the chance that ``draws`` of ``size`` tokens hold a type of each frequency."""
    logs = np.zeros(np.broadcast_shapes(np.shape(frequencies), np.shape(size)))
    with np.errstate(divide="ignore", invalid="ignore"):
        for step in range(draws):
            logs += np.log1p(-np.minimum(frequencies / (size - step), 1.0))
    return -np.expm1(logs)


def _own_types(text: Sequences, frequencies: IntArray, draws: int) -> FloatArray:
    """Return, a record, what its own types change beyond the smaller size, (n,)."""
    size, kinds = text.symbols.size, frequencies.size
    pairs, copies = np.unique(text.owners * kinds + text.symbols, return_counts=True)
    owners, types = pairs // kinds, pairs % kinds
    # Equal (frequency, copies, length) give equal changes: each is computed once.
    span = int(text.lengths.max()) + 1
    keys = (frequencies[types] * span + copies) * span + text.lengths[owners]
    cases, which = np.unique(keys, return_inverse=True)
    often, own, rest = cases // span**2, cases // span % span, size - cases % span
    change = _drawn(often - own, rest, draws) - _drawn(often, rest, draws)
    sums = np.bincount(owners, weights=change[which], minlength=text.lengths.size)
    return sums.astype(np.float64)


def budget_draws(
    ids: Sequence[str], texts: Sequence[Sequences], budget: int, seed: int
) -> list[Statistic] | None:
    """Return the type-token ratio at exactly ``budget`` tokens, for each of several texts.

    Records are put in the order of a hash of (seed, id) and cut into disjoint
    draws; a draw ends as soon as every text has ``budget`` tokens in it, and
    only its first ``budget`` tokens count. The draws are independent and of
    one size, so their mean depends on no corpus size, and they are what is
    resampled. The same draw holds the same ids in all texts.

    Args:
        ids: (n,) record ids.
        texts: the same records' tokens, one a text.
        budget: tokens a draw.
        seed: of the order.

    Returns:
        ``None`` if not even one draw can be filled.
    """
    keys = [(stable_fraction("quality", seed, identity), identity) for identity in ids]
    order = np.array(sorted(range(len(ids)), key=keys.__getitem__), np.int64)
    sums = [np.concatenate([[0], np.cumsum(text.lengths[order])]) for text in texts]
    bounds = [0]
    while True:
        ends = [int(np.searchsorted(total, total[bounds[-1]] + budget)) for total in sums]
        if max(ends) > len(ids):
            break
        bounds.append(max(ends))
    draws = len(bounds) - 1
    if not draws:
        return None
    ones = np.ones(draws)
    return [
        Statistic(((_draw_types(text, order, bounds, budget) / budget, ones),), units="draws")
        for text in texts
    ]


def _draw_types(text: Sequences, order: IntArray, bounds: Sequence[int], budget: int) -> FloatArray:
    """Return the types among the first ``budget`` tokens of each draw, (draws,)."""
    found = []
    for first, last in pairwise(bounds):
        tokens = np.concatenate(
            [
                text.symbols[text.starts[r] : text.starts[r] + text.lengths[r]]
                for r in order[first:last]
            ]
        )
        found.append(np.unique(tokens[:budget]).size)
    return np.array(found, np.float64)


def _by_record(values: FloatArray, text: Sequences) -> FloatArray:
    sums = np.bincount(text.owners, weights=values, minlength=text.lengths.size)
    return sums.astype(np.float64)


def _in_blocks(statistic: Statistic, text: Sequences, tokens: float) -> Statistic:
    """Resample blocks of about ``tokens`` tokens: what crosses their edges matters little."""
    block = math.ceil(tokens * text.lengths.size / text.symbols.size)
    return Statistic(statistic.parts, statistic.units, block)
