"""The texts a micro language model learns from, as arrays: told scenes and tiled scenes."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..mgm.conversation import IGNORE_INDEX, IMAGE_TOKEN_INDEX, encode_sample
from .micro_text import scene_rounds, told
from .micro_tiles import NO_WORD, WORDS, TileWriter, tile_words
from .parallel import make_samples
from .scene import sample_scene
from .streams import Stream, generator

PAD = 0
_IMAGE = "<image>"


@dataclass(frozen=True)
class Lesson:
    """One encoded text.

    Attributes:
        ids: token ids; -200 in each place of a tile.
        labels: the ids, -100 where nothing is asked.
        tiles: (T, ``WORDS``) int16 token ids of the tiles; T is 0 in a told text.
    """

    ids: np.ndarray
    labels: np.ndarray
    tiles: np.ndarray


def write_lessons(
    tokenizer: Any, seed: int, stream: Stream, count: int, grid: int, workers: int = 1
) -> list[Lesson]:
    """Return ``count`` texts; every other one has ``grid * grid`` tiles in front."""
    make = partial(_write_chunk, tokenizer, seed, stream, grid)
    return list(make_samples(make, count, workers))


def _write_chunk(
    tokenizer: Any, seed: int, stream: Stream, grid: int, indices: range
) -> list[Lesson]:
    writer = TileWriter(tokenizer)
    return [_write(tokenizer, writer, seed, stream, grid, index) for index in indices]


def _write(
    tokenizer: Any, writer: TileWriter, seed: int, stream: Stream, grid: int, index: int
) -> Lesson:
    rng = generator(seed, stream, index)
    scene = sample_scene(rng)
    tiled = index % 2 == 1
    rounds = scene_rounds(scene, rng, _IMAGE if tiled else told(scene, rng))
    turns: list[dict[str, str]] = []
    for user, answer in rounds:
        turns += [{"from": "human", "value": user}, {"from": "gpt", "value": answer}]
    ids, labels = encode_sample(turns, tokenizer)
    if not tiled:
        return Lesson(_short(ids), _short(labels), np.empty((0, WORDS), dtype=np.int16))
    at, count = ids.index(IMAGE_TOKEN_INDEX), grid * grid
    ids[at : at + 1] = [IMAGE_TOKEN_INDEX] * count
    labels[at : at + 1] = [IGNORE_INDEX] * count
    return Lesson(_short(ids), _short(labels), writer.encode(tile_words(scene, rng, grid)))


def _short(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int16)


def collate(lessons: list[Lesson], grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids and labels (B, L) int64, padded on the right, and tiles (B', T, ``WORDS``)."""
    length = max(len(lesson.ids) for lesson in lessons)
    ids = np.full((len(lessons), length), PAD, dtype=np.int64)
    labels = np.full((len(lessons), length), IGNORE_INDEX, dtype=np.int64)
    for row, lesson in enumerate(lessons):
        ids[row, : len(lesson.ids)] = lesson.ids
        labels[row, : len(lesson.ids)] = lesson.labels
    tiled = [lesson.tiles for lesson in lessons if len(lesson.tiles)]
    tiles = np.stack(tiled) if tiled else np.full((0, grid * grid, WORDS), NO_WORD)
    return ids, labels, tiles.astype(np.int64)
