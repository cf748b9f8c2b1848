"""Answering with a real MGM. Torch and the model load when it is built."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..settings import EvaluateSettings
from .loading import LoadedModel
from .memory import resolve_batch_size
from .prompts import PromptWriter, share
from .protocol import BenchmarkProtocol

if TYPE_CHECKING:
    import torch

    from ..mgm.answering import AnswerEngine, Prompts

logger = logging.getLogger(__name__)

# Questions. Compiling takes 30 to 70 seconds and saves an H100 2.2 ms a question, so 13,000 to
# 32,000 there; a card of 24 GB is four to ten times slower.
_WORTH_COMPILING = 10_000


class OutOfMemoryError(Exception):
    """The batch did not fit on the device; a smaller one may."""


class Answerer(Protocol):
    """What the runner needs from a model. Pixels, features and batches are opaque to it.

    It may answer in several variants, such as adapters of one base.

    Attributes:
        pictures_a_pass: how many to encode at once, at most.
    """

    pictures_a_pass: int

    def batch_size(self, texts: Sequence[str]) -> int:
        """Return how many questions to ask at once, if these are all there are."""

    def expect(self, count: int) -> None:
        """Get ready for so many questions."""

    def encode(self, pixels: Sequence[Any]) -> list[Any]:
        """Return one feature per image; raises :class:`OutOfMemoryError`."""

    def write(self, texts: Sequence[str], features: Sequence[Any]) -> Any:
        """Return prompts from texts, all with a feature or all with ``None``."""

    def begin(self, prompts: Any) -> Any:
        """Start on prompts; raises :class:`OutOfMemoryError`."""

    def finish(self, started: Any) -> Any:
        """Return the answers to what was begun, as tokens; raises the same."""

    def read(self, answers: Any) -> list[list[str]]:
        """Return the texts of answers, of each variant."""

    def facts(self) -> dict[str, Any]:
        """Return what the performance record should say of the model."""


@dataclass(frozen=True)
class _Started:
    """The first variant's batch, under way, and the prompts of the others."""

    batch: Any
    others: "list[Prompts]"


class MgmAnswerer:
    """A model as an :class:`Answerer`: greedy, batched, ending at the template's tokens."""

    def __init__(
        self, loaded: LoadedModel, protocol: BenchmarkProtocol, settings: EvaluateSettings
    ) -> None:
        """Take a loaded model."""
        from ..mgm.answering import PICTURES_A_PASS
        from ..mgm.conversation import stop_token_ids

        self.pictures_a_pass = PICTURES_A_PASS
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._variants = loaded.variants
        self._protocol, self._settings = protocol, settings
        self._template: str = self._model.config.conversation
        self._stops = stop_token_ids(self._tokenizer, self._template)
        limit = getattr(self._model.config, "tokenizer_model_max_length", None)
        self._writer = PromptWriter(self._tokenizer, self._template, limit)
        self._compiled = False
        self._engine: AnswerEngine | None = None
        self._rows = 0
        self._pictures = 0
        self._unfinished = 0
        self._new_tokens = 0
        trained = getattr(self._model.config, "image_aspect_ratio", None)
        if trained != protocol.image_aspect_ratio:
            logger.warning(
                "the checkpoint was made with image_aspect_ratio %s; the protocol asks for %s",
                trained,
                protocol.image_aspect_ratio,
            )

    def batch_size(self, texts: Sequence[str]) -> int:
        """Return the setting, or what is estimated to fit."""
        longest = self._writer.longest(texts)
        parameters = sum(parameter.numel() for parameter in self._model.parameters())
        return resolve_batch_size(self._model.config, parameters, self._settings, longest)

    def expect(self, count: int) -> None:
        """Compile what is worth it for so many questions."""
        from ..mgm.compilation import compile_towers

        wanted = self._settings.compile_blocks
        if wanted == "auto":
            wanted = self._model.device.type == "cuda" and count >= _WORTH_COMPILING
        self._compiled = wanted
        compile_towers(self._model, wanted)

    def encode(self, pixels: "Sequence[torch.Tensor]") -> "list[torch.Tensor]":
        """Return features (V, N, hidden) of each image for V variants, on the device."""
        import torch

        from ..mgm.encoding import mine_views, view_images

        mined = []
        with self._computing(), torch.inference_mode():
            shape = (self._places(len(pixels)), *pixels[0].shape)
            images = torch.zeros(shape, dtype=pixels[0].dtype, device=self._model.device)
            for place, picture in zip(images, pixels, strict=False):
                place.copy_(picture, non_blocking=True)
            views = view_images(self._model, images)
            for index in range(self._count()):
                self._use(index)
                mined.append(mine_views(self._model, *views)[: len(pixels)])
            return list(torch.stack(mined, dim=1).unbind(0))

    def write(
        self, texts: Sequence[str], features: "Sequence[torch.Tensor | None]"
    ) -> "list[Prompts]":
        """Return the prompts of each variant."""
        ids = self._writer.encode(texts, features)
        with self._computing():
            return [share(ids, features, index) for index in range(self._count())]

    def begin(self, prompts: "list[Prompts]") -> _Started:
        """Start reading a batch's prompts with the first variant."""
        with self._computing():
            engine = self._engine_for(len(prompts[0].after))
            self._use(0)
            return _Started(engine.begin(prompts[0]), prompts[1:])

    def finish(self, started: _Started) -> list[list[list[int]]]:
        """Return the tokens of each variant's answers."""
        engine = self._engine_for(0)
        with self._computing():
            self._use(0)
            found = [engine.finish(started.batch)]
            for index, prompts in enumerate(started.others, start=1):
                self._use(index)
                found.append(engine.finish(engine.begin(prompts)))
        return found

    def read(self, answers: list[list[list[int]]]) -> list[list[str]]:
        """Return each variant's decoded answers, special tokens skipped, trimmed."""
        return [[self._decode(tokens) for tokens in rows] for rows in answers]

    def facts(self) -> dict[str, Any]:
        """Return device, type, template and how long the answers were, in tokens."""
        return {
            "device": str(self._model.device),
            "dtype": self._settings.dtype,
            "template": self._template,
            "engine": type(self._engine).__name__,
            "compiled": self._compiled,
            "new_tokens": self._new_tokens,
            "answers_cut_at_max_new_tokens": self._unfinished,
        }

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Choose attention, and say it in the runner's terms when memory runs out.

        Batches are of many shapes, and cuDNN's attention plans 75 ms for each new one.
        """
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        try:
            with sdpa_kernel(backends):
                yield
        except torch.OutOfMemoryError as error:
            self._engine, self._rows, self._pictures = None, 0, 0
            torch.cuda.empty_cache()
            raise OutOfMemoryError from error

    def _places(self, count: int) -> int:
        """Return how many pictures to compute for ``count``: on a GPU as many as before.

        For each new number cuDNN plans convolutions, which takes longer than computing them.
        """
        self._pictures = max(self._pictures, count)
        return self._pictures if self._model.device.type == "cuda" else count

    def _count(self) -> int:
        return 1 if self._variants is None else len(self._variants)

    def _use(self, index: int) -> None:
        if self._variants is not None:
            self._variants.use(index)

    def _engine_for(self, rows: int) -> "AnswerEngine":
        """Return the engine, made anew when a batch is larger than any before."""
        from ..mgm.answering import choose_engine

        if self._engine is None or rows > self._rows:
            self._rows = max(rows, self._rows)
            self._engine = None  # frees its caches
            self._engine = choose_engine(
                self._model,
                self._stops,
                self._protocol.max_new_tokens,
                rows=self._rows,
                compiled=self._compiled,
            )
        return self._engine

    def _decode(self, tokens: list[int]) -> str:
        self._new_tokens += len(tokens)
        self._unfinished += len(tokens) >= self._protocol.max_new_tokens
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()
