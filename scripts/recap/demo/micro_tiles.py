"""A scene told tile by tile: what stands in a picture's place in the language model's texts.

The micro language model never sees a picture. Half of its texts begin with a
grid of tiles instead, each an average of the embeddings of the words that are
true there, shaken by noise. A vision projector that maps patches to such
averages is what stage 1 has to find.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from .draw import SIGN_HALF_HEIGHT, SIGN_HALF_WIDTH
from .scene import Scene

if TYPE_CHECKING:
    import torch

WORDS = 6  # token places of a tile
NO_WORD = -1
_MARGIN = 0.02
_KEEP = 0.75  # share of a tile's words that are said
_SILENT = 0.1  # share of tiles that say nothing
_NOISE = (0.05, 0.6)  # deviation of the noise over that of the embeddings, drawn per text
_SCALE = (0.4, 1.6)  # length of the tiles, drawn per text


def tile_words(scene: Scene, rng: np.random.Generator, grid: int) -> list[tuple[str, ...]]:
    """Return the words true of each of ``grid * grid`` tiles, row by row.

    The frame varies as cropped and padded pictures do.
    """
    reach = float(rng.uniform(0.95, 1.2))
    centers = ((np.arange(grid) + 0.5) / grid - 0.5) * reach + 0.5
    return [_words_at(scene, float(x), float(y)) for y in centers for x in centers]


def _words_at(scene: Scene, x: float, y: float) -> tuple[str, ...]:
    for thing in reversed(scene.things):
        near = thing.radius + _MARGIN
        if abs(x - thing.x) <= near and abs(y - thing.y) <= near:
            return (thing.size, thing.color, thing.shape)
    beside = abs(x - scene.sign_x) <= SIGN_HALF_WIDTH
    level = abs(y - scene.sign_y) <= SIGN_HALF_HEIGHT + _MARGIN
    return ("sign", scene.sign) if scene.sign and beside and level else (scene.background,)


class TileWriter:
    """Turns tiles into token ids, and ids into shaken embeddings."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: dict[str, list[int]] = {}

    def encode(self, tiles: list[tuple[str, ...]]) -> np.ndarray:
        """Return (tiles, ``WORDS``) int16 token ids, ``NO_WORD`` where there is none."""
        result = np.full((len(tiles), WORDS), NO_WORD, dtype=np.int16)
        for row, words in enumerate(tiles):
            ids = [number for word in words for number in self._word_ids(word)][:WORDS]
            result[row, : len(ids)] = ids
        return result

    def _word_ids(self, word: str) -> list[int]:
        if word not in self._ids:
            encoded = self._tokenizer(f" {word}", add_special_tokens=False).input_ids
            self._ids[word] = list(encoded)
        return self._ids[word]


def shake(table: "torch.Tensor", tiles: "torch.Tensor") -> "torch.Tensor":
    """Return embeddings of tiles: averages of a random part of the words, with noise.

    Args:
        table: (V, H) float, the embeddings as the decoder reads them.
        tiles: (B, T, ``WORDS``) int64, ``NO_WORD`` where there is none.

    Returns:
        (B, T, H) in the type of ``table``.
    """
    import torch

    count, device = len(tiles), tiles.device
    kept = (tiles != NO_WORD) & (torch.rand(tiles.shape, device=device) < _KEEP)
    kept &= torch.rand((*tiles.shape[:2], 1), device=device) >= _SILENT
    weights = kept / kept.sum(-1, keepdim=True).clamp(min=1)
    mean = (weights.unsqueeze(-2).to(table.dtype) @ table[tiles.clamp(min=0)]).squeeze(-2)
    spread = table.detach().float().std().to(table.dtype)
    low, high = _NOISE
    noise = low + (high - low) * torch.rand((count, 1, 1), device=device)
    low, high = _SCALE
    scale = low + (high - low) * torch.rand((count, 1, 1), device=device)
    shaken: torch.Tensor = (mean + torch.randn_like(mean) * spread * noise) * scale
    return shaken
