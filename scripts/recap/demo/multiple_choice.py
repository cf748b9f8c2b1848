"""A benchmark in the form of MMBench's TSV: letters, with circular rows."""

import base64
import csv
import io
from typing import Any

from .closed import LETTERS, pick_options
from .pictures import draw_picture
from .questions import sample_questions
from .settings import WorldSettings
from .streams import Stream, generator

COLUMNS = (
    "index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source",
    "l2-category", "comment", "split",
)  # fmt: skip
_ROTATION = 1_000_000
_FIRST_INDEX = 241
_HINT_SHARE = 0.25
_HINT = "The picture shows coloured shapes and sometimes a sign."
_QUESTIONS_AN_IMAGE = 2
_CATEGORIES = {
    "sign": ("ocr", "finegrained_perception (instance-level)"),
    "color": ("attribute_recognition", "finegrained_perception (instance-level)"),
    "shape": ("attribute_recognition", "finegrained_perception (instance-level)"),
    "place": ("object_localization", "finegrained_perception (instance-level)"),
    "count": ("object_localization", "finegrained_perception (instance-level)"),
    "background": ("image_scene", "coarse_perception"),
}


def build_multiple_choice(settings: WorldSettings) -> list[dict[str, Any]]:
    """Return the table's rows by index: ``mmbench_questions``, then their rotations.

    Rotation r of the question with index b has index b + 1,000,000 r, and each
    option stands r places further on. Images are in the rows, as base64.
    """
    bases: list[dict[str, Any]] = []
    for number in range(0, settings.mmbench_questions, _QUESTIONS_AN_IMAGE):
        bases += _one_image(settings, number // _QUESTIONS_AN_IMAGE)
    rows = []
    for number, base in enumerate(bases[: settings.mmbench_questions]):
        rows += _rotations(base, _FIRST_INDEX + number)
    return sorted(rows, key=lambda row: int(row["index"]))


def table_bytes(rows: list[dict[str, Any]]) -> bytes:
    """Return the rows as a TSV in UTF-8."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def _one_image(settings: WorldSettings, index: int) -> list[dict[str, Any]]:
    rng = generator(settings.seed, Stream.MMBENCH_TEXT, index)
    low, high = settings.image_min_side, settings.image_max_side
    scene, jpeg, _ = draw_picture(settings.seed, Stream.MMBENCH, index, low, high)
    image = base64.b64encode(jpeg).decode("ascii")
    return [
        {
            "question": question.text[0].upper() + question.text[1:],
            "hint": _HINT if rng.random() < _HINT_SHARE else "",
            "options": pick_options(question, scene, rng),
            "right": question.answer,
            "category": _CATEGORIES[question.kind][0],
            "image": image,
            "source": "demo",
            "l2-category": _CATEGORIES[question.kind][1],
            "comment": "",
            "split": "dev",
        }
        for question in sample_questions(scene, rng, _QUESTIONS_AN_IMAGE)
    ]


def _rotations(base: dict[str, Any], index: int) -> list[dict[str, Any]]:
    options = base["options"]
    rows = []
    for rotation in range(len(options)):
        moved = [options[(place - rotation) % len(options)] for place in range(len(options))]
        row = {name: base[name] for name in COLUMNS if name in base}
        row |= dict.fromkeys(LETTERS, "") | dict(zip(LETTERS, moved, strict=False))
        row["index"] = str(index + rotation * _ROTATION)
        row["answer"] = LETTERS[moved.index(base["right"])]
        rows.append(row)
    return rows
