"""Data-Juicer records: special tokens, text layouts, image paths.

A record is a JSON object with ``id``, ``text`` and ``images``; its text is one
*chunk*: image token, caption, end-of-chunk token.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import iter_jsonl

IMAGE_TOKEN = "<__dj__image>"  # noqa: S105
END_OF_CHUNK = "<|__dj__eoc|>"
OTHER_TOKENS = ("<__dj__audio>", "<__dj__video>")
RECORD_KEYS = ("id", "text", "images")

Record = dict[str, Any]


def caption_of(text: str) -> str:
    """Return the bare caption of a one-image chunk.

    The end-of-chunk token is cut once from the end and the image token once
    from the start or, failing that, from the end; the rest is trimmed and
    otherwise left alone. This is the cleaning of Data-Juicer's own converter
    to the LLaVA format (its round 1 with one image kept).
    """
    value = text.strip()
    if value.endswith(END_OF_CHUNK):
        value = value[: -len(END_OF_CHUNK)].strip()
    if value.startswith(IMAGE_TOKEN):
        value = value[len(IMAGE_TOKEN) :].strip()
    if value.endswith(IMAGE_TOKEN):
        value = value[: -len(IMAGE_TOKEN)].strip()
    return value


def captioned_text(caption: str) -> str:
    r"""Return the text layout of Data-Juicer's captioning operator.

    The caption is put between single spaces and not trimmed, so a BLIP-2
    caption that ends in ``\n`` gives ``<__dj__image> caption\n <|__dj__eoc|>``.
    """
    return f"{IMAGE_TOKEN} {caption} {END_OF_CHUNK}"


def original_text(caption: str) -> str:
    """Return the text layout of the seed corpus: token, newline, caption, space, token."""
    return f"{IMAGE_TOKEN}\n{caption} {END_OF_CHUNK}"


def special_tokens_in(caption: str) -> list[str]:
    """Return the tokens a caption may not contain but does.

    ``<image>`` is the image placeholder of the LLaVA format: inside a caption
    it would be taken for a second image.
    """
    return [t for t in (IMAGE_TOKEN, END_OF_CHUNK, *OTHER_TOKENS, "<image>") if t in caption]


def is_relative_inside(path: str) -> bool:
    """Tell whether an image path is relative and never climbs with ``..``."""
    return (
        bool(path) and not path.startswith("/") and ".." not in path.split("/") and "\0" not in path
    )


def read_records(path: str | Path) -> list[Record]:
    """Read records the pipeline wrote; see :func:`iter_records`."""
    return list(iter_records(path))


def iter_records(path: str | Path) -> Iterator[Record]:
    """Yield records the pipeline wrote, checking ids, keys and path safety.

    Only the ids are held, to tell whether one comes back.

    Raises:
        RecapError: at the first record that lacks a key, has an unsafe image
            path or repeats an id, with file and id.
    """
    seen: set[str] = set()
    for number, record in enumerate(iter_jsonl(path), start=1):
        identity = record.get("id")
        if not isinstance(identity, str) or any(key not in record for key in RECORD_KEYS):
            raise RecapError(
                f"{path}, record {number}: needs a string `id`, `text` and `images`; "
                "run validate_corpus.py on raw data first"
            )
        if identity in seen:
            raise RecapError(f"{path}, record {number}: id {identity!r} appears twice")
        if not all(is_relative_inside(image) for image in record["images"]):
            raise RecapError(f"{path}, id {identity!r}: image paths must stay below the image root")
        seen.add(identity)
        yield record


def iter_shards(
    paths: Iterable[str | Path], owner: dict[str, str] | None = None
) -> Iterator[Record]:
    """Yield the records of several shard files in order.

    Args:
        paths: the files.
        owner: filled with each id's file, in order.

    Raises:
        RecapError: as :func:`iter_records`, and for an id in two shards.
    """
    owner = {} if owner is None else owner
    for path in paths:
        name = str(path)
        for record in iter_records(path):
            identity = record["id"]
            if identity in owner:
                raise RecapError(
                    f"{path}: id {identity!r} is already in {owner[identity]}; "
                    "the shards must come from one split"
                )
            owner[identity] = name
            yield record


def ids_of_shards(paths: Iterable[str | Path]) -> dict[str, str]:
    """Return the ids of several shard files in order, each with its file; none may come twice."""
    owner: dict[str, str] = {}
    for _ in iter_shards(paths, owner):
        pass
    return owner


def check_caption_ids(
    rows: list[Record], new: list[dict[str, Any]], records: str, captions: str
) -> None:
    """Check that captions belong to records one to one, in order.

    Raises:
        RecapError: with the first record at which they differ.
    """
    wanted, given = [row["id"] for row in rows], [entry.get("id") for entry in new]
    if wanted == given:
        return
    place = next(
        (i for i, (a, b) in enumerate(zip(wanted, given, strict=False)) if a != b),
        min(len(wanted), len(given)),
    )
    raise RecapError(
        f"{captions} has {len(given)} captions for the {len(wanted)} records of {records} and "
        f"differs from record {place + 1} on; caption the shard again"
    )
