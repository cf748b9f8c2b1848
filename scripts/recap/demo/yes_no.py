"""A benchmark in the form of POPE: is an object in the picture, yes or no."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..hashing import sha256_bytes
from .closed import KINDS, Kind, ask_kind, kinds_of, mixed_kinds
from .pictures import draw_picture
from .scene import Scene
from .settings import WorldSettings
from .streams import Stream, generator
from .tree import Tree

CATEGORIES = ("random", "popular", "adversarial")
IMAGE_FOLDER = "pope/val2014"
_POPULAR = 8


@dataclass(frozen=True)
class YesNo:
    """Rows of LLaVA's question file, and of POPE's own file of each category."""

    questions: list[dict[str, Any]]
    labels: dict[str, list[dict[str, Any]]]


def build_yes_no(settings: WorldSettings, tree: Tree) -> YesNo:
    """Ask of each picture, in each category, for one object that is there and one that isn't.

    The absent one is any (``random``), one of the eight most frequent in this
    benchmark's pictures (``popular``), or one that mixes up or nearly equals
    those in the picture (``adversarial``).
    """
    scenes = [_picture(settings, tree, index) for index in range(settings.pope_images)]
    seen = Counter(kind for scene in scenes for kind in kinds_of(scene))
    popular = sorted(KINDS, key=lambda kind: (-seen[kind], KINDS.index(kind)))[:_POPULAR]
    questions: list[dict[str, Any]] = []
    labels: dict[str, list[dict[str, Any]]] = {}
    for number, category in enumerate(CATEGORIES):
        labels[category] = []
        for index, scene in enumerate(scenes):
            rng = generator(settings.seed, Stream.POPE_TEXT, index * len(CATEGORIES) + number)
            absent = _absent(scene, category, popular)
            asked = {"yes": _pick(kinds_of(scene), rng), "no": _pick(absent, rng)}
            for label in ("yes", "no") if rng.random() < 0.5 else ("no", "yes"):
                row = {
                    "question_id": len(questions),
                    "image": image_name(settings.seed, index),
                    "text": ask_kind(asked[label]),
                }
                questions.append(row | {"category": category})
                labels[category].append(row | {"label": label})
    return YesNo(questions, labels)


def image_name(seed: int, index: int) -> str:
    """Return a file name of COCO's form."""
    number = int(sha256_bytes(f"pope image {seed}".encode())[:7], 16) + index
    return f"COCO_val2014_{number:012d}.jpg"


def _picture(settings: WorldSettings, tree: Tree, index: int) -> Scene:
    low, high = settings.image_min_side, settings.image_max_side
    scene, jpeg, _ = draw_picture(settings.seed, Stream.POPE, index, low, high)
    tree.add(f"{IMAGE_FOLDER}/{image_name(settings.seed, index)}", jpeg)
    return scene


def _absent(scene: Scene, category: str, popular: list[Kind]) -> list[Kind]:
    """Return the objects to choose from for a question whose answer is no."""
    if category == "adversarial":
        return mixed_kinds(scene)
    shown = kinds_of(scene)
    return [kind for kind in (popular if category == "popular" else KINDS) if kind not in shown]


def _pick(kinds: list[Kind], rng: np.random.Generator) -> Kind:
    return kinds[int(rng.integers(len(kinds)))]
