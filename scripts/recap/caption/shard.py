"""Captioning a shard: known images from the store, the others by the model."""

import io
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ..curate.records import Record, read_records
from ..errors import RecapError
from ..hashing import sha256_bytes
from ..io import write_jsonl
from ..perf import PerfRecord
from ..settings import CaptionSettings
from .fingerprint import captioner_fingerprint, describe_captioner
from .store import CaptionStore

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

_READERS = 4


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
    device: str = "auto",
) -> int:
    """Write one caption a record, calling the model only for unknown images.

    Args:
        records: kept records, one image each.
        image_root: folder their image paths are relative to.
        model: folder of the captioner, loaded only if the store lacks something.
        captioner: its name, for messages and figures.
        store: root of the caption store.
        settings: prompt, decoding, dtype and batch size.
        out: ``{"id", "caption"}`` a record, in order, captions not trimmed.
        perf: JSON file; ``captioned`` and ``from_store`` count distinct images.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The number of images the model captioned.

    Raises:
        RecapError: at the first image that cannot be read, with its record's
            id. Captions finished before stay in the store.
    """
    figures = PerfRecord("caption", "images")
    rows = read_records(records)
    jobs = _jobs(rows, Path(image_root))
    description = describe_captioner(model, settings, Path(store) / "models")
    fingerprint = captioner_fingerprint(description)
    with CaptionStore(store, fingerprint, {"captioner": captioner, **description}) as shelf:
        known = shelf.lookup(key for _, _, key in jobs)
        missing = _first_of_each(jobs, known)
        fresh = _caption_missing(missing, model, settings, shelf, device) if missing else {}
    captions = {**known, **fresh}
    write_jsonl(out, ({"id": row["id"], "caption": captions[key]} for row, _, key in jobs))
    figures.items = len(fresh)
    figures.extra = {
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


# A record, the path of its image, and the SHA-256 of that image's bytes.
_Job = tuple[Record, Path, str]


def _jobs(rows: list[Record], root: Path) -> list[_Job]:
    paths = [_image_path(row, root) for row in rows]
    with ThreadPoolExecutor(_READERS) as readers:
        keys = readers.map(_image_key, rows, paths)
        return list(zip(rows, paths, keys, strict=True))


def _first_of_each(jobs: list[_Job], known: dict[str, str]) -> list[_Job]:
    """Return the first record of every image that has no caption yet, in order."""
    seen = set(known)
    first = []
    for job in jobs:
        if job[2] not in seen:
            seen.add(job[2])
            first.append(job)
    return first


def _caption_missing(
    jobs: list[_Job],
    model: str | Path,
    settings: CaptionSettings,
    shelf: CaptionStore,
    device: str,
) -> dict[str, str]:
    from .engine import Captioner

    engine = Captioner(model, settings, device=device)
    fresh: dict[str, str] = {}
    for batch, images in _batches(jobs, settings.batch_size):
        captions = engine.caption(images)
        if len(captions) != len(batch):
            raise RecapError(f"the model gave {len(captions)} captions for {len(batch)} images")
        found = {key: caption for (_, _, key), caption in zip(batch, captions, strict=True)}
        shelf.append(found)
        fresh |= found
        logger.info("captioned %d of %d images", len(fresh), len(jobs))
    return fresh


def _batches(jobs: list[_Job], size: int) -> "Iterator[tuple[list[_Job], list[Image]]]":
    """Yield batches; the images of the next one are decoded while one is captioned."""
    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    with ThreadPoolExecutor(_READERS) as readers:
        ahead = [readers.submit(_load_image, *job) for job in batches[0]]
        for index, batch in enumerate(batches):
            current, ahead = ahead, []
            if index + 1 < len(batches):
                ahead = [readers.submit(_load_image, *job) for job in batches[index + 1]]
            yield batch, [future.result() for future in current]


def _image_path(row: Record, root: Path) -> Path:
    if len(row["images"]) != 1:
        raise RecapError(f"id {row['id']!r}: {len(row['images'])} images; one is needed")
    return root / row["images"][0]


def _image_key(row: Record, path: Path) -> str:
    return sha256_bytes(_read(row, path))


def _read(row: Record, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecapError(
            f"id {row['id']!r}: cannot read {path}: {error}; run validate_corpus.py again"
        ) from error


def _load_image(row: Record, path: Path, key: str) -> "Image":
    """Decode as Data-Juicer does: EXIF rotation applied, then RGB."""
    from PIL import Image, ImageOps

    data = _read(row, path)
    if sha256_bytes(data) != key:
        raise RecapError(f"id {row['id']!r}: {path} changed while it was being captioned")
    try:
        with Image.open(io.BytesIO(data)) as image:
            rotated: Image.Image = ImageOps.exif_transpose(image)
            return rotated.convert("RGB")
    except Exception as error:  # decoders raise many types, SyntaxError among them
        raise RecapError(
            f"id {row['id']!r}: cannot decode {path}: {error}; run validate_corpus.py again"
        ) from error
