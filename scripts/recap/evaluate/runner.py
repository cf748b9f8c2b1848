"""Asking a model batch by batch, each distinct picture decoded and encoded once."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..errors import RecapError
from .benchmarks.base import Question
from .images import ImageSource
from .journal import AnswerJournal
from .model import Answerer, OutOfMemoryError
from .ordering import asking_order, next_batch

logger = logging.getLogger(__name__)

_MOST_WORKERS = 16


class Runner:
    """Answers questions into a journal for each variant of the answerer.

    Worker threads decode the pictures of the next batch while the model works on the
    current one, and the texts of the last one are written while it reads the next. A
    batch that does not fit on the device is halved, and stays so for the rest.
    """

    def __init__(
        self,
        answerer: Answerer,
        images: ImageSource,
        journals: Sequence[AnswerJournal],
        batch_size: int,
    ) -> None:
        """Take the model, the pictures, where answers go, and questions a batch."""
        self._answerer = answerer
        self._images = images
        self._journals = journals
        self._batch_size = batch_size
        self._features: dict[str, Any] = {}
        self._pixels: dict[str, Future[Any]] = {}
        self._asked: Sequence[Question] = ()
        self._answers: list[list[str]] = []
        self.images_encoded = 0
        self.batches = 0
        self.halvings = 0

    def run(self, questions: Sequence[Question]) -> None:
        """Answer all questions; each batch is on disk before the next but one starts.

        Raises:
            RecapError: if a picture cannot be read, or one question alone does
                not fit on the device.
        """
        ordered = asking_order(questions)
        workers = min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(workers) as pool:
            position = 0
            try:
                while position < len(ordered):
                    position = self._advance(pool, ordered, position)
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

    def _advance(self, pool: ThreadPoolExecutor, ordered: Sequence[Question], position: int) -> int:
        """Answer the next batch and return where the one after it starts."""
        batch = next_batch(ordered, position, self._batch_size)
        end = position + len(batch)
        self._prefetch(pool, ordered[position : end + self._batch_size])
        self._forget_all_but(batch, ordered[end : end + self._batch_size])
        try:
            self._encode(batch)
            started = self._answerer.begin(
                [question.model_text for question in batch],
                [self._features[q.image] if q.image is not None else None for q in batch],
            )
            self._write()
            answers = self._answerer.finish(started)
        except OutOfMemoryError as error:
            self._halve(len(batch), error)
            return position
        self._asked, self._answers = batch, answers
        self.batches += 1
        logger.info("answered %d of %d questions", end, len(ordered))
        return end

    def _write(self) -> None:
        """Put the last batch's answers on disk, where they are not yet."""
        for journal, texts in zip(self._journals, self._answers, strict=False):
            found = zip(self._asked, texts, strict=True)
            journal.append({q.key: text for q, text in found if q.key not in journal.texts})
        self._answers = []

    def _prefetch(self, pool: ThreadPoolExecutor, upcoming: Sequence[Question]) -> None:
        for question in upcoming:
            name = question.image
            if name is not None and name not in self._features and name not in self._pixels:
                self._pixels[name] = pool.submit(self._prepare, question)

    def _prepare(self, question: Question) -> Any:
        return self._answerer.prepare(self._images.open(question))

    def _forget_all_but(self, *kept: Sequence[Question]) -> None:
        names = {question.image for batch in kept for question in batch}
        self._features = {name: value for name, value in self._features.items() if name in names}

    def _encode(self, batch: Sequence[Question]) -> None:
        names = list(dict.fromkeys(q.image for q in batch if q.image is not None))
        missing = [name for name in names if name not in self._features]
        if not missing:
            return
        encoded = self._answerer.encode([self._pixels[name].result() for name in missing])
        for name, features in zip(missing, encoded, strict=True):
            self._features[name] = features
            del self._pixels[name]
        self.images_encoded += len(missing)

    def _halve(self, size: int, error: OutOfMemoryError) -> None:
        if size == 1:
            raise RecapError(
                "one question alone does not fit in the device's memory; use a smaller dtype "
                "or a larger device"
            ) from error
        self._batch_size = size // 2
        self.halvings += 1
        logger.warning("out of memory with %d questions; going on with %d", size, size // 2)
