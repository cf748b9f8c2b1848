"""Asking a model batch by batch, each distinct picture decoded and encoded once."""

import contextlib
import logging
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from ..errors import RecapError
from .benchmarks.base import Question
from .journal import AnswerJournal
from .model import Answerer, OutOfMemoryError
from .ordering import next_batch
from .pictures import Arrived, Pictures

logger = logging.getLogger(__name__)


class Runner:
    """Answers questions into a journal for each variant of the answerer.

    While the model reads a batch, the last one's answers are written, the pictures of the
    next are put in line behind it, and workers decode those after, so that a GPU always has
    something to do. A batch that does not fit on the device is halved, and stays so for the rest;
    so is the number of pictures that are encoded at once.
    """

    def __init__(
        self,
        answerer: Answerer,
        pictures: Pictures,
        journals: Sequence[AnswerJournal],
        batch_size: int,
    ) -> None:
        """Take the model, the questions' pictures, where answers go, and questions a batch."""
        self._answerer = answerer
        self._pictures = pictures
        self._journals = journals
        self._batch_size = batch_size
        self._most_pictures = min(answerer.pictures_a_pass, batch_size)
        self._waiting: list[Arrived] = []  # decoded, not yet encoded
        self._features: dict[str, Any] = {}
        self._ready: tuple[list[Question], Any] | None = None
        self._asked: Sequence[Question] = ()
        self._answers: Any = None
        self.images_encoded = 0
        self.batches = 0
        self.halvings = 0

    def run(self, ordered: Sequence[Question]) -> None:
        """Answer all questions; each batch is on disk before the next but one starts.

        Args:
            ordered: as :func:`~.ordering.asking_order` returns them, and as the pictures are.

        Raises:
            RecapError: if a picture cannot be read, or one question alone does
                not fit on the device.
        """
        position = 0
        try:
            while position < len(ordered):
                position = self._advance(ordered, position)
        finally:  # what is answered is not lost with what cannot be read
            self._write()

    def figures(self) -> dict[str, int]:
        """Return counts for the performance record."""
        return {
            "images_encoded": self.images_encoded,
            "batches": self.batches,
            "batch_size_used": self._batch_size,
            "batch_halvings": self.halvings,
        }

    def _advance(self, ordered: Sequence[Question], position: int) -> int:
        """Answer the next batch and return where the one after it starts."""
        batch = next_batch(ordered, position, self._batch_size)
        end = position + len(batch)
        try:
            started = self._answerer.begin(self._prompts(batch))
            self._write()
            if end < len(ordered):
                with contextlib.suppress(RecapError):  # raised when its turn has come
                    self._prompts(next_batch(ordered, end, self._batch_size))
            answers = self._answerer.finish(started)
        except OutOfMemoryError as error:
            self._halve(len(batch), error)
            return position
        self._asked, self._answers = batch, answers
        self._forget(batch, ordered[end].image if end < len(ordered) else None)
        self.batches += 1
        logger.info("answered %d of %d questions", end, len(ordered))
        return end

    def _prompts(self, batch: list[Question]) -> Any:
        """Return a batch's prompts, its pictures encoded; made once, mostly a batch ahead."""
        if self._ready is None or self._ready[0] != batch:
            self._ready = None
            self._encode(batch)
            texts = [question.model_text for question in batch]
            shown = [self._features[q.image] if q.image is not None else None for q in batch]
            self._ready = batch, self._answerer.write(texts, shown)
        return self._ready[1]

    def _write(self) -> None:
        """Put the last batch's answers on disk, where they are not yet."""
        if self._answers is None:
            return
        for journal, texts in zip(self._journals, self._answerer.read(self._answers), strict=True):
            found = zip(self._asked, texts, strict=True)
            journal.append({q.key: text for q, text in found if q.key not in journal.texts})
        self._answers = None

    def _encode(self, batch: Sequence[Question]) -> None:
        for question in batch:
            while question.image is not None and question.image not in self._features:
                self._encode_next()

    def _encode_next(self) -> None:
        """Encode the next pictures, of later batches too, so that each pass has as many.

        A GPU's libraries plan anew for each number of pictures, longer than a pass takes.
        """
        size = self._most_pictures
        self._waiting += self._pictures.take(size - len(self._waiting))
        decoded = takewhile(lambda arrived: not isinstance(arrived[1], RecapError), self._waiting)
        now = dict(list(decoded)[:size])
        if not now:
            raise self._waiting[0][1]
        try:
            encoded = self._answerer.encode(list(now.values()))
        except OutOfMemoryError:
            if len(now) == 1:
                raise
            self._most_pictures = len(now) // 2
            logger.warning("out of memory with %d pictures; going on with fewer", len(now))
            return
        self._features.update(zip(now, encoded, strict=True))
        del self._waiting[: len(now)]
        self.images_encoded += len(now)

    def _forget(self, batch: Sequence[Question], going_on: str | None) -> None:
        """Drop a batch's features, but for a picture that the next one goes on about."""
        for question in batch:
            if question.image is not None and question.image != going_on:
                self._features.pop(question.image, None)

    def _halve(self, size: int, error: OutOfMemoryError) -> None:
        if size == 1:
            raise RecapError(
                "one question alone does not fit in the device's memory; use a smaller dtype "
                "or a larger device"
            ) from error
        self._batch_size = size // 2
        self._ready = None
        self.halvings += 1
        logger.warning("out of memory with %d questions; going on with %d", size, size // 2)
