"""The append-only record of a shard's answers, from which a killed shard goes on."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RecapError
from ..hashing import digest_json

logger = logging.getLogger(__name__)

Key = tuple[str, str]


class AnswerJournal:
    """Texts by question key, safe on disk as soon as :meth:`append` returns."""

    def __init__(self, stream: BinaryIO, texts: dict[Key, str]) -> None:
        """Wrap an open file positioned at its end; use :func:`open_journal`."""
        self._stream = stream
        self.texts = texts

    def append(self, answers: Mapping[Key, str]) -> None:
        """Write the answers of one batch, flush and fsync."""
        for (question_id, prompt), text in answers.items():
            row = {"question_id": question_id, "prompt": prompt, "text": text}
            self._stream.write(_line(row))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.texts.update(answers)


@contextmanager
def open_journal(folder: Path, name: str, identity: Mapping[str, Any]) -> Iterator[AnswerJournal]:
    """Open the journal of a shard, with the answers it already holds.

    The file is named by the shard and by a digest of ``identity``, so answers
    of another model, protocol or question file are never taken up. A torn or
    unreadable line and what follows it are cut off; those questions are asked
    again.

    Args:
        folder: the state folder, outside all declared outputs.
        name: the shard, for instance ``3_0``.
        identity: everything an answer depends on; the first line of the file.

    Raises:
        RecapError: if another process has the same journal open.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.{digest_json(identity)[:16]}.jsonl"
    with path.open("a+b") as stream:
        _lock(stream, path)
        texts = _recover(stream, path, identity)
        yield AnswerJournal(stream, texts)


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def _lock(stream: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RecapError(
            f"{path} is being written by another process; wait for it, or end it first"
        ) from error
    except OSError as error:
        logger.warning("%s: this file system has no locks (%s)", path, error)


def _recover(stream: BinaryIO, path: Path, identity: Mapping[str, Any]) -> dict[Key, str]:
    """Return the answers of all good lines; truncate the file after them."""
    stream.seek(0)
    lines = stream.read().splitlines(keepends=True)
    header = _line(dict(identity))
    texts: dict[Key, str] = {}
    good = 0
    if lines and lines[0] == header:
        good = len(header)
        for line in lines[1:]:
            row = _parse(line)
            if row is None:
                break
            texts[str(row["question_id"]), row["prompt"]] = row["text"]
            good += len(line)
    torn = sum(len(line) for line in lines) - good
    if torn:
        logger.warning("%s: cut off %d torn bytes at the end", path, torn)
        stream.truncate(good)
    stream.seek(0, os.SEEK_END)
    if not good:
        stream.write(header)
        stream.flush()
        os.fsync(stream.fileno())
    return texts


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None
    wanted = isinstance(row, dict) and {"question_id", "prompt", "text"} == set(row)
    return row if wanted else None
