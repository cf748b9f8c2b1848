"""Images on their way to the captioner, decoded ahead by worker processes.

Workers decode and resize; normalising is left to the device
(:class:`recap.curate.pixels.Pixels`), so that bytes travel and not floats.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..curate.ahead import Source, decode
from ..curate.pixels import Pixels
from ..errors import RecapError
from ..hashing import sha256_bytes

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

logger = logging.getLogger(__name__)

_AHEAD = 4  # chunks a worker prepares ahead
_CHUNK = 32  # images a worker hands over at a time: the first batch is there sooner
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where worker processes leave their batches


@dataclass(frozen=True)
class ImageFile:
    """An image, its content, and the record to blame if it cannot be read."""

    record_id: str
    path: Path
    sha256: str


def read_image(record_id: str, path: Path) -> bytes:
    """Return an image file's bytes.

    Raises:
        RecapError: if it cannot be read, with the record's id.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecapError(
            f"id {record_id!r}: cannot read {path}: {error}; run validate_corpus.py again"
        ) from error


def load_image(file: ImageFile) -> "Image":
    """Decode a file that is what it was; see :func:`recap.curate.ahead.decode`.

    Raises:
        RecapError: if it cannot be read or has changed, with the record's id.
    """
    data = read_image(file.record_id, file.path)
    if sha256_bytes(data) != file.sha256:
        raise RecapError(f"id {file.record_id!r}: {file.path} changed while it was being captioned")
    return decode(Source(file.path, file.record_id), data)


def pixel_batches(
    files: Sequence[ImageFile],
    pixels: Pixels,
    *,
    batch_size: int,
    workers: int,
    pin: bool = False,
) -> "Iterator[list[torch.Tensor]]":
    """Yield the images in order, each batch as chunks: stacked results of ``Pixels.shrink``.

    Args:
        files: what to read.
        pixels: of the model.
        batch_size: images a batch; the last one may have fewer.
        workers: processes that decode ahead; 0 decodes here. Start them before the
            first use of the GPU, which a process must not inherit. Fewer are used
            where shared memory is small.
        pin: put chunks into page-locked memory, for fast copies to a GPU.

    Raises:
        RecapError: at the first image that cannot be read, with its record's id;
            the batches before it have been handed over.
    """
    from torch.utils.data import DataLoader

    ends = [min(at + batch_size, len(files)) for at in range(0, len(files), batch_size)]
    chunks = [
        list(range(at, min(at + _CHUNK, end)))
        for start, end in zip([0, *ends], ends, strict=False)
        for at in range(start, end, _CHUNK)
    ]
    workers = _fitting_workers(workers, pixels.nbytes * _CHUNK, len(chunks))
    images: Any = _Images(files, pixels)
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=chunks,
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=pin,
        collate_fn=_stack,
        multiprocessing_context="fork" if workers else None,
    )
    return _batches(iter(loader), batch_size)


class _Images:
    """A map-style dataset; what cannot be read is returned, not raised, to keep its message."""

    def __init__(self, files: Sequence[ImageFile], pixels: Pixels) -> None:
        self._files = files
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._pixels.shrink(load_image(self._files[index]))
        except RecapError as error:
            return str(error)


def _stack(items: list[Any]) -> Any:
    import numpy as np
    import torch

    broken = [item for item in items if isinstance(item, str)]
    return broken[0] if broken else torch.from_numpy(np.stack(items))


def _batches(chunks: Iterator[Any], batch_size: int) -> "Iterator[list[torch.Tensor]]":
    batch: list[torch.Tensor] = []
    for chunk in chunks:
        if isinstance(chunk, str):
            raise RecapError(chunk)
        batch.append(chunk)
        if sum(map(len, batch)) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _fitting_workers(workers: int, chunk_bytes: int, chunks: int) -> int:
    """Return how many workers have something to do and room for their chunks."""
    workers = min(workers, chunks)
    if not workers or not _SHARED_MEMORY.is_dir():
        return workers
    room = int(shutil.disk_usage(_SHARED_MEMORY).free // ((_AHEAD + 1) * chunk_bytes))
    if room < workers:
        logger.warning("%s has room for %d decoding workers, not %d", _SHARED_MEMORY, room, workers)
    return min(workers, room)
