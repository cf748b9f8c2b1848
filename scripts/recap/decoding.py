"""Images decoded ahead of a model by worker processes, handed over in chunks.

Beside a GPU it is processes: threads would fight for the interpreter with what launches the
GPU's work. They are forked, and must be so before this process first uses the GPU: what they
inherit of it would be ended by them.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import RecapError

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)

_AHEAD = 4  # chunks a worker prepares ahead
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where worker processes leave their chunks


class Chunk(NamedTuple):
    """Some items, prepared.

    Attributes:
        stacked: of those that could be, in order; None if none could.
        errors: why an item could not be, or an empty text, of each.
    """

    stacked: "torch.Tensor | None"
    errors: list[str]


def chunk_loader(
    items: Sequence[Any],
    prepare: Callable[[Any], Any],
    chunks: Sequence[Sequence[int]],
    *,
    nbytes: int,
    workers: int,
    pin: bool,
    repeated: bool = False,
) -> "DataLoader[Chunk]":
    """Return what yields :class:`Chunk` after chunk, in order; processes start with ``iter``.

    Args:
        items: what is prepared, such as files.
        prepare: returns an array or tensor of one shape; its :class:`RecapError` is handed
            on as text.
        chunks: indices of each chunk's items.
        nbytes: bytes of a prepared item.
        workers: processes, which must not touch a GPU; 0 prepares here. Fewer are used where
            shared memory is small.
        pin: put chunks into page-locked memory, for fast copies to a GPU.
        repeated: keep the processes for another ``iter``.
    """
    from torch.utils.data import DataLoader

    workers = _fitting_workers(workers, nbytes * max(map(len, chunks), default=0), len(chunks))
    dataset: Any = _Items(items, prepare)
    return DataLoader(
        dataset,
        batch_sampler=[list(chunk) for chunk in chunks],
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        persistent_workers=repeated and workers > 0,
        pin_memory=pin,
        collate_fn=_stack,
        multiprocessing_context="fork" if workers else None,
    )


class _Items:
    """A map-style dataset; what cannot be prepared is returned, not raised, to keep its message."""

    def __init__(self, items: Sequence[Any], prepare: Callable[[Any], Any]) -> None:
        self._items = items
        self._prepare = prepare

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._prepare(self._items[index])
        except RecapError as error:
            return str(error)


def _stack(results: list[Any]) -> Chunk:
    import numpy as np
    import torch

    errors = [result if isinstance(result, str) else "" for result in results]
    good = [np.asarray(result) for result in results if not isinstance(result, str)]
    return Chunk(torch.from_numpy(np.stack(good)) if good else None, errors)


def _fitting_workers(workers: int, chunk_bytes: int, chunks: int) -> int:
    """Return how many workers have something to do and room for their chunks."""
    workers = min(workers, chunks)
    if not workers or not _SHARED_MEMORY.is_dir():
        return workers
    room = int(shutil.disk_usage(_SHARED_MEMORY).free // ((_AHEAD + 1) * max(1, chunk_bytes)))
    if room < workers:
        logger.warning("%s has room for %d decoding workers, not %d", _SHARED_MEMORY, room, workers)
    return min(workers, room)
