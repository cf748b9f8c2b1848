"""Reading and writing files so that nothing is ever half-written.

Every writer fills a temporary file in the target's folder and renames it, so
that a killed process leaves either the old file or the new one.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from .errors import RecapError


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
    if not Path(path).is_file():
        raise RecapError(f"{path} does not exist")
    with Path(path).open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise RecapError(f"{path}, line {number}: not valid JSON ({error})") from error
            if not isinstance(row, dict):
                raise RecapError(f"{path}, line {number}: expected an object")
            yield row


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Read a whole JSONL file; see :func:`iter_jsonl`."""
    return list(iter_jsonl(path))
