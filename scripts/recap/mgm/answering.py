"""Greedy answers to batches of prompts, what the prompts share read once.

All prompts about a picture begin with the same tokens and the picture's features,
which are nine tenths of them; so each picture is read once for all its questions,
and each question goes on from there. Keys and values do not depend on what comes
later, so the answers are those of prompts read one by one, rounding apart.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .answer_state import AnswerState
from .conversation import IMAGE_TOKEN_INDEX
from .decoder import CachedDecoder, suits
from .lengths import length_multiple, round_up
from .modeling import MGMForCausalLM

# Positions a forward pass, and pictures: they bound the activations' memory. Four times as many
# were two hundredths faster on an H100.
TOKENS_A_PASS = 10_240
PICTURES_A_PASS = 16
_FIRST_ROOM = 32  # tokens an answer has room for before its cache must grow
_STEP = 64


@dataclass(frozen=True)
class Prompts:
    """Prompts that begin alike but for their picture.

    Attributes:
        before: tokens in front of the picture; none without pictures.
        pictures: (I, N, C) features of the pictures, or None.
        owner: which picture each prompt is about, ascending; empty without pictures.
        after: the other tokens of each prompt, at least one.
    """

    before: list[int]
    pictures: torch.Tensor | None
    owner: list[int]
    after: list[list[int]]

    @property
    def shared(self) -> int:
        """Positions that a prompt shares with the others about its picture."""
        return 0 if self.pictures is None else len(self.before) + self.pictures.shape[1]


class AnswerEngine(Protocol):
    """Answers in two halves, so that the host can work while a GPU reads prompts."""

    def begin(self, prompts: Prompts) -> Any:
        """Start reading prompts; returns what :meth:`finish` takes."""

    def finish(self, started: Any) -> list[list[int]]:
        """Return the new tokens of each prompt, the ending one included."""


def split_prompt(ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return what stands before and behind the picture of a prompt's ids."""
    if IMAGE_TOKEN_INDEX not in ids:
        return [], list(ids)
    place = list(ids).index(IMAGE_TOKEN_INDEX)
    return list(ids[:place]), list(ids[place + 1 :])


def choose_engine(
    model: MGMForCausalLM,
    stops: tuple[int, ...],
    max_new_tokens: int,
    *,
    rows: int,
    compiled: bool = False,
) -> AnswerEngine:
    """Return the fastest engine for a model.

    Args:
        model: in evaluation mode.
        stops: tokens that end an answer.
        max_new_tokens: longest answer.
        rows: prompts a batch, at most.
        compiled: whether to compile what reads prompts, where the engine can.
    """
    if not suits(model.language_model):
        return PlainEngine(model, stops, max_new_tokens)
    engine = SharingEngine(model, stops, max_new_tokens, rows=rows)
    if compiled:
        engine.decoder.compile()
    return engine


class PlainEngine:
    """Answers by the language model's own forward pass, prompts padded in front."""

    def __init__(self, model: MGMForCausalLM, stops: tuple[int, ...], max_new_tokens: int) -> None:
        self._model, self._stops, self._most = model, stops, max_new_tokens

    def begin(self, prompts: Prompts) -> Prompts:
        """Do nothing yet."""
        return prompts

    @torch.inference_mode()
    def finish(self, started: Prompts) -> list[list[int]]:
        """Return the new tokens of each prompt, the ending one included."""
        device = self._model.device
        shown = [IMAGE_TOKEN_INDEX] if started.pictures is not None else []
        input_ids, mask = pad_left([[*started.before, *shown, *ids] for ids in started.after])
        return self._model.generate_answers(
            input_ids.to(device),
            mask.to(device),
            image_features=None if started.pictures is None else started.pictures[started.owner],
            max_new_tokens=self._most,
            eos_token_ids=self._stops,
        )


@dataclass
class _Started:
    state: AnswerState
    count: int
    room: int


class SharingEngine:
    """Answers over a static cache; steps are CUDA graphs where there is CUDA."""

    def __init__(
        self, model: MGMForCausalLM, stops: tuple[int, ...], max_new_tokens: int, *, rows: int
    ) -> None:
        """Take a model whose language model :func:`decoder.suits`."""
        self._model, self._most, self._rows = model, max_new_tokens, rows
        self._embedding: Any = model.get_input_embeddings()
        device = model.device
        self._stops, self._ends = torch.tensor(stops, device=device), set(stops)
        self._graphs = device.type == "cuda"
        self.decoder = CachedDecoder(model.language_model)
        self._state: AnswerState | None = None

    @torch.inference_mode()
    def begin(self, prompts: Prompts) -> _Started:
        """Read the prompts and choose each first token; a GPU is still at it on return."""
        longest, room = self._width(prompts.after), min(self._most, _FIRST_ROOM)
        state = self._room_for(len(prompts.after), prompts.shared + longest, room)
        if prompts.pictures is not None:
            self._read_pictures(prompts, prompts.pictures, state)
        lengths = [prompts.shared + len(ids) for ids in prompts.after]
        state.begin(self._tensor(lengths), self._read_texts(prompts, state), self._stops)
        return _Started(state, len(prompts.after), room)

    @torch.inference_mode()
    def finish(self, started: _Started) -> list[list[int]]:
        """Return the new tokens of each prompt, the ending one included."""
        state, room, made = started.state, started.room, 1
        while made < self._most and not bool(state.progress.ended.all()):
            if made == room:
                room = min(2 * room, self._most)
                state = self._grow(state, room - made)
            state.step(self._stops)
            made += 1
        return [
            _cut(row, self._ends) for row in state.progress.out[: started.count, :made].tolist()
        ]

    def _room_for(self, count: int, prompt: int, answer: int) -> AnswerState:
        """Return caches for a batch: those of the last one if they fit."""
        rows, length = count, prompt + answer
        if self._graphs:  # few shapes, so that few graphs are captured
            rows = min(self._rows, 1 << (count - 1).bit_length()) if count <= self._rows else count
            length = round_up(length, _STEP)
        state = self._state
        if state is None or state.rows != rows or not length <= state.length <= length + _STEP:
            self._state = state = None  # frees the old one first
            like = self._embedding.weight
            state = AnswerState(self.decoder, rows, length, self._most, like)
            if self._graphs and self._most > 1:
                state.capture(self._stops)
        self._state = state
        return state

    def _grow(self, state: AnswerState, more: int) -> AnswerState:
        self._state = None
        grown = state.grown(state.length + more, self._embedding.weight)
        if self._graphs:
            grown.capture(self._stops)
        return grown

    def _read_pictures(self, prompts: Prompts, pictures: torch.Tensor, state: AnswerState) -> None:
        features = self._model.scale_features(pictures)
        before = self._embedding(self._tensor(prompts.before))
        owner = self._tensor(prompts.owner)
        for part in _parts(len(pictures), prompts.shared):
            shown = features[part]
            embedded = torch.cat([before.expand(len(shown), -1, -1), shown], dim=1)
            rows = slice(*(bisect_left(prompts.owner, end) for end in (part.start, part.stop)))
            caches = [cache[:, rows] for cache in state.caches]
            self.decoder.read_shared(embedded, caches, owner[rows] - part.start)

    def _read_texts(self, prompts: Prompts, state: AnswerState) -> torch.Tensor:
        found = []
        for part in _parts(len(prompts.after), self._width(prompts.after)):
            ids = prompts.after[part]
            width = self._width(ids)
            padded = self._tensor([[*row, *[0] * (width - len(row))] for row in ids])
            found.append(
                self.decoder.read_own(
                    self._embedding(padded),
                    self._tensor([len(row) for row in ids]),
                    [cache[:, part] for cache in state.caches],
                    prompts.shared,
                )
            )
        return torch.cat(found)

    def _width(self, rows: Sequence[Sequence[int]]) -> int:
        return round_up(max(map(len, rows)), length_multiple(self._stops.device))

    def _tensor(self, values: Any) -> torch.Tensor:
        made = torch.tensor(values, dtype=torch.int64)
        if self._graphs:
            return made.pin_memory().to(self._stops.device, non_blocking=True)
        return made


def _parts(count: int, width: int) -> Iterator[slice]:
    """Yield slices of ``count`` rows of a width, as many at a time as a pass takes."""
    rows = max(1, TOKENS_A_PASS // max(width, 1))
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def _cut(row: list[int], stops: set[int]) -> list[int]:
    """Return a row up to its first ending token."""
    end = next((place for place, token in enumerate(row) if token in stops), len(row) - 1)
    return row[: end + 1]


def pad_left(sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask, int64 (B, L), with the padding in front.

    The ends line up, so the next token of every row is at the same position.
    """
    longest = max(len(sequence) for sequence in sequences)
    input_ids = torch.zeros((len(sequences), longest), dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        start = longest - len(sequence)
        input_ids[row, start:] = torch.tensor(sequence, dtype=torch.int64)
        attention_mask[row, start:] = 1
    return input_ids, attention_mask
