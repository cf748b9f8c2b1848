"""Lock sheets: size and SHA-256 of every file that a row brings in, kept in the repository."""

import csv
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import RecapError
from ..hashing import sha256_file
from ..io import write_text

logger = logging.getLogger(__name__)

COLUMNS = ("row", "file", "bytes", "sha256")
_HEAD = """\
# What each row's files must be, byte for byte; written by `make lock-models ROWS="..."`.
# A file that is not listed here is fetched all the same, but reported as not verified.
"""


@dataclass(frozen=True)
class Expected:
    """What a file must be, as far as it is known.

    Attributes:
        size: bytes; ``None`` if unknown.
        sha256: hexadecimal digest; ``None`` if unknown.
        by: who says so, for messages.
    """

    size: int | None = None
    sha256: str | None = None
    by: str = "nobody"


Lock = dict[str, dict[str, Expected]]


def read_lock(path: str | Path) -> Lock:
    """Read a lock sheet: row name to file name to what it must be. No sheet is an empty one.

    Raises:
        RecapError: naming file and line of whatever is wrong.
    """
    lock: Lock = {}
    if not Path(path).is_file():
        return lock
    with Path(path).open(encoding="utf-8", newline="") as stream:
        lines = [(n, line) for n, line in enumerate(stream, 1) if line[:1] != "#" and line.strip()]
    cells = list(csv.reader((line for _, line in lines), delimiter="\t"))
    if cells and tuple(cells[0]) != COLUMNS:
        raise RecapError(f"{path}: the columns must be {', '.join(COLUMNS)}")
    for (number, _), values in zip(lines[1:], cells[1:], strict=True):
        if len(values) != len(COLUMNS):
            raise RecapError(f"{path}, line {number}: not as many cells as columns")
        row, file, size, digest = values
        if not size.isdigit() or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise RecapError(f"{path}, line {number}: `{size}` bytes, sha256 `{digest}`")
        files = lock.setdefault(row, {})
        if file in files:
            raise RecapError(f"{path}, line {number}: {file} of {row} is listed twice")
        files[file] = Expected(int(size), digest, str(path))
    return lock


def update_lock(path: str | Path, rows: Mapping[str, Mapping[str, Expected]]) -> None:
    """Write rows into a lock sheet, in place of what it says about them so far."""
    lock = {**read_lock(path), **{name: dict(files) for name, files in rows.items()}}
    lines = ["\t".join(COLUMNS)]
    for row in sorted(lock):
        for file in sorted(lock[row]):
            entry = lock[row][file]
            lines.append(f"{row}\t{file}\t{entry.size}\t{entry.sha256}")
    write_text(path, _HEAD + "\n".join(lines) + "\n")


def compare(path: Path, expected: Expected) -> tuple[Expected, str]:
    """Measure a file and compare it with what it must be.

    Returns:
        What the file is, and how it differs; nothing if it doesn't. The digest of a file
        of the wrong size is not computed.
    """
    if not path.is_file():
        return Expected(), "is missing"
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        return Expected(size), f"has {size} bytes, expected {expected.size} by {expected.by}"
    found = Expected(size, sha256_file(path))
    if expected.sha256 in (None, found.sha256):
        return found, ""
    return found, f"has sha256 {found.sha256}, expected {expected.sha256} by {expected.by}"


def report_unlocked(row: str, files: Iterable[str], sheet: str | Path) -> None:
    """Warn that files could not be compared with a lock sheet."""
    names = sorted(files)
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        logger.warning(
            "%s: NOT VERIFIED, %s lists no hash for %s; see `make lock-models`", row, sheet, shown
        )
