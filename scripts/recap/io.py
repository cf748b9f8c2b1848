"""Reading and writing files so that nothing is ever half-written.

Every writer fills a temporary file in the target's folder and renames it, so
that a killed process leaves either the old file or the new one.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from .errors import RecapError

_PIECE = 1 << 20  # characters read at a time
_AFTER_ELEMENT = (",", "]", " ", "\t", "\r", "\n")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it into place on success."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Jobs on other nodes may write the same file and have the same process id.
    temporary = target.with_name(f".{target.name}.{uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8 with Unix line ends, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def dump_json(value: Any) -> str:
    """Return indented JSON, non-ASCII kept, NaN refused."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, dump_json(value))


def write_evidence(path: str | Path, value: Any, *, passed: bool) -> None:
    """Write a gate's report; keep a copy of a failed one.

    Snakemake deletes the declared outputs of a failed job, the report with the
    reason among them. The copy, ``<name>.failed.json``, stays until the gate passes.
    """
    write_json(path, value)
    copy = Path(path).with_suffix(".failed.json")
    if passed:
        copy.unlink(missing_ok=True)
    else:
        write_json(copy, value)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        RecapError: if the file is missing or is not JSON, with its name.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecapError(f"{path} does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecapError(f"{path} is not valid JSON: {error}") from error


def iter_json_array(path: str | Path) -> Iterator[Any]:
    """Yield the elements of a JSON array, holding little more than one at a time.

    Raises:
        RecapError: if the file is missing, is not JSON or not an array.
    """
    if not Path(path).is_file():
        raise RecapError(f"{path} does not exist")
    try:
        with Path(path).open(encoding="utf-8") as stream:
            yield from _ArrayReader(stream).elements()
    except (ValueError, RecursionError) as error:
        raise RecapError(f"{path} is not a JSON array: {error}") from error


class _ArrayReader:
    """Decodes an array's elements from a text stream, a piece at a time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._buffer = ""
        self._place = 0
        self._ended = False
        self._decoder = json.JSONDecoder()

    def elements(self) -> Iterator[Any]:
        self._expect("[")
        if self._peek() == "]":
            self._place += 1
        else:
            yield self._element()
            while self._peek() == ",":
                self._place += 1
                yield self._element()
            self._expect("]")
        if extra := self._peek():
            raise ValueError(f"{extra!r} after the array")

    def _element(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._place)
            except json.JSONDecodeError:
                if self._ended:
                    raise
            else:
                # A number may go on in the next piece; what may follow an element ends it.
                if self._ended or self._buffer[end : end + 1] in _AFTER_ELEMENT:
                    self._place = end
                    return value
            self._read()

    def _expect(self, wanted: str) -> None:
        found = self._peek()
        if found != wanted:
            raise ValueError(f"found {found!r} instead of {wanted!r}")
        self._place += 1

    def _peek(self) -> str:
        """Return the next character that is not white space, or nothing at the end."""
        while True:
            while self._place < len(self._buffer) and self._buffer[self._place] in " \t\r\n":
                self._place += 1
            if self._place < len(self._buffer) or self._ended:
                return self._buffer[self._place : self._place + 1]
            self._read()

    def _read(self) -> None:
        # As much again as is left over: an element longer than a piece is tried few times.
        rest = self._buffer[self._place :]
        piece = self._stream.read(max(_PIECE, len(rest)))
        self._ended = not piece
        self._buffer, self._place = rest + piece, 0


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one compact JSON object a line, atomically; return the number of rows."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def iter_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file that the pipeline itself wrote.

    Raw user input goes through ``recap.curate.validate`` instead, which
    quarantines bad lines.

    Raises:
        RecapError: at the first line that is not a JSON object, with its number.
    """
    for _, row in numbered_jsonl(path):
        yield row


def numbered_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSONL file; see :func:`iter_jsonl`."""
    if not Path(path).is_file():
        raise RecapError(f"{path} does not exist")
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RecapError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise RecapError(f"{path}, line {number}: expected an object")
        yield number, row


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    # Bytes are decoded line by line: a text stream reads ahead, past the line at fault.
    with Path(path).open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise RecapError(
                    f"{path}, line {number}: not UTF-8 ({error}); convert the file, for instance "
                    "with iconv"
                ) from error


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Read a whole JSONL file; see :func:`iter_jsonl`."""
    return list(iter_jsonl(path))
