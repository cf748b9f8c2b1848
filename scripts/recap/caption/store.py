"""Captions that outlive their job, keyed by image content and captioner.

Layout: ``<root>/<captioner fingerprint>/segments/<host>-<pid>-<n>.jsonl``. Each
process appends to a segment of its own, so any number of shards may write at
once on a network file system without locks, and a killed process loses at most
its unfinished batch. Rows carry a digest that is checked on every read.
"""

import json
import logging
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..hashing import sha256_bytes
from ..io import write_json

logger = logging.getLogger(__name__)


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

    def lookup(self, images: Iterable[str]) -> dict[str, str]:
        """Return the known captions of images given by SHA-256.

        Rows that fail their check are passed over with a warning. Should two
        jobs have stored different captions for an image, the alphabetically
        first one is returned, whatever the order of the segments.
        """
        wanted = set(images)
        found: dict[str, str] = {}
        for segment in sorted(self._segments.glob("*.jsonl")):
            for image, caption in self._read(segment):
                if image in wanted:
                    found[image] = min(caption, found.get(image, caption))
        return found

    def append(self, captions: Mapping[str, str]) -> None:
        """Store captions by image SHA-256; durable when this returns."""
        if not captions:
            return
        if self._descriptor is None:
            self._descriptor = self._open_segment()
        lines = [
            json.dumps(
                {"image": image, "caption": caption, "check": self._check(image, caption)},
                ensure_ascii=False,
            )
            for image, caption in captions.items()
        ]
        data = "".join(f"{line}\n" for line in lines).encode("utf-8")
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)

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

    def _read(self, segment: Path) -> Iterator[tuple[str, str]]:
        bad = 0
        with segment.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    break  # a killed or still writing process: the last line is not whole yet
                try:
                    row = json.loads(line)
                    image, caption, check = row["image"], row["caption"], row["check"]
                    valid = check == self._check(image, caption)
                except (ValueError, KeyError, TypeError):
                    valid = False
                if valid:
                    yield image, caption
                else:
                    bad += 1
        if bad:
            logger.warning("%s: %d damaged rows ignored; captioned again", segment, bad)

    def _check(self, image: str, caption: str) -> str:
        return sha256_bytes("\x1f".join((self._fingerprint, image, caption)).encode("utf-8"))
