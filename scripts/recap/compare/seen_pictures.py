"""Questions about pictures that were trained on: did their caption change between two arms?

A benchmark is usually about other pictures, and then this says so: none was
trained on. Pictures are the same if their bytes are, whatever their names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..hashing import sha256_bytes, sha256_file
from ..io import iter_json_array
from .inputs import ArmInputs, ComparisonInputs
from .scores import BenchmarkScores
from .thumbnails import find_picture

_Index = dict[int, list[tuple[Path, str]]]
CHANGED, KEPT, ONE_ARM, UNSEEN = (
    "changed",
    "kept",
    "trained on by one arm",
    "not trained on",
)


@dataclass(frozen=True)
class Seen:
    """What became of the captions of a benchmark's pictures.

    Attributes:
        fates: for each question ``changed``, ``kept``, ``trained on by one arm``
            or ``not trained on``.
        pictures: how many pictures of the benchmark were found and looked at.
        trained_on: how many of them are in a training set of stage 1.
    """

    fates: list[str]
    pictures: int
    trained_on: int


class SeenPictures:
    """Looks up the pictures of benchmarks in the training sets of an experiment's arms."""

    def __init__(self, inputs: ComparisonInputs) -> None:
        """Look in the training sets that ``inputs`` names; nothing is read yet."""
        self._inputs = inputs
        self._indexes: dict[Path, _Index] = {}
        self._hash = cache(sha256_file)

    def compare(self, scores: BenchmarkScores, arm: str, reference: str) -> Seen | None:
        """Return the fates of a benchmark's questions between two arms.

        Returns:
            ``None`` where a training set, the benchmark's pictures or the
            corpus's pictures are not at hand, so that nobody can say.
        """
        root = next(b.image_root for b in self._inputs.benchmarks if b.name == scores.benchmark)
        if root is None:
            return None
        sides = [self._index(a) for n in (arm, reference) for a in self._inputs.arms if a.arm == n]
        names = {str(q["image_id"]): str(q["image"] or q["image_id"]) for q in scores.questions}
        found = {image: find_picture(root, name) for image, name in names.items()}
        known = {image: path for image, path in found.items() if path is not None}
        if not known or not all(sides):
            return None
        fates = {image: self._fate(path, sides) for image, path in known.items()}
        return Seen(
            fates=[fates.get(str(q["image_id"]), UNSEEN) for q in scores.questions],
            pictures=len(known),
            trained_on=sum(fate != UNSEEN for fate in fates.values()),
        )

    def _fate(self, picture: Path, sides: Sequence[_Index]) -> str:
        size = picture.stat().st_size
        captions = []
        for side in sides:
            # Bytes are read only where the number of bytes is the same.
            alike = (text for path, text in side.get(size, []) if self._same(path, picture))
            captions.append(next(alike, None))
        if captions == [None, None]:
            return UNSEEN
        if None in captions:
            return ONE_ARM
        return KEPT if captions[0] == captions[1] else CHANGED

    def _same(self, first: Path, second: Path) -> bool:
        return self._hash(first) == self._hash(second)

    def _index(self, arm: ArmInputs) -> _Index:
        """Return path and caption's hash of an arm's pictures, by size in bytes."""
        if arm.dataset is None or arm.image_root is None:
            return {}
        if arm.dataset not in self._indexes:
            index: _Index = {}
            for sample in iter_json_array(arm.dataset):
                path = arm.image_root / sample["image"]
                if path.is_file():
                    text = sha256_bytes(sample["conversations"][-1]["value"].encode())
                    index.setdefault(path.stat().st_size, []).append((path, text))
            self._indexes[arm.dataset] = index
        return self._indexes[arm.dataset]
