"""Captioning a shard: known images from the store, the others by the model."""

import logging
import time
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..curate.records import Record, read_records
from ..errors import RecapError
from ..hashing import sha256_bytes
from ..io import write_jsonl
from ..perf import PerfRecord
from ..settings import CaptionSettings
from ..startup import TRANSFORMERS, load_libraries
from .fingerprint import captioner_fingerprint, describe_captioner
from .pixels import ImageFile, pixel_batches, read_image
from .store import CaptionStore

logger = logging.getLogger(__name__)

_READERS = 4


@dataclass(frozen=True)
class Machine:
    """Where a captioner runs; changes no caption.

    Attributes:
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: processes that decode images for a GPU.
    """

    device: str = "auto"
    workers: int = 4

    def on_gpu(self) -> bool:
        """Tell whether the model runs on a GPU, without starting CUDA in this process."""
        import torch

        if self.device == "auto":
            return bool(torch.cuda.device_count())
        return self.device == "cuda"


def caption_shard(
    records: str | Path,
    *,
    image_root: str | Path,
    model: str | Path,
    captioner: str,
    store: str | Path,
    settings: CaptionSettings,
    out: str | Path,
    perf: str | Path,
    machine: Machine | None = None,
) -> int:
    """Write one caption a record, calling the model only for unknown images.

    Args:
        records: kept records, one image each.
        image_root: folder their image paths are relative to.
        model: folder of the captioner, loaded only if the store lacks something.
        captioner: its name, for messages and figures.
        store: root of the caption store.
        settings: prompt, decoding, dtype and batch size.
        out: ``{"id", "caption"}`` a record, in order, captions not trimmed; with
            several candidates also ``candidates``, of which the caption is the first.
        perf: JSON file; ``captioned`` and ``from_store`` count distinct images.
        machine: where the model runs.

    Returns:
        The number of images the model captioned.

    Raises:
        RecapError: at the first image that cannot be read, with its record's
            id. Captions finished before stay in the store.
    """
    figures = PerfRecord("caption", "images")
    rows = read_records(records)
    files = _files(rows, Path(image_root))
    description = describe_captioner(model, settings, Path(store) / "models")
    fingerprint = captioner_fingerprint(description)
    with CaptionStore(store, fingerprint, {"captioner": captioner, **description}) as shelf:
        known = shelf.lookup(file.sha256 for file in files)
        missing = _first_of_each(files, known)
        fresh: dict[str, list[str]] = {}
        if missing:
            fresh, seconds = _caption_missing(missing, model, settings, shelf, machine or Machine())
            figures.extra["captioning_seconds"] = round(seconds, 3)
    captions = {**known, **fresh}
    write_jsonl(
        out, (_row(row, captions[file.sha256]) for row, file in zip(rows, files, strict=True))
    )
    figures.items = len(fresh)
    figures.extra |= {
        "captioner": captioner,
        "fingerprint": fingerprint,
        "records": len(rows),
        "captioned": len(fresh),
        "from_store": len(known),
        "repeated_images": len(rows) - len(captions),
    }
    figures.write(perf)
    logger.info("%d images captioned, %d from the store", len(fresh), len(known))
    return len(fresh)


def _row(record: Record, candidates: list[str]) -> dict[str, Any]:
    row = {"id": record["id"], "caption": candidates[0]}
    return row | {"candidates": candidates} if len(candidates) > 1 else row


def _files(rows: list[Record], root: Path) -> list[ImageFile]:
    """Return each record's image with the SHA-256 of its bytes."""

    def identify(row: Record) -> ImageFile:
        if len(row["images"]) != 1:
            raise RecapError(f"id {row['id']!r}: {len(row['images'])} images; one is needed")
        path = root / row["images"][0]
        return ImageFile(row["id"], path, sha256_bytes(read_image(row["id"], path)))

    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(identify, rows))


def _first_of_each(files: list[ImageFile], known: Container[str]) -> list[ImageFile]:
    """Return the first file of every image that has no caption yet, in order."""
    first: dict[str, ImageFile] = {}
    for file in files:
        if file.sha256 not in known:
            first.setdefault(file.sha256, file)
    return list(first.values())


def _caption_missing(
    files: list[ImageFile],
    model: str | Path,
    settings: CaptionSettings,
    shelf: CaptionStore,
    machine: Machine,
) -> tuple[dict[str, list[str]], float]:
    """Return the captions, and the seconds they took once the model was loaded."""
    load_libraries(*TRANSFORMERS)
    from ..curate.pixels import Pixels
    from .engine import Captioner, images_per_batch

    pixels = Pixels(model)
    # The decoding processes start before the model is loaded: they must not inherit a GPU.
    batches = pixel_batches(
        files,
        pixels,
        batch_size=images_per_batch(model, settings),
        workers=machine.workers if machine.on_gpu() else 0,
        pin=machine.on_gpu(),
    )
    engine = Captioner(model, settings, device=machine.device, pixels=pixels)
    started = time.perf_counter()
    keys = [file.sha256 for file in files]
    fresh: dict[str, list[str]] = {}
    for captions in engine.caption_batches(batches, keys):
        found = dict(zip(keys[len(fresh) :], captions, strict=False))
        shelf.append(found)
        fresh |= found
        logger.info("captioned %d of %d images", len(fresh), len(files))
    if len(fresh) != len(files):
        raise RecapError(f"the model gave {len(fresh)} captions for {len(files)} images")
    return fresh, time.perf_counter() - started
