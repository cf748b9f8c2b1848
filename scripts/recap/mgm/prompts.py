"""Prompts of the parity gate: pictures with questions, a blank picture, text alone."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from ..errors import RecapError
from ..io import iter_jsonl
from .checkpoint import load_tokenizer
from .configuration import MGMConfig
from .conversation import IMAGE_TOKEN, encode_prompt, stop_token_ids
from .parts import ModelParts
from .processing import ImagePreprocessor


@dataclass(frozen=True)
class ParityPrompt:
    """One prompt.

    Attributes:
        name: for the report.
        text: the user's turn.
        input_ids: with -200 in the place of the picture.
        image: (3, S, S) or None.
        stops: ids that end an answer.
    """

    name: str
    text: str
    input_ids: list[int]
    image: torch.Tensor | None
    stops: tuple[int, ...]


def build_prompts(
    parts: ModelParts,
    config: MGMConfig,
    images_root: str | Path,
    questions: str | Path,
    count: int,
) -> list[ParityPrompt]:
    """Return ``count`` image prompts, one with a blank picture and one without any.

    The first questions with distinct pictures are taken, in the file's order.

    Args:
        parts: the base, whose tokenizer encodes them.
        config: the model's, with template and preprocessor.
        images_root: folder of the pictures.
        questions: JSONL with ``question_id``, ``image``, ``text``.
        count: how many image prompts.

    Raises:
        RecapError: if there are too few, or a picture cannot be read.
    """
    rows = _distinct(questions, count)
    if len(rows) < count:
        raise RecapError(
            f"{questions} asks about {len(rows)} different pictures, but {count} image prompts are "
            "wanted; pass a larger file, or lower parity_prompts"
        )
    tokenizer = load_tokenizer(parts.language_model)
    preprocessor = ImagePreprocessor.from_settings(config.preprocessor)
    stops = stop_token_ids(tokenizer, config.conversation)

    def make(name: str, text: str, picture: Image.Image | None) -> ParityPrompt:
        turn = text if picture is None else f"{IMAGE_TOKEN}\n{text}"
        ids = encode_prompt(turn, tokenizer, config.conversation)
        aspect: Any = config.image_aspect_ratio
        image = None if picture is None else preprocessor(picture, aspect)
        return ParityPrompt(name, turn, ids, image, stops)

    prompts = [
        make(f"{row['question_id']}", row["text"], _open(Path(images_root) / row["image"]))
        for row in rows
    ]
    edge = preprocessor.image_size_aux
    blank = Image.new("RGB", (edge, edge), (127, 127, 127))
    return [
        *prompts,
        make("blank image", rows[0]["text"], blank),
        make("text only", rows[0]["text"], None),
    ]


def _distinct(questions: str | Path, count: int) -> list[dict[str, Any]]:
    seen: dict[str, dict[str, Any]] = {}
    fresh = (row for row in iter_jsonl(questions) if _valid(row, questions))
    for row in fresh:
        seen.setdefault(row["image"], row)
        if len(seen) == count:
            break
    return list(itertools.islice(seen.values(), count))


def _valid(row: dict[str, Any], questions: str | Path) -> bool:
    if not {"question_id", "image", "text"} <= set(row):
        raise RecapError(f"{questions}: a question needs question_id, image and text: {row}")
    wrong = [name for name in ("image", "text") if not isinstance(row[name], str)]
    if wrong:
        raise RecapError(f"{questions}: {wrong[0]} of a question must be text: {row}")
    return True


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise RecapError(f"{path} cannot be read as a picture: {error}") from error
