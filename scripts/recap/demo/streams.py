"""Independent random streams: one generator for each seed, purpose and index.

A sample depends on nothing but its own three numbers, so a larger world begins
with the smaller one, and samples can be drawn in any order or in parallel. The
micro models draw from streams of their own: they never see the world's
pictures.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a generator is for; the numbers are part of the seeds, never reuse one."""

    RECORD = 1
    BAD_LINE = 2
    INSTRUCTION = 3
    BENCHMARK = 4
    CAPTION = 5
    INSTRUCTION_TEXT = 6
    BENCHMARK_TEXT = 7
    IMAGE_FLAW = 8
    POPE = 9
    POPE_TEXT = 10
    MMBENCH = 11
    MMBENCH_TEXT = 12
    MICRO_TEXT = 101
    MICRO_PICTURE = 102
    MICRO_HELD_OUT = 103
    MICRO_TOKENIZER = 104
    MICRO_ORDER = 105
    MICRO_MARKED = 106
    MICRO_MARKED_HELD_OUT = 107


def generator(seed: int, stream: Stream, index: int = 0) -> np.random.Generator:
    """Return the generator of sample ``index`` of ``stream`` under ``seed``."""
    return np.random.default_rng([seed, int(stream), index])
