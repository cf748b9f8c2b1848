"""Five of Data-Juicer's filters without its start-up, value for value the same.

Importing Data-Juicer takes seconds, several times what these operators need for
a shard. The definitions below are those of version 1.6.1, the character table is
read from Data-Juicer's own file, and the tests compare both on random text. An
operator, a parameter or a version that is not covered is left to Data-Juicer's
own class (:mod:`recap.curate.juicer`).
"""

import math
import operator
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib import util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .recipe import Operator, name_of, params_of
from .texts import TEXT_FLAG

COVERED_VERSION = "1.6.1"
_MEMO = 1 << 16  # words remembered with their stripped form

_INTERVAL = {"min_closed_interval": True, "max_closed_interval": True, "reversed_range": False}
_WORDS = {"lang": "en", "tokenization": False}

# A statistic and the parameters that bound it from below and from above.
Bound = tuple[str, str, str]


class Batch:
    """Some records, and what several operators need of them, worked out once.

    Args:
        texts: one string a record.
        images: image paths of each record.
        loaded: for each record, path to something with ``width`` and ``height``.
    """

    def __init__(
        self,
        texts: Sequence[str],
        images: Sequence[Sequence[str]] = (),
        loaded: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.texts = texts
        self.images = images
        self.loaded = loaded

    @cached_property
    def words(self) -> list[list[str]]:
        """Words of each text, split at spaces, line feeds and tabs only."""
        return [
            [word for word in text.replace("\n", " ").replace("\t", " ").split(" ") if word]
            for text in self.texts
        ]

    @cached_property
    def lowered(self) -> list[list[str]]:
        """Words in lower case, stripped of special characters, none empty."""
        return [[bare for word in words if (bare := _strip(word.lower()))] for words in self.words]

    def sizes(self, side: str) -> list[list[int]]:
        """Return the ``width`` or ``height`` of each record's images."""
        return [
            [getattr(loaded[path], side) for path in paths]
            for paths, loaded in zip(self.images, self.loaded, strict=True)
        ]


@dataclass(frozen=True)
class NativeFilter:
    """An operator of this module with all its parameters.

    Attributes:
        name: Data-Juicer's name.
        params: every parameter, defaults filled in.
    """

    name: str
    params: dict[str, Any]

    @property
    def reads_images(self) -> bool:
        """Tell whether the operator needs the sizes of images."""
        return self.name == "image_shape_filter"

    def statistics(self, batch: Batch) -> list[dict[str, Any]]:
        """Return one dict of statistics a record, as ``compute_stats`` stores them."""
        columns = _MEASURES[self.name](batch, self.params)
        return [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]

    def keeps(self, statistics: list[dict[str, Any]]) -> list[bool]:
        """Return which records ``process`` keeps, decided on stored statistics."""
        return verdicts(_BOUNDS[self.name], self.params, statistics)


def verdicts(
    bounds: Sequence[Bound], params: dict[str, Any], statistics: list[dict[str, Any]]
) -> list[bool]:
    """Return which records a filter keeps, decided on stored statistics.

    Args:
        bounds: its statistics and the parameters that bound them.
        params: all its thresholds; with ``any_or_all`` among them the statistics are lists,
            one value an image, and a record without images is kept.
        statistics: one dict a record.
    """
    tests = [(name, _interval(params, low, high)) for name, low, high in bounds]
    if "any_or_all" not in params:
        ((name, inside),) = tests
        return [inside(stored[name]) for stored in statistics]
    some_or_all = any if params["any_or_all"] == "any" else all
    found = []
    for stored in statistics:
        sides = [[inside(value) for value in stored[name]] for name, inside in tests]
        each = [all(fits) for fits in zip(*sides, strict=True)]
        found.append(not each or some_or_all(each))
    return found


def _interval(params: dict[str, Any], low: str, high: str) -> Callable[[float], bool]:
    """Return the test that ``get_keep_boolean`` is, for the limits of these names."""
    turned = params["reversed_range"]
    above = operator.ge if params["min_closed_interval"] != turned else operator.gt
    below = operator.le if params["max_closed_interval"] != turned else operator.lt
    least, most = params.get(low), params[high]

    def inside(value: float) -> bool:
        fits = (least is None or above(value, least)) and (most is None or below(value, most))
        return bool(fits != turned)

    return inside


def native_thresholds(
    entry: Operator, known: dict[str, Any], others: Collection[str] = ()
) -> dict[str, Any] | None:
    """Return all of an operator's parameters, or ``None`` where Data-Juicer has to decide.

    Args:
        entry: the operator.
        known: its own parameters that are covered, with Data-Juicer's defaults.
        others: parameters that are looked at elsewhere, and left out.
    """
    params = {k: v for k, v in params_of(entry).items() if k != TEXT_FLAG and k not in others}
    filled = known | _INTERVAL | params
    fits = filled.keys() == known.keys() | _INTERVAL.keys() and all(
        _acceptable(key, value) for key, value in filled.items()
    )
    return filled if fits and covered() else None


def native_filter(entry: Operator) -> NativeFilter | None:
    """Return an operator of this module, or ``None`` where Data-Juicer has to do it."""
    name = name_of(entry)
    if name not in _PARAMETERS:
        return None
    params = native_thresholds(entry, _PARAMETERS[name])
    return NativeFilter(name, params) if params else None


def _acceptable(key: str, value: Any) -> bool:
    """Tell whether a parameter's value is one that this module treats as Data-Juicer does."""
    if key in _INTERVAL:
        return isinstance(value, bool)
    if key == "lang":
        return isinstance(value, str)
    if key == "tokenization":
        return value is False
    if key == "any_or_all":
        return value in ("any", "all")
    if key == "rep_len":
        return type(value) is int and value > 0
    return value is None or type(value) in (int, float)


def _words_num(batch: Batch, _: dict[str, Any]) -> dict[str, list[Any]]:
    """Count words that are left when special characters are stripped."""
    counts = [sum(1 for word in words if _strip(word)) for words in batch.words]
    return {"num_words": counts}


def _word_repetition(batch: Batch, params: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the share of word n-grams that occur more than once."""
    length = params["rep_len"]
    # Words hold no space, so tuples are equal where Data-Juicer's joined strings are.
    grams = [
        words if length == 1 else list(zip(*(words[i:] for i in range(length)), strict=False))
        for words in batch.lowered
    ]
    return {"word_rep_ratio": [_repeated_share(found) for found in grams]}


def _repeated_share(grams: Sequence[Any]) -> float:
    if not grams or len(set(grams)) == len(grams):
        return 0.0
    return sum(count for count in Counter(grams).values() if count > 1) / len(grams)


def _character_repetition(batch: Batch, params: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the share of the most frequent character n-grams, at most sqrt(distinct) of them."""
    length = params["rep_len"]
    ratios = []
    for text in batch.texts:
        grams = [text[i : i + length] for i in range(len(text) - length + 1)]
        counts = Counter(grams)
        repeated = sorted((count for count in counts.values() if count > 1), reverse=True)
        top = repeated[: math.isqrt(len(counts))]
        ratios.append(sum(top) / len(grams) if grams else 0.0)
    return {"char_rep_ratio": ratios}


def _text_length(batch: Batch, _: dict[str, Any]) -> dict[str, list[Any]]:
    return {"text_len": [len(text) for text in batch.texts]}


def _image_shape(batch: Batch, _: dict[str, Any]) -> dict[str, list[Any]]:
    return {"image_width": batch.sizes("width"), "image_height": batch.sizes("height")}


@lru_cache(_MEMO)
def _strip(word: str) -> str:
    return word.strip(_special_characters())


@cache
def _special_characters() -> str:
    """Return the characters that Data-Juicer strips from words, from its own file."""
    spec = util.spec_from_file_location("recap_special_characters", _table_path())
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {_table_path()}")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Stripping goes character by character: emoji of several never match.
    return "".join(sorted(entry for entry in module.SPECIAL_CHARACTERS if len(entry) == 1))


def _table_path() -> Path:
    spec = util.find_spec("data_juicer")  # finds the package without importing it
    roots = (spec.submodule_search_locations or []) if spec else []
    return Path(next(iter(roots), "")) / "ops" / "common" / "special_characters.py"


@cache
def covered() -> bool:
    """Tell whether the Data-Juicer of this environment is the one described here."""
    try:
        found = version("py-data-juicer")
    except PackageNotFoundError:
        return False
    return found == COVERED_VERSION and _table_path().is_file()


_PARAMETERS: dict[str, dict[str, Any]] = {
    "words_num_filter": _WORDS | {"min_num": 10, "max_num": sys.maxsize},
    "word_repetition_filter": _WORDS | {"rep_len": 10, "min_ratio": 0.0, "max_ratio": 0.5},
    "character_repetition_filter": {"rep_len": 10, "min_ratio": 0.0, "max_ratio": 0.5},
    "text_length_filter": {"min_len": 10, "max_len": sys.maxsize},
    "image_shape_filter": {
        "min_width": 1,
        "max_width": sys.maxsize,
        "min_height": 1,
        "max_height": sys.maxsize,
        "any_or_all": "any",
    },
}
_MEASURES: dict[str, Callable[[Batch, dict[str, Any]], dict[str, list[Any]]]] = {
    "words_num_filter": _words_num,
    "word_repetition_filter": _word_repetition,
    "character_repetition_filter": _character_repetition,
    "text_length_filter": _text_length,
    "image_shape_filter": _image_shape,
}
_BOUNDS: dict[str, tuple[Bound, ...]] = {
    "words_num_filter": (("num_words", "min_num", "max_num"),),
    "word_repetition_filter": (("word_rep_ratio", "min_ratio", "max_ratio"),),
    "character_repetition_filter": (("char_rep_ratio", "min_ratio", "max_ratio"),),
    "text_length_filter": (("text_len", "min_len", "max_len"),),
    "image_shape_filter": (
        ("image_width", "min_width", "max_width"),
        ("image_height", "min_height", "max_height"),
    ),
}
