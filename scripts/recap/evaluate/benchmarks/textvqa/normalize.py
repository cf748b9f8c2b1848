"""The answer normaliser of TextVQA (M4C's, itself from the VQA evaluation code).

Quirks of the original are kept, since scores are only comparable with them: a
regular expression whose look-behind is mistyped and a flag passed as a count.
"""

import re

from .contractions import CONTRACTIONS

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WORDS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = frozenset({"a", "an", "the"})
_COMMA_BETWEEN_DIGITS = re.compile(r"(?<=\d),+(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # int(re.UNICODE), given where the count belongs


def normalize_answer(text: str) -> str:
    """Return the form of an answer, predicted or annotated, that is compared.

    Lower-cases, splits off ``'s``, removes or blanks punctuation, removes
    periods that no digit follows, turns number words into digits, drops
    articles, and restores apostrophes of contractions, in this order.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    text = _PERIOD.sub("", _strip_punctuation(text), count=_MOST_PERIODS)
    words = [_NUMBER_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _strip_punctuation(text: str) -> str:
    comma = _COMMA_BETWEEN_DIGITS.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        adjacent = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if adjacent or comma else " ")
    return result
