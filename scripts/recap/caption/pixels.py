"""Images on their way to the captioner: decoded ahead, normalised on the device.

Workers decode and resize with the model's own PIL image processor and hand over
bytes; rescaling and normalisation, which act on each byte alone, become a table
of 256 values a channel that is looked up on the device. The table is filled by the
processor itself, so the pixels are its pixels, bit for bit.
"""

import io
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


class Preprocessor:
    """A model's image processor, cut into what runs in workers and on the device."""

    def __init__(self, model: str | Path) -> None:
        """Load the PIL image processor from a local folder.

        Raises:
            RecapError: if the folder has none, or it does more to a pixel's value
                than a table can.
        """
        import numpy as np
        from PIL import Image
        from transformers import AutoImageProcessor

        try:
            # Chosen explicitly: pixels must not depend on torchvision being there.
            self._processor: Any = AutoImageProcessor.from_pretrained(
                model, backend="pil", local_files_only=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise RecapError(f"{model} holds no loadable image processor: {error}") from error
        ramp = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
        whole = {"do_resize": False, "do_center_crop": False, "do_pad": False}
        self.table: Any = self._values([Image.fromarray(ramp)], **whole)[0].reshape(3, 256)
        probe = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        picture = Image.fromarray(probe)
        pixels = self.pixels(picture)
        self.nbytes: int = pixels.nbytes
        looked_up = np.stack([self.table[c][pixels[c]] for c in range(3)])
        if pixels.dtype != np.uint8 or not np.array_equal(looked_up, self._values([picture])[0]):
            raise RecapError(
                f"{model}: its image processor does not normalise each value by itself; "
                "this captioner takes CLIP-like processors only"
            )

    def pixels(self, image: "Image") -> Any:
        """Return an RGB image resized, as uint8 (3, H, W)."""
        return self._values([image], do_rescale=False, do_normalize=False)[0]

    def normalize(self, pixels: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
        """Return the processor's values, (B, 3, H, W) of ``dtype``, of uint8 pixels."""
        import torch

        table = torch.from_numpy(self.table).to(pixels.device)
        out = torch.empty(pixels.shape, dtype=dtype, device=pixels.device)
        for channel in range(pixels.shape[1]):
            index = pixels[:, channel].to(torch.int32)
            out[:, channel] = table[channel].index_select(0, index.flatten()).view(index.shape)
        return out

    def _values(self, images: "list[Image]", **options: bool) -> Any:
        return self._processor(images=images, return_tensors="np", **options)["pixel_values"]


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
    """Decode as Data-Juicer does: EXIF rotation applied, then RGB.

    Raises:
        RecapError: if it cannot be read or has changed, with the record's id.
    """
    from PIL import Image, ImageOps

    data = read_image(file.record_id, file.path)
    if sha256_bytes(data) != file.sha256:
        raise RecapError(f"id {file.record_id!r}: {file.path} changed while it was being captioned")
    try:
        with Image.open(io.BytesIO(data)) as image:
            rotated: Image.Image = ImageOps.exif_transpose(image)
            return rotated.convert("RGB")
    except Exception as error:  # decoders raise many types, SyntaxError among them
        raise RecapError(
            f"id {file.record_id!r}: cannot decode {file.path}: {error}; "
            "run validate_corpus.py again"
        ) from error


def pixel_batches(
    files: Sequence[ImageFile],
    preprocessor: Preprocessor,
    *,
    batch_size: int,
    workers: int,
    pin: bool = False,
) -> "Iterator[list[torch.Tensor]]":
    """Yield the images in order, each batch as chunks, uint8 (n, 3, H, W).

    Args:
        files: what to read.
        preprocessor: of the model.
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
    workers = _fitting_workers(workers, preprocessor.nbytes * _CHUNK, len(chunks))
    images: Any = _Images(files, preprocessor)
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

    def __init__(self, files: Sequence[ImageFile], preprocessor: Preprocessor) -> None:
        self._files = files
        self._preprocessor = preprocessor

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._preprocessor.pixels(load_image(self._files[index]))
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
