"""Reading and preparing images ahead of a model, by workers, in order."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from ..errors import VALIDATE_AGAIN, RecapError

if TYPE_CHECKING:
    from PIL.Image import Image

# Images a task: large enough that handing it over costs little beside decoding.
_TASK = 8
# Tasks in flight a worker; bounds the memory of what waits for the model.
_DEPTH = 3
_MOST_WORKERS = 16
_WATCH_SECONDS = 1.0

Prepare = Callable[["Image"], Any]


@dataclass(frozen=True)
class Source:
    """An image file and the id of a record that has it, for messages."""

    path: Path
    owner: str


def prepared(
    sources: Sequence[Source], prepare: Prepare, *, processes: bool = False
) -> Iterator[Any]:
    """Yield ``prepare(image)`` of every source in order, made ahead by workers.

    Pillow decodes and resizes without holding the interpreter, so threads do
    while the model shares their cores. Beside a GPU the interpreter itself
    is what they would fight for with the model, so processes are used there;
    they are forked and must not touch the GPU.

    Args:
        sources: the image files.
        prepare: runs in a worker; under ``processes`` its result is pickled.
        processes: whether the workers are processes.

    Raises:
        RecapError: at the first image that cannot be decoded, with its record.
    """
    tasks = (sources[start : start + _TASK] for start in range(0, len(sources), _TASK))
    workers = max(1, min(_MOST_WORKERS, usable_cores(), -(-len(sources) // _TASK)))
    with _executor(workers, prepare, processes=processes) as executor:
        work = _prepare_in_process if processes else partial(_prepare_task, prepare)
        ahead: deque[Future[list[Any]]] = deque(
            executor.submit(work, task) for task in islice(tasks, workers * _DEPTH)
        )
        try:
            while ahead:
                results = ahead.popleft().result()
                ahead.extend(executor.submit(work, task) for task in islice(tasks, 1))
                yield from results
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def usable_cores() -> int:
    """Return the cores this process may run on, which a cluster's job limits."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode(source: Source, data: bytes | None = None) -> "Image":
    """Decode as Data-Juicer does: EXIF rotation applied, then RGB.

    Args:
        source: the file.
        data: its bytes, where they were read already.

    Raises:
        RecapError: if the file is missing, truncated or no image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(source.path if data is None else BytesIO(data)) as image:
            rotated: Image.Image = ImageOps.exif_transpose(image)
            return rotated.convert("RGB")
    except Exception as error:  # decoders raise many types, SyntaxError among them
        raise RecapError(
            f"id {source.owner!r}: cannot decode {source.path}: {error}; {VALIDATE_AGAIN}"
        ) from error


def _executor(workers: int, prepare: Prepare, *, processes: bool) -> Executor:
    if not processes:
        return ThreadPoolExecutor(workers)
    from PIL import Image

    Image.init()  # all formats, once, before the workers are forked
    return ProcessPoolExecutor(
        workers, mp_context=get_context("fork"), initializer=_install, initargs=(prepare,)
    )


def _prepare_task(prepare: Prepare, sources: Sequence[Source]) -> list[Any]:
    return [prepare(decode(source)) for source in sources]


# What a forked worker prepares images with; inherited, so a model need not be pickled.
_INSTALLED: list[Prepare] = []


def _install(prepare: Prepare) -> None:
    _INSTALLED[:] = [prepare]
    end_with_parent()


def end_with_parent() -> None:
    """Make this worker end when its parent is killed; waiting for work, it would never notice."""
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _prepare_in_process(sources: Sequence[Source]) -> list[Any]:
    return _prepare_task(_INSTALLED[0], sources)
