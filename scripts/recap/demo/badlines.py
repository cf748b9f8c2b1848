"""Corpus lines that must never enter a training set, one builder for each kind."""

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LONG_CAPTION_CHARS = 1_000_000
BOMB_SIDE = 30_000


@dataclass(frozen=True)
class BadLine:
    """One unfit line.

    Attributes:
        kind: its name in ``bad_lines.json``.
        data: the bytes of the line, without the line end.
        id: the record's id, where a reader of the line can tell it.
        files: images the line needs, by path relative to the corpus.
    """

    kind: str
    data: bytes
    id: str | None
    files: dict[str, bytes]


@dataclass(frozen=True)
class Ingredients:
    """What a bad line is made from: a record that would be fine, and an earlier one's id."""

    id: str
    caption: str
    jpeg: bytes
    earlier_id: str

    @property
    def image(self) -> str:
        """Return the path of the record's own image, relative to the corpus."""
        return f"images/{self.id[:5]}/{self.id}.jpg"


def chunk(caption: str) -> str:
    """Return the Data-Juicer text of one image and its caption."""
    return f"<__dj__image>\n{caption} <|__dj__eoc|>"


def encode_record(record: dict[str, Any]) -> bytes:
    """Return a record as one line of JSON, without the line end."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8")


def make_bad_line(kind: str, parts: Ingredients) -> BadLine:
    """Return the bad line of ``kind``, one of ``BAD_KINDS``."""
    return _BUILDERS[kind](kind, parts)


def _fine(parts: Ingredients) -> dict[str, Any]:
    return {"id": parts.id, "text": chunk(parts.caption), "images": [parts.image]}


def _malformed(kind: str, parts: Ingredients) -> BadLine:
    data = encode_record(_fine(parts))
    return BadLine(kind, data[: len(data) * 2 // 3], None, {parts.image: parts.jpeg})


def _without(key: str) -> Callable[[str, Ingredients], BadLine]:
    def build(kind: str, parts: Ingredients) -> BadLine:
        record = _fine(parts)
        del record[key]
        name = None if key == "id" else parts.id
        return BadLine(kind, encode_record(record), name, {parts.image: parts.jpeg})

    return build


def _with(
    changes: Callable[[Ingredients], dict[str, Any]],
) -> Callable[[str, Ingredients], BadLine]:
    def build(kind: str, parts: Ingredients) -> BadLine:
        record = _fine(parts) | changes(parts)
        return BadLine(kind, encode_record(record), record["id"], {parts.image: parts.jpeg})

    return build


def _with_image(
    make: Callable[[Ingredients], bytes | None], suffix: str = ".jpg"
) -> Callable[[str, Ingredients], BadLine]:
    def build(kind: str, parts: Ingredients) -> BadLine:
        path = parts.image.removesuffix(".jpg") + suffix
        content = make(parts)
        record = _fine(parts) | {"images": [path]}
        files = {} if content is None else {path: content}
        return BadLine(kind, encode_record(record), parts.id, files)

    return build


def _not_utf8(kind: str, parts: Ingredients) -> BadLine:
    record = _fine(parts) | {"text": chunk(f"a café with {parts.caption}")}
    line = json.dumps(record, ensure_ascii=False).encode("latin-1")
    return BadLine(kind, line, None, {parts.image: parts.jpeg})


def bomb_png() -> bytes:
    """Return a PNG of a few hundred bytes whose header promises 30,000 x 30,000 pixels."""

    def block(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(65_536), 9)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + block(b"IHDR", header) + block(b"IDAT", pixels) + block(b"IEND", b"")


def _long_caption(parts: Ingredients) -> str:
    sentence = parts.caption + " and "
    return (sentence * (LONG_CAPTION_CHARS // len(sentence) + 1))[:LONG_CAPTION_CHARS]


_BUILDERS: dict[str, Callable[[str, Ingredients], BadLine]] = {
    "malformed_json": _malformed,
    "missing_id": _without("id"),
    "missing_text": _without("text"),
    "missing_images": _without("images"),
    "duplicate_id": _with(lambda parts: {"id": parts.earlier_id}),
    "missing_image": _with_image(lambda _: None),
    "truncated_image": _with_image(lambda parts: parts.jpeg[: len(parts.jpeg) * 2 // 5]),
    "empty_image": _with_image(lambda _: b""),
    "decompression_bomb": _with_image(lambda _: bomb_png(), ".png"),
    "absolute_path": _with(lambda _: {"images": ["/etc/hostname"]}),
    "parent_path": _with(lambda parts: {"images": [f"../{parts.image}"]}),
    "empty_caption": _with(lambda _: {"text": chunk("")}),
    "two_image_tokens": _with(lambda parts: {"text": "<__dj__image>\n" + chunk(parts.caption)}),
    "not_utf8": _not_utf8,
    "long_caption": _with(lambda parts: {"text": chunk(_long_caption(parts))}),
}
BAD_KINDS = tuple(_BUILDERS)
