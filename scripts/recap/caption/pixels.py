"""Images on their way to the captioner, decoded ahead by worker processes.

Workers decode and resize; normalising is left to the device
(:class:`recap.curate.pixels.Pixels`), so that bytes travel and not floats.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..curate.ahead import Source, decode
from ..curate.pixels import Pixels
from ..decoding import Chunk, chunk_loader
from ..errors import VALIDATE_AGAIN, RecapError
from ..hashing import sha256_bytes

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_CHUNK = 32  # images a worker hands over at a time: the first batch is there sooner


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
            f"id {record_id!r}: cannot read {path}: {error}; {VALIDATE_AGAIN}"
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
    ends = [min(at + batch_size, len(files)) for at in range(0, len(files), batch_size)]
    chunks = [
        range(at, min(at + _CHUNK, end))
        for start, end in zip([0, *ends], ends, strict=False)
        for at in range(start, end, _CHUNK)
    ]

    def shrunk(file: ImageFile) -> Any:
        return pixels.shrink(load_image(file))

    loader = chunk_loader(files, shrunk, chunks, nbytes=pixels.nbytes, workers=workers, pin=pin)
    return _batches(iter(loader), batch_size)


def _batches(chunks: Iterator[Chunk], batch_size: int) -> "Iterator[list[torch.Tensor]]":
    batch: list[torch.Tensor] = []
    for chunk in chunks:
        broken = next(filter(None, chunk.errors), None)
        if broken is not None or chunk.stacked is None:
            raise RecapError(broken or "a chunk of images came without pixels")
        batch.append(chunk.stacked)
        if sum(map(len, batch)) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
