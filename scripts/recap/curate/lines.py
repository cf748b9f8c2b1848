"""Turning one raw line into a record, or into the reason why it is none."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..settings import ValidateSettings
from .images import Problem
from .records import (
    END_OF_CHUNK,
    IMAGE_TOKEN,
    RECORD_KEYS,
    Record,
    caption_of,
    is_relative_inside,
    special_tokens_in,
)

_BOM = b"\xef\xbb\xbf"
_ID_CHARS = 256


def iter_raw_lines(path: str | Path, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield (physical line number, bytes) of every non-blank line.

    A line longer than ``max_bytes`` yields ``None`` and is skipped without ever
    being held in memory.
    """
    with Path(path).open("rb") as stream:
        number = 0
        while raw := stream.readline(max_bytes + 1):
            number += 1
            if number == 1:
                raw = raw.removeprefix(_BOM)
            if len(raw) > max_bytes and not raw.endswith(b"\n"):
                while raw and not raw.endswith(b"\n"):
                    raw = stream.readline(1 << 20)
                yield number, None
            elif raw.strip():
                yield number, raw


def parse_line(
    raw: bytes | None, settings: ValidateSettings
) -> tuple[Record | None, Problem | None, str | None, list[str]]:
    """Check everything about a line that needs no file.

    Returns:
        The record with ``id`` as a string, or ``None``; the problem, or
        ``None``; the id as far as it could be read; and the keys beyond the
        three of a record, which are not kept.
    """
    if raw is None:
        limit = settings.max_line_bytes
        fix = "shorten the line, or raise max_line_bytes"
        return None, Problem("line-too-long", f"longer than {limit} bytes", fix), None, []
    value, problem = _parse_json(raw)
    if problem:
        return None, problem, None, []
    identity, problem = _check_id(value)
    problem = problem or _check_text(value, settings) or _check_images(value)
    if problem or identity is None:
        return None, problem, identity, []
    record = {"id": identity, "text": value["text"], "images": value["images"]}
    return record, None, identity, [key for key in value if key not in RECORD_KEYS]


def _parse_json(raw: bytes) -> tuple[dict[str, Any], Problem | None]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return {}, Problem("not-utf8", str(error), "convert the file to UTF-8")
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        return {}, Problem("bad-unicode", str(error), "replace the lone surrogate escape")
    except (ValueError, RecursionError) as error:
        return {}, Problem("malformed-json", str(error), "write one JSON object a line")
    if not isinstance(value, dict):
        kind = type(value).__name__
        return {}, Problem("not-an-object", f"found {kind}", "write one JSON object a line")
    return value, None


def _check_id(value: dict[str, Any]) -> tuple[str | None, Problem | None]:
    fix = "give each record a unique, non-empty string id"
    if value.get("id") is None:
        return None, Problem("missing-id", "no `id`", fix)
    identity = value["id"]
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        return None, Problem("bad-id", f"`id` is {type(identity).__name__}", fix)
    name = str(identity)
    if not name.strip() or not name.isprintable() or len(name) > _ID_CHARS:
        return None, Problem("bad-id", f"`id` is {identity!r}", fix)
    return name, None


def _check_text(value: dict[str, Any], settings: ValidateSettings) -> Problem | None:
    layout = f"write `{IMAGE_TOKEN}\\ncaption {END_OF_CHUNK}`"
    text = value.get("text")
    if text is None:
        return Problem("missing-text", "no `text`", layout)
    if not isinstance(text, str):
        return Problem("bad-text", f"`text` is {type(text).__name__}", layout)
    tokens = text.count(IMAGE_TOKEN)
    if tokens != 1:
        slug = "no-image-token" if tokens == 0 else "many-image-tokens"
        return Problem(slug, f"{tokens} image tokens in `text`", layout)
    return _check_caption(caption_of(text), settings, layout)


def _check_caption(caption: str, settings: ValidateSettings, layout: str) -> Problem | None:
    if not caption:
        return Problem("empty-caption", "nothing but special tokens in `text`", layout)
    if len(caption) > settings.max_caption_chars:
        return Problem(
            "caption-too-long",
            f"{len(caption)} characters, above {settings.max_caption_chars}",
            "shorten the caption, or raise max_caption_chars",
        )
    if stray := special_tokens_in(caption):
        return Problem("stray-token", f"{', '.join(stray)} inside the caption", layout)
    return None


def _check_images(value: dict[str, Any]) -> Problem | None:
    fix = 'write `"images": ["folder/name.jpg"]`, relative to the folder of the JSONL file'
    if value.get("images") is None:
        return Problem("missing-images", "no `images`", fix)
    images = value["images"]
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        return Problem("bad-images", "`images` is not a list of strings", fix)
    if len(images) != 1:
        slug = "no-image" if not images else "many-images"
        return Problem(slug, f"{len(images)} images", fix)
    if not is_relative_inside(images[0]):
        return Problem("unsafe-path", f"{images[0]!r} is absolute, empty or climbs with `..`", fix)
    return None
