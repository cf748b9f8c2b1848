"""Data-Juicer's image operators with a model, their statistics computed in batches.

Data-Juicer calls the model once a record. Here the images of a whole shard go
through it in batches; numbers and verdicts are those of the operator's class,
which takes longer to import than a shard takes to select. An operator with a
parameter that changes more than is known here runs through its class.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..errors import RecapError
from .ahead import Source
from .image_models import Classifier, Scorer, Texts, score_images
from .native import Bound, native_thresholds, verdicts
from .recipe import Operator, measurement, name_of, params_of
from .records import END_OF_CHUNK, IMAGE_TOKEN, OTHER_TOKENS, Record
from .statistics import operator_key

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from ..settings import OperatorModelSettings


_SCORES = {"min_score": 0.0, "max_score": 1.0, "any_or_all": "any"}


@dataclass(frozen=True)
class _Kind:
    """An operator: its model parameter, that one's default, its statistic and thresholds."""

    parameter: str
    default: str
    statistic: str
    thresholds: dict[str, Any]
    texts: bool = False

    @property
    def measuring(self) -> set[str]:
        """Return the parameters that its statistic depends on."""
        names = {self.parameter, "trust_remote_code"}
        return names.union(_TEXT_PARAMETERS) if self.texts else names

    @property
    def bound(self) -> Bound:
        """Return its statistic with the parameters that bound it."""
        high = "max_score" if "max_score" in self.thresholds else "prob_threshold"
        return self.statistic, "min_score", high


KINDS = {
    "image_watermark_filter": _Kind(
        "hf_watermark_model",
        "amrul-hzz/watermark_detector",
        "image_watermark_prob",
        {"prob_threshold": 0.8, "any_or_all": "any"},
    ),
    "image_nsfw_filter": _Kind(
        "hf_nsfw_model",
        "Falconsai/nsfw_image_detection",
        "image_nsfw_score",
        _SCORES | {"max_score": 0.5},
    ),
    "image_aesthetics_filter": _Kind(
        "hf_scorer_model",
        "shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE",
        "image_aesthetics_scores",
        _SCORES | {"min_score": 0.5},
    ),
    "image_text_similarity_filter": _Kind(
        "hf_clip",
        "openai/clip-vit-base-patch32",
        "image_text_similarity",
        _SCORES | {"min_score": 0.1},
        texts=True,
    ),
    "image_text_matching_filter": _Kind(
        "hf_blip",
        "Salesforce/blip-itm-base-coco",
        "image_text_matching_score",
        _SCORES | {"min_score": 0.003},
        texts=True,
    ),
}
_TEXT_PARAMETERS = ("horizontal_flip", "vertical_flip", "reduce_mode")
_REDUCE: dict[str, Callable[[list[float]], float]] = {"avg": fmean, "max": max, "min": min}

# The texts of a record with the images each belongs to.
_Chunks = list[tuple[str, list[str]]]


def is_batched(operator: Operator) -> bool:
    """Tell whether an operator's statistic is computed here."""
    kind = KINDS.get(name_of(operator))
    params = params_of(operator)
    if kind is None or params.get("trust_remote_code"):
        return False
    return set(params) <= kind.measuring and params.get("reduce_mode", "avg") in _REDUCE


def model_verdicts(operator: Operator, statistics: list[dict[str, Any]]) -> list[bool] | None:
    """Return which records an operator keeps, or ``None`` where its class has to decide.

    Args:
        operator: with its thresholds.
        statistics: one dict a record, of stored statistics.
    """
    kind = KINDS.get(name_of(operator))
    if kind is None or not is_batched(measurement(operator)):
        return None
    params = native_thresholds(operator, kind.thresholds, kind.measuring)
    return verdicts([kind.bound], params, statistics) if params else None


def model_statistics(
    rows: Sequence[Record],
    image_root: Path,
    operators: Sequence[Operator],
    settings: "OperatorModelSettings",
) -> dict[str, list[dict[str, Any]]]:
    """Compute the statistics of all operators with a model, decoding every image once.

    Args:
        rows: records; their text still has its special tokens.
        image_root: folder their image paths are relative to.
        operators: any operators; those that :func:`is_batched` refuses are passed over.
        settings: type of the models and images a forward pass.

    Returns:
        For each operator, by :func:`operator_key`, one dict of statistics a
        record, as Data-Juicer's class stores them.

    Raises:
        RecapError: if a model cannot be loaded or an image not be decoded.
    """
    batched = {operator_key(o): o for o in operators if is_batched(o)}
    if not (rows and batched):
        return {}
    owners: dict[str, str] = {}
    for row in rows:
        for path in row["images"]:
            owners.setdefault(path, row["id"])
    plans = [_plan(rows, operator) for operator in batched.values()]
    sources = [Source(image_root / path, owner) for path, owner in owners.items()]
    texts: list[Texts] = [[list(plan.wanted.get(path, ())) for path in owners] for plan in plans]
    scorers = [_scorer(operator, settings) for operator in batched.values()]
    numbers = score_images(sources, scorers, texts, batch_size=settings.batch_size)
    return {
        key: plan.statistics(dict(zip(owners, scores, strict=True)))
        for key, plan, scores in zip(batched, plans, numbers, strict=True)
    }


@dataclass(frozen=True)
class _Plan:
    """What one operator wants of the images, and how it makes statistics of it.

    Attributes:
        chunks: for each record its texts with their images.
        wanted: for each image its distinct texts and their places.
    """

    rows: Sequence[Record]
    kind: _Kind
    reduce: Callable[[list[float]], float]
    chunks: list[_Chunks]
    wanted: dict[str, dict[str, int]]

    def statistics(self, scores: dict[str, list[float]]) -> list[dict[str, Any]]:
        """Return one dict a record from each image's numbers, one a text."""
        found = []
        for row, chunks in zip(self.rows, self.chunks, strict=True):
            if self.kind.texts:
                values = [
                    self.reduce([scores[path][self.wanted[path][text]] for path in images])
                    for text, images in chunks
                ]
            else:
                # An image that a record has twice counts once, as in Data-Juicer.
                values = [scores[path][0] for path in dict.fromkeys(row["images"])]
            found.append({self.kind.statistic: values})
        return found


def _plan(rows: Sequence[Record], operator: Operator) -> _Plan:
    kind = KINDS[name_of(operator)]
    chunks = [_chunks(row) if kind.texts else [] for row in rows]
    wanted: dict[str, dict[str, int]] = {}
    for row_chunks in chunks:
        for text, images in row_chunks:
            for path in images:
                places = wanted.setdefault(path, {})
                places.setdefault(text, len(places))
    return _Plan(rows, kind, _REDUCE[params_of(operator).get("reduce_mode", "avg")], chunks, wanted)


def _chunks(row: Record) -> _Chunks:
    """Return the bare text of each chunk with its images, as Data-Juicer cuts them."""
    found: _Chunks = []
    offset = 0
    for chunk in row["text"].split(END_OF_CHUNK) if row["images"] else ():
        count = chunk.count(IMAGE_TOKEN)
        if not count:
            continue
        images = row["images"][offset : offset + count]
        if not images:
            raise RecapError(
                f"id {row['id']!r}: its text has more image tokens than the record has images; "
                "fix or remove the record"
            )
        text = chunk
        for token in (IMAGE_TOKEN, *OTHER_TOKENS, END_OF_CHUNK):
            text = text.replace(token, "").strip()
        found.append((text, list(images)))
        offset += count
    return found


class _Flipped:
    """A scorer that sees its images mirrored, upside down, or both."""

    def __init__(self, scorer: Any, *, horizontal: bool, vertical: bool, scale: float) -> None:
        self._scorer = scorer
        self._horizontal, self._vertical, self._scale = horizontal, vertical, scale
        self.device = scorer.device

    def prepare(self, image: "Image") -> "NDArray[Any]":
        from PIL import ImageOps

        image = ImageOps.mirror(image) if self._horizontal else image
        prepared: NDArray[Any] = self._scorer.prepare(
            ImageOps.flip(image) if self._vertical else image
        )
        return prepared

    def score(self, images: list[Any], texts: Texts) -> list[list[float]]:
        numbers = self._scorer.score(images, texts)
        return [[value * self._scale for value in values] for values in numbers]


def _scorer(operator: Operator, settings: "OperatorModelSettings") -> Scorer:
    """Load the model of an operator."""
    name, params = name_of(operator), params_of(operator)
    kind = KINDS[name]
    folder = params.get(kind.parameter) or kind.default
    dtype, size = settings.dtype, settings.batch_size
    if name == "image_aesthetics_filter":
        from .aesthetics import AestheticsScorer

        # By the name, as Data-Juicer decides it.
        divisor = 10.0 if "aesthetics-predictor" in folder else 1.0
        return AestheticsScorer(folder, dtype=dtype, divisor=divisor)
    if not kind.texts:
        return Classifier(folder, dtype=dtype)
    scorer: Any
    scale = 1.0
    if name == "image_text_similarity_filter":
        from .clip import ClipScorer

        scorer = ClipScorer(folder, dtype=dtype, batch_size=size)
        scale = scorer.logit_scale / 100.0
    else:
        from .matching import MatchScorer

        scorer = MatchScorer(folder, dtype=dtype, batch_size=size)
    return _Flipped(
        scorer,
        horizontal=params.get("horizontal_flip", False),
        vertical=params.get("vertical_flip", False),
        scale=scale,
    )
