"""A sample of old and new captions beside their image, for the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import stable_fraction
from ..io import iter_jsonl, write_jsonl
from .held_out import read_held_out
from .records import caption_of, iter_shards, read_records

Row = dict[str, Any]
_TRUTH = ("canonical", "corruption")
_SIMILARITIES = ("similarity_original", "similarity_new")


@dataclass(frozen=True)
class GalleryExtras:
    """What a corpus may know about its records beyond their captions.

    Attributes:
        truth: JSONL of rows ``{id, canonical, corruption}``: what the picture
            shows, and how its raw caption was spoilt. Drawn corpora have it.
        decisions: files of ``apply_caption_policy.py --decisions``, with the
            similarity of the picture to either caption.
        similarity: tables of ``score_similarity.py``, for policies that do not read
            them and so leave no similarity in their decisions.
        held_out: ids that are not shown, as no arm trains on them or dropped them.
    """

    truth: str | Path | None = None
    decisions: Sequence[str | Path] = ()
    held_out: str | Path | None = None
    similarity: Sequence[str | Path] = ()


def build_gallery(
    records: list[str | Path],
    *,
    captions: list[str | Path],
    kept: str | Path,
    size: int,
    seed: int,
    out: str | Path,
    extras: GalleryExtras | None = None,
) -> list[Row]:
    """Write ``size`` rows ``{id, image, original_text, new_text, kept, replaced}``.

    The choice depends on (seed, id) alone; rows stay in corpus order. Both
    texts are bare captions; ``kept`` tells whether the record is in the arm,
    ``replaced`` whether the arm trains on the new text. Where ``extras`` know
    them, rows also carry ``truth``, ``corruption``, ``similarity_original`` and
    ``similarity_new`` (cosines of image and text).

    Raises:
        RecapError: if a chosen record has no caption or no truth.
    """
    extras = extras or GalleryExtras()
    left_out = set(read_held_out(extras.held_out)) if extras.held_out is not None else set()
    rows = [row for row in iter_shards(records) if row["id"] not in left_out]
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
    sources = {row["id"]: row.get("caption_source", "original") for row in read_records(kept)}
    known = _known(extras, chosen)
    gallery = [
        {
            "id": row["id"],
            "image": row["images"][0],
            "original_text": caption_of(row["text"]),
            "new_text": new[row["id"]].strip(),
            "kept": row["id"] in sources,
            "replaced": sources.get(row["id"], "original") != "original",
            **known[row["id"]],
        }
        for row in rows
        if row["id"] in chosen
    ]
    write_jsonl(out, gallery)
    return gallery


def _known(extras: GalleryExtras, chosen: set[str]) -> dict[str, Row]:
    known: dict[str, Row] = {identity: {} for identity in chosen}
    if extras.truth is not None:
        found = {row.get("id"): row for row in iter_jsonl(extras.truth)}
        for identity in sorted(chosen):
            row = found.get(identity, {})
            if lacking := [name for name in _TRUTH if name not in row]:
                raise RecapError(f"{extras.truth}: id {identity!r} lacks {', '.join(lacking)}")
            known[identity] |= {"truth": row["canonical"], "corruption": row["corruption"]}
    for table in extras.similarity:
        _add_similarities(known, table)
    for path in extras.decisions:
        for row in iter_jsonl(path):
            if row["id"] in chosen:
                known[row["id"]] |= {
                    name: round(float(row[name]), 4)
                    for name in _SIMILARITIES
                    if row.get(name) is not None
                }
    return known


def _add_similarities(known: dict[str, Row], table: str | Path) -> None:
    """Add the cosines of a table to the rows it covers; unknown ones are left out."""
    from .similarity import read_similarity

    found = read_similarity(table)
    for place, identity in enumerate(found.ids):
        if identity in known:
            values = {name: float(found.columns[name][place]) for name in _SIMILARITIES}
            known[identity] |= {k: round(v, 4) for k, v in values.items() if not isnan(v)}
