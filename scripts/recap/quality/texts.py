"""Captions as arrays: what every text statistic here starts from."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..curate.policy import ORIGINAL
from ..curate.records import caption_of
from ..errors import RecapError
from ..io import iter_jsonl

IntArray = NDArray[np.int64]
_ALPHABETIC = re.compile(r"\b[a-zA-Z]+\b")
_TRIMMED = re.compile(r"^[\W\d_]+|[\W\d_]+$")


def alphabetic_tokens(caption: str) -> list[str]:
    r"""Return the tokens of the diversity measures: ``\b[a-zA-Z]+\b``, lower-case.

    A word with any other letter or a digit in it (``café``, ``7kg``) is no token.
    """
    return [token.lower() for token in _ALPHABETIC.findall(caption)]


def plain_words(caption: str) -> list[str]:
    """Return lower-case words without punctuation and digits at their ends.

    Words of nothing else, such as ``-`` or ``2``, are left out.
    """
    trimmed = (_TRIMMED.sub("", word) for word in caption.lower().split())
    return [word for word in trimmed if word]


@dataclass(frozen=True)
class Sequences:
    """Symbols of all captions in one row.

    Attributes:
        symbols: (N,) number of each symbol, 0 to K - 1, in order.
        lengths: (n,) symbols a caption.
    """

    symbols: IntArray
    lengths: IntArray

    @cached_property
    def owners(self) -> IntArray:
        """Return the caption each symbol is in, (N,)."""
        return np.repeat(np.arange(self.lengths.size), self.lengths)

    @cached_property
    def starts(self) -> IntArray:
        """Return where each caption begins, (n,)."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def kinds(self) -> int:
        """Return the number of different symbols that occur."""
        return int(np.unique(self.symbols).size)


def number_words(lists: Iterable[list[str]]) -> Sequences:
    """Number words in order of appearance, captions one after another."""
    known: dict[str, int] = {}
    symbols: list[int] = []
    lengths = []
    for words in lists:
        symbols += [known.setdefault(word, len(known)) for word in words]
        lengths.append(len(words))
    return Sequences(np.array(symbols, np.int64), np.array(lengths, np.int64))


@dataclass(frozen=True)
class ArmText:
    """The captions an arm trains on, special tokens removed.

    Attributes:
        ids: record ids, in order.
        captions: bare captions.
        sources: ``original`` or the captioner's name, a record.
    """

    ids: list[str]
    captions: list[str]
    sources: list[str]

    @cached_property
    def tokens(self) -> Sequences:
        """Return the alphabetic tokens, numbered."""
        return number_words(map(alphabetic_tokens, self.captions))

    @cached_property
    def words(self) -> Sequences:
        """Return the plain words, numbered."""
        return number_words(map(plain_words, self.captions))

    @cached_property
    def word_counts(self) -> IntArray:
        """Return the words of each caption by ``str.split``, (n,)."""
        return np.array([len(caption.split()) for caption in self.captions], np.int64)

    @cached_property
    def character_counts(self) -> IntArray:
        """Return the characters of each caption, (n,)."""
        return np.array([len(caption) for caption in self.captions], np.int64)

    def select(self, ids: Sequence[str]) -> "ArmText":
        """Return the records with these ids, in their order."""
        places = {identity: place for place, identity in enumerate(self.ids)}
        chosen = [places[identity] for identity in ids]
        return ArmText(
            list(ids), [self.captions[i] for i in chosen], [self.sources[i] for i in chosen]
        )


def read_arm(path: str | Path) -> ArmText:
    """Read the merged records of an arm; only ids, captions and sources stay in memory.

    Raises:
        RecapError: if the file is missing, a record lacks id or text, an id
            repeats, or there is no record.
    """
    text = ArmText([], [], [])
    for number, row in enumerate(iter_jsonl(path), start=1):
        if not isinstance(row.get("id"), str) or not isinstance(row.get("text"), str):
            raise RecapError(f"{path}, record {number}: needs a string `id` and `text`")
        text.ids.append(row["id"])
        text.captions.append(caption_of(row["text"]))
        text.sources.append(str(row.get("caption_source", ORIGINAL)))
    if not text.ids:
        raise RecapError(f"{path} holds no record; loosen the arm's filters")
    if len(set(text.ids)) != len(text.ids):
        identity = Counter(text.ids).most_common(1)[0][0]
        raise RecapError(f"{path}: id {identity!r} appears twice; merge the arm again")
    return text


def coverage(captions: Sequence[str]) -> dict[str, Any]:
    """Return which captions the Latin tokenizer sees, partly sees and does not see.

    A caption is ``not_covered`` if more than half of its letters are not
    A to Z, ``partly_covered`` if some are; scripts are those of the Unicode
    names of their letters (``CJK``, ``CYRILLIC``, ...).
    """
    partly, scripts = 0, Counter[str]()
    for caption in captions:
        if caption.isascii():
            continue
        letters = [character for character in caption if character.isalpha()]
        others = [character for character in letters if not character.isascii()]
        if 2 * len(others) > len(letters):
            names = Counter(unicodedata.name(c, "UNKNOWN").split()[0] for c in others)
            scripts[names.most_common(1)[0][0]] += 1
        elif others:
            partly += 1
    return {
        "partly_covered": partly,
        "not_covered": sum(scripts.values()),
        "not_covered_scripts": dict(sorted(scripts.items())),
    }
