"""The raw corpus: pictures with captions good and bad, and lines that are unfit."""

from dataclasses import dataclass
from typing import Any

from ..curate.questions import STAGE1_QUESTIONS
from ..hashing import stable_fraction
from .badlines import BAD_KINDS, BadLine, Ingredients, chunk, encode_record, make_bad_line
from .captions import canonical_caption, caption
from .corrupt import choose_corruption, corrupt
from .pictures import corpus_picture, draw_picture
from .settings import WorldSettings
from .streams import Stream, generator
from .tree import Tree

_ID_RANGE = 10_000_000
_ID_STEP = 6_700_417  # prime, so that multiples never meet within the range


@dataclass(frozen=True)
class Corpus:
    """What was made.

    Attributes:
        lines: the bytes of ``corpus.jsonl``, line by line, without line ends.
        truth: one row a good record, in corpus order.
        original: LLaVA's stage-1 form of the good records.
        bad_lines: ``{"line", "kind", "id"}``, lines counted from 1.
    """

    lines: list[bytes]
    truth: list[dict[str, Any]]
    original: list[dict[str, Any]]
    bad_lines: list[dict[str, Any]]


def record_id(seed: int, index: int) -> str:
    """Return the nine-digit id of record ``index``; distinct below ten million records."""
    start = int(stable_fraction("record id", seed) * _ID_RANGE)
    return f"{(start + index * _ID_STEP) % _ID_RANGE:09d}"


def build_corpus(settings: WorldSettings, tree: Tree) -> Corpus:
    """Draw all records, put their images into ``tree``, and mix the bad lines in."""
    good: list[bytes] = []
    truth: list[dict[str, Any]] = []
    original: list[dict[str, Any]] = []
    for index in range(settings.records):
        row = _good_record(settings, tree, index)
        truth.append(row)
        text = row.pop("raw_caption")
        images = [row["image"]]
        good.append(encode_record({"id": row["id"], "text": chunk(text), "images": images}))
        original.append(_llava_record(row["id"], row["image"], text))
    lines, bad_lines = _mix(good, _bad_lines(settings, tree))
    return Corpus(lines, truth, original, bad_lines)


def _good_record(settings: WorldSettings, tree: Tree, index: int) -> dict[str, Any]:
    name = record_id(settings.seed, index)
    image = f"images/{name[:5]}/{name}.jpg"
    picture = corpus_picture(settings, index)
    scene = picture.scene
    tree.add(image, picture.jpeg)
    rng = generator(settings.seed, Stream.CAPTION, index)
    kind = choose_corruption(settings.corruption, float(rng.random()))
    true_caption = caption(scene, rng)
    source = picture.duplicate_of
    return {
        "id": name,
        "image": image,
        "image_kind": picture.kind,
        "duplicate_of": None if source is None else record_id(settings.seed, source),
        "watermark": picture.watermark,
        "width": picture.size[0],
        "height": picture.size[1],
        "corruption": kind,
        "caption": true_caption,
        "canonical": canonical_caption(scene),
        "scene": scene.facts(),
        "raw_caption": corrupt(kind, true_caption, scene, rng),
    }


def _llava_record(name: str, image: str, text: str) -> dict[str, Any]:
    choice = int(stable_fraction("caption question", name) * len(STAGE1_QUESTIONS))
    return {
        "id": name,
        "conversations": [
            {"from": "human", "value": f"<image>\n{STAGE1_QUESTIONS[choice]}"},
            {"from": "gpt", "value": text},
        ],
        "image": image,
    }


def _bad_lines(settings: WorldSettings, tree: Tree) -> list[BadLine]:
    """Build every kind as often as configured; ids count down, away from the good records'."""
    made = []
    for number in range(settings.bad_lines * len(BAD_KINDS)):
        low, high = settings.image_min_side, settings.image_max_side
        scene, jpeg, _ = draw_picture(settings.seed, Stream.BAD_LINE, number, low, high)
        parts = Ingredients(
            id=record_id(settings.seed, _ID_RANGE - 1 - number),
            caption=canonical_caption(scene),
            jpeg=jpeg,
            earlier_id=record_id(settings.seed, 0),
        )
        line = make_bad_line(BAD_KINDS[number % len(BAD_KINDS)], parts)
        for path, data in line.files.items():
            tree.add(path, data)
        made.append(line)
    return made


def _mix(good: list[bytes], bad: list[BadLine]) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Spread the bad lines evenly over the middle half of the corpus."""
    lines: list[bytes] = []
    listed: list[dict[str, Any]] = []
    first, span = len(good) // 4, len(good) // 2
    due = [first + k * span // len(bad) for k in range(len(bad))]
    waiting = 0
    for index, data in enumerate(good):
        lines.append(data)
        while waiting < len(bad) and due[waiting] <= index:
            line = bad[waiting]
            lines.append(line.data)
            listed.append({"line": len(lines), "kind": line.kind, "id": line.id})
            waiting += 1
    return lines, listed
