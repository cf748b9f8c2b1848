"""Per-question scores of all arms and seeds of a benchmark, lined up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GateError, RecapError
from ..io import read_jsonl
from .inputs import ComparisonInputs
from .resampling import FloatArray, IntArray

Key = tuple[str, str]
_NEEDED = ("question_id", "image_id", "question", "prediction", "normalized", "accuracy")

_KEPT = (
    "question_id",
    "image_id",
    "question",
    "question_type",
    "has_ocr",
    "answer_words",
    "image",
)


@dataclass(frozen=True)
class BenchmarkScores:
    """What every arm and seed scored on the same questions, in the same order.

    Attributes:
        benchmark: its name.
        seeds: training seeds, the rows of the arrays.
        questions: per question the fields that no answer changes: ``question_id``,
            ``image_id``, ``question``, ``question_type``, ``has_ocr``, ``image``,
            ``truth``, ``answer_words`` (the last three may be none).
        images: (N,) image number of each question, 0 to C - 1.
        accuracy: arm to (S, N) points, 0 to 100.
        normalized: arm to (S, N) answers in the form that is scored, as strings.
        predictions: arm to (S, N) answers as given.
    """

    benchmark: str
    seeds: tuple[int, ...]
    questions: list[dict[str, Any]]
    images: IntArray
    accuracy: dict[str, FloatArray]
    normalized: dict[str, NDArray[np.str_]]
    predictions: dict[str, NDArray[np.str_]]

    @property
    def image_count(self) -> int:
        """Return the number of distinct images."""
        return int(self.images.max()) + 1


def load_scores(inputs: ComparisonInputs, benchmark: str) -> BenchmarkScores:
    """Read the score files of a benchmark; see :func:`align_scores`."""
    rows = {
        (arm, seed): read_rows(inputs.evaluation(arm, seed, benchmark).scores)
        for arm in inputs.arm_names
        for seed in inputs.seeds
    }
    return align_scores(benchmark, inputs.arm_names, inputs.seeds, rows)


def align_scores(
    benchmark: str,
    arms: Sequence[str],
    seeds: Sequence[int],
    rows: Mapping[tuple[str, int], Mapping[Key, Mapping[str, Any]]],
) -> BenchmarkScores:
    """Line up rows by (question id, question), in the order of the first run.

    Args:
        benchmark: its name, for messages.
        arms: arm names; the first run gives the order.
        seeds: training seeds.
        rows: (arm, seed) to rows by key.

    Raises:
        GateError: if a run answered other questions than the first one.
    """
    first = rows[arms[0], seeds[0]]
    for (arm, seed), found in rows.items():
        _require_same_questions(benchmark, (arms[0], seeds[0]), first, (arm, seed), found)
    keys = list(first)
    numbers: dict[str, int] = {}
    images = [numbers.setdefault(str(first[key]["image_id"]), len(numbers)) for key in keys]

    def grid(arm: str, field: str, dtype: Any) -> Any:
        return np.array([[rows[arm, seed][key][field] for key in keys] for seed in seeds], dtype)

    return BenchmarkScores(
        benchmark=benchmark,
        seeds=tuple(seeds),
        questions=[_question(first[key]) for key in keys],
        images=np.array(images, dtype=np.int64),
        accuracy={arm: 100 * grid(arm, "accuracy", np.float64) for arm in arms},
        normalized={arm: grid(arm, "normalized", np.str_) for arm in arms},
        predictions={arm: grid(arm, "prediction", np.str_) for arm in arms},
    )


def _question(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in _KEPT} | {"truth": row.get("truth", row.get("label"))}


def read_rows(path: Path) -> dict[Key, dict[str, Any]]:
    """Return a score file's rows by (question id, question), in its order.

    Raises:
        RecapError: at the first row that is malformed or there twice.
        GateError: if there is no row.
    """
    rows: dict[Key, dict[str, Any]] = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        missing = [name for name in _NEEDED if name not in row]
        if missing:
            raise RecapError(f"{path}, row {number}: lacks {', '.join(missing)}")
        key = (str(row["question_id"]), str(row["question"]))
        if key in rows:
            raise RecapError(f"{path}, row {number}: question {key} is there twice")
        accuracy = row["accuracy"]
        if not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1:
            raise RecapError(f"{path}, row {number}: accuracy {accuracy!r} is not within 0 and 1")
        rows[key] = row
    if not rows:
        raise GateError(f"{path}: no question was scored, so there is nothing to compare")
    return rows


def _require_same_questions(
    benchmark: str,
    first: tuple[str, int],
    first_rows: Mapping[Key, Any],
    other: tuple[str, int],
    other_rows: Mapping[Key, Any],
) -> None:
    missing = [key for key in first_rows if key not in other_rows]
    foreign = [key for key in other_rows if key not in first_rows]
    if not missing and not foreign:
        return
    example = (missing or foreign)[0]
    raise GateError(
        f"{benchmark}: arm {other[0]} seed {other[1]} lacks {len(missing)} questions of arm "
        f"{first[0]} seed {first[1]} and has {len(foreign)} others (for instance {example}); "
        "score the same question file for every run"
    )
