"""Captions that outlive their job, keyed by image content and captioner.

Layout: ``<root>/<captioner fingerprint>/segments/<host>-<pid>-<n>.jsonl``. Each
process appends to a segment of its own, so any number of shards may write at
once on a network file system without locks, and a killed process loses at most
its unfinished batch. Rows carry a digest that is checked on every read. Segments of
jobs long gone can be merged into one (``merge_caption_store.py``).
"""

import errno
import json
import logging
import math
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..hashing import sha256_bytes
from ..io import atomic_path, write_json

logger = logging.getLogger(__name__)

# What a file is to its reader that was deleted on this machine, or on another one over NFS.
_GONE = (errno.ENOENT, errno.ESTALE)
# NFS may show a folder for a minute as it was.
_READS, _WAIT_SECONDS = 100, 1.0


class CaptionStore:
    """The captions of one captioner.

    Use it as a context manager; a segment is opened at the first append.
    """

    def __init__(
        self, root: str | Path, fingerprint: str, description: Mapping[str, Any] | None = None
    ) -> None:
        """Open the store of a captioner; ``description`` is written beside it once."""
        self._fingerprint = fingerprint
        self._folder = Path(root) / fingerprint
        self._segments = self._folder / "segments"
        self._segments.mkdir(parents=True, exist_ok=True)
        self._descriptor: int | None = None
        card = self._folder / "captioner.json"
        if description is not None and not card.is_file():
            write_json(card, dict(description))

    def __enter__(self) -> "CaptionStore":
        """Return the store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close this process's segment."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def lookup(self, images: Iterable[str]) -> dict[str, list[str]]:
        """Return the known captions of images given by SHA-256: each one's candidates.

        Rows that fail their check are passed over with a warning. Should two
        jobs have stored different captions for an image, the alphabetically
        first one is returned, whatever the order of the segments.
        """
        wanted = set(images)
        return {image: captions for image, captions in self._rows().items() if image in wanted}

    def append(self, captions: Mapping[str, Sequence[str]]) -> None:
        """Store each image's candidates by its SHA-256; durable when this returns."""
        if not captions:
            return
        if self._descriptor is None:
            self._descriptor = self._open_segment()
        data = "".join(map(self._line, captions, captions.values())).encode("utf-8")
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)

    def merge(self, older_than_hours: float) -> int:
        """Merge segments that nobody has written to for a while into one.

        A writer that lives longer than that without writing would lose what it
        writes afterwards, so take more hours than a job may last. Killed at any
        moment, this loses nothing: the merged segment is complete before the
        first old one goes.

        Returns:
            The number of segments merged.
        """
        before = time.time() - 3600 * older_than_hours
        old = [path for path in self._listed() if _written(path) <= before]
        if len(old) < 2:
            return 0
        try:
            rows = self._read_all(old)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            logger.warning("%s: another merge is at work; nothing merged", self._segments)
            return 0
        text = "".join(self._line(image, rows[image]) for image in sorted(rows))
        merged = self._segments / f"merged-{sha256_bytes(text.encode('utf-8'))[:16]}.jsonl"
        with atomic_path(merged) as temporary:
            Path(temporary).write_text(text, encoding="utf-8")
        for path in old:
            if path != merged:
                path.unlink(missing_ok=True)
        return len(old)

    def _listed(self) -> list[Path]:
        return sorted(self._segments.glob("*.jsonl"))

    def _rows(self) -> dict[str, list[str]]:
        for left in reversed(range(_READS)):
            try:
                return self._read_all(self._listed())
            except OSError as error:
                # Merged meanwhile into a segment that the list lacks: listed anew, it has it.
                if error.errno not in _GONE or not left:
                    raise
                time.sleep(_WAIT_SECONDS)
        raise AssertionError("the last read neither ended nor failed")

    def _read_all(self, segments: Iterable[Path]) -> dict[str, list[str]]:
        rows: dict[str, list[str]] = {}
        for segment in segments:
            for image, captions in self._read(segment):
                rows[image] = min(captions, rows.get(image, captions))
        return rows

    def _line(self, image: str, captions: Sequence[str]) -> str:
        row = {"image": image, "captions": list(captions), "check": self._check(image, captions)}
        return json.dumps(row, ensure_ascii=False) + "\n"

    def _open_segment(self) -> int:
        number = 0
        while True:
            name = f"{platform.node()}-{os.getpid()}-{number}.jsonl"
            try:
                # Exclusive creation is atomic on network file systems as well.
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
                return os.open(self._segments / name, flags, 0o644)
            except FileExistsError:
                number += 1

    def _read(self, segment: Path) -> Iterator[tuple[str, list[str]]]:
        bad = 0
        with segment.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    break  # a killed or still writing process: the last line is not whole yet
                try:
                    row = json.loads(line)
                    image, captions, check = row["image"], row["captions"], row["check"]
                    valid = check == self._check(image, captions)
                except (ValueError, KeyError, TypeError):
                    valid = False
                if valid:
                    yield image, captions
                else:
                    bad += 1
        if bad:
            logger.warning("%s: %d damaged rows ignored; captioned again", segment, bad)

    def _check(self, image: str, captions: Sequence[str]) -> str:
        return sha256_bytes("\x1f".join((self._fingerprint, image, *captions)).encode("utf-8"))


def _written(segment: Path) -> float:
    """Return when a segment was last written to; never old where another merge took it."""
    try:
        return segment.stat().st_mtime
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return math.inf
