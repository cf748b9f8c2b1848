"""Answers made of what the normaliser treats in its own way."""

import random
from collections.abc import Iterator

MARKS = list(';/[]"{}()=+\\_-><@`,?!')
PIECES = [
    *MARKS,
    *"'.:$%#&* \n\té",
    *("'s", "a", "The", "an", "none", "TEN", "one", "10", "5.5", "1,000", "p.m.", "İ", "٣"),
    *("dont", "youre", "let's", "she'dve", "ow's'at"),
]
_SPACED = [" ", " ", " ", *PIECES]


def random_answers(count: int, seed: int) -> Iterator[str]:
    """Yield answers of up to twelve pieces, spaces more often than the rest."""
    rng = random.Random(seed)
    for _ in range(count):
        yield "".join(rng.choices(_SPACED, k=rng.randrange(13)))
