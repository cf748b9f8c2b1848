"""A sample of old and new captions beside their image, for the report."""

from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import stable_fraction
from ..io import iter_jsonl, write_jsonl
from .records import caption_of, iter_shards, read_records


def build_gallery(
    records: list[str | Path],
    *,
    captions: list[str | Path],
    kept: str | Path,
    size: int,
    seed: int,
    out: str | Path,
) -> list[dict[str, Any]]:
    """Write ``size`` rows ``{id, image, original_text, new_text, kept}``.

    The choice depends on (seed, id) alone; rows stay in corpus order. Both
    texts are bare captions; ``kept`` tells whether the record is in the arm.

    Raises:
        RecapError: if a chosen record has no caption.
    """
    rows = list(iter_shards(records))
    order = sorted(rows, key=lambda row: (stable_fraction("gallery", seed, row["id"]), row["id"]))
    chosen = {row["id"] for row in order[:size]}
    new = {
        entry["id"]: entry["caption"]
        for path in captions
        for entry in iter_jsonl(path)
        if entry["id"] in chosen
    }
    if missing := sorted(chosen - set(new)):
        raise RecapError(f"no caption for id {missing[0]!r} ({len(missing)} in all)")
    survivors = {row["id"] for row in read_records(kept)}
    gallery = [
        {
            "id": row["id"],
            "image": row["images"][0],
            "original_text": caption_of(row["text"]),
            "new_text": new[row["id"]].strip(),
            "kept": row["id"] in survivors,
        }
        for row in rows
        if row["id"] in chosen
    ]
    write_jsonl(out, gallery)
    return gallery
