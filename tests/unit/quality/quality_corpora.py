"""Corpora drawn from a known distribution."""

import numpy as np


def zipf_captions(rng, records, words=9, types=2000):
    """Captions whose words have frequencies like those of language."""
    chances = 1 / np.arange(1, types + 1)
    lengths = rng.integers(3, 2 * words - 3, records)
    drawn = rng.choice(types, size=int(lengths.sum()), p=chances / chances.sum())
    parts = np.split(drawn, np.cumsum(lengths)[:-1])
    return [[f"w{number}" for number in part] for part in parts]
