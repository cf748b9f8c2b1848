"""A benchmark in the form of TextVQA 0.5.1: questions, ten answers each, OCR tokens."""

from dataclasses import dataclass
from typing import Any

from ..hashing import sha256_bytes
from .pictures import draw_picture
from .questions import prompt, read_tokens, sample_questions, ten_answers
from .settings import WorldSettings
from .streams import Stream, generator
from .tree import Tree

IMAGE_FOLDER = "textvqa/train_images"
_FIRST_QUESTION_ID = 34602
_TWO_QUESTIONS = 0.6


@dataclass(frozen=True)
class Benchmark:
    """Annotations as in ``TextVQA_0.5.1_val.json``, questions as in LLaVA's OCR question file."""

    annotations: dict[str, Any]
    questions: list[dict[str, str]]


def image_name(seed: int, index: int) -> str:
    """Return the image id of TextVQA's form: sixteen hexadecimal digits."""
    return sha256_bytes(f"textvqa image {seed} {index}".encode())[:16]


def build_benchmark(settings: WorldSettings, tree: Tree) -> Benchmark:
    """Draw images, about 1.6 questions each, until there are ``settings.questions``."""
    rows: list[dict[str, Any]] = []
    questions: list[dict[str, str]] = []
    index = 0
    while len(rows) < settings.questions:
        for row, tokens in _one_image(settings, tree, index)[: settings.questions - len(rows)]:
            row["question_id"] = _FIRST_QUESTION_ID + len(rows)
            rows.append(row)
            questions.append(
                {
                    "question_id": row["image_id"],
                    "image": f"{row['image_id']}.jpg",
                    "text": prompt(row["question"], tokens),
                }
            )
        index += 1
    annotations = {
        "dataset_type": "val",
        "dataset_name": "textvqa",
        "dataset_version": "0.5.1",
        "data": rows,
    }
    return Benchmark(annotations, questions)


def _one_image(
    settings: WorldSettings, tree: Tree, index: int
) -> list[tuple[dict[str, Any], list[str]]]:
    rng = generator(settings.seed, Stream.BENCHMARK_TEXT, index)
    low, high = settings.image_min_side, settings.image_max_side
    scene, jpeg, size = draw_picture(settings.seed, Stream.BENCHMARK, index, low, high)
    image_id = image_name(settings.seed, index)
    tree.add(f"{IMAGE_FOLDER}/{image_id}.jpg", jpeg)
    unread = rng.random() < settings.questions_no_ocr_share
    tokens = read_tokens(scene, rng)
    count = 2 if rng.random() < _TWO_QUESTIONS else 1
    return [
        (
            {
                "question": question.text,
                "image_id": image_id,
                "image_width": size[0],
                "image_height": size[1],
                "answers": ten_answers(question, rng),
                "set_name": "val",
            },
            [] if unread else tokens,
        )
        for question in sample_questions(scene, rng, count)
    ]
