"""The pixels of a shard's pictures, decoded ahead in the order they are asked about."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..decoding import Chunk, chunk_loader
from ..errors import RecapError
from .benchmarks.base import Question

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

_MOST_PROCESSES = 8  # enough for 90 questions a second on an H100
_MOST_THREADS = 16
_AHEAD = 64  # pictures that threads decode ahead
_CHUNK = 4  # pictures a process hands over at a time

Prepare = Callable[[Question], Any]
Arrived = tuple[str, Any]


class Pictures:
    """Each distinct picture once, in the order in which questions are asked about them.

    Shape of the pixels: whatever the decoding made.
    """

    def __init__(self, arriving: Generator[Arrived, None, None]) -> None:
        """Take names with pixels, or with the error in their place."""
        self._arriving = arriving

    def take(self, count: int) -> list[Arrived]:
        """Return the next pictures, waiting for them; fewer only at the end.

        Of one that cannot be read, the error comes in place of its pixels.
        """
        return list(islice(self._arriving, max(0, count)))

    def close(self) -> None:
        """End what decodes now, rather than when this happens to be collected."""
        self._arriving.close()


def by_threads(questions: Sequence[Question], prepare: Prepare) -> Pictures:
    """Return pictures decoded by threads, which share cores with a model on the CPU."""
    return Pictures(_by_threads(_first_of_each(questions), prepare))


class PictureProcesses:
    """Processes that decode pictures beside a GPU, and must be started before its first use.

    Threads would take the interpreter from what launches the GPU's work.
    """

    def __init__(
        self, questions: Sequence[Question], prepare: Prepare, *, repeated: bool = False
    ) -> None:
        """Get ready; the first picture is prepared here, to know its size.

        Args:
            questions: in the order they will be asked.
            prepare: from a question to its picture's pixels.
            repeated: whether :meth:`pictures` will be called again.
        """
        import torch

        self._wanted = _first_of_each(questions)
        count = len(self._wanted)
        self._chunks = [
            range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)
        ]
        self._loader: DataLoader[Any] = chunk_loader(
            self._wanted,
            prepare,
            self._chunks,
            nbytes=_bytes_of_first(self._wanted, prepare),
            workers=min(_MOST_PROCESSES, max(1, len(os.sched_getaffinity(0)) - 1)),
            pin=torch.cuda.device_count() > 0,
            repeated=repeated,
        )

    def pictures(self) -> Pictures:
        """Start the processes, or let those that wait begin anew."""
        return Pictures(self._unpacked(iter(self._loader)))

    def _unpacked(self, arriving: Iterator[Chunk]) -> Generator[Arrived, None, None]:
        for indices, chunk in zip(self._chunks, arriving, strict=True):
            pixels = iter(() if chunk.stacked is None else chunk.stacked)
            for index, error in zip(indices, chunk.errors, strict=True):
                name = str(self._wanted[index].image)
                yield name, RecapError(error) if error else next(pixels)


def _by_threads(wanted: Sequence[Question], prepare: Prepare) -> Generator[Arrived, None, None]:
    workers = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    upcoming = iter(wanted)
    running: deque[tuple[str, Future[Any]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        while True:
            for question in upcoming:
                running.append((str(question.image), pool.submit(prepare, question)))
                if len(running) >= _AHEAD:
                    break
            if not running:
                return
            name, future = running.popleft()
            try:
                pixels = future.result()
            except RecapError as error:
                pixels = error
            yield name, pixels
    finally:
        pool.shutdown(cancel_futures=True)


def _first_of_each(questions: Sequence[Question]) -> list[Question]:
    """Return the first question about each picture."""
    first: dict[str, Question] = {}
    for question in questions:
        if question.image is not None:
            first.setdefault(question.image, question)
    return list(first.values())


def _bytes_of_first(wanted: Sequence[Question], prepare: Prepare) -> int:
    for question in wanted:
        try:
            return int(prepare(question).nbytes)
        except RecapError:  # is told when the picture is asked for
            continue
    return 0
